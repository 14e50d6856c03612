"""Why one minibatch size beats another, in plain words and the run's own figures.

The reasons are steps, Goodfellow's √m law, gradient noise, and Keskar's sharpness.
"""

from collections.abc import Iterator, Sequence

from streamtrain.base.units import format_count
from streamtrain.report.analysis import Summary, estimate_of, section
from streamtrain.report.measure_data import is_without_bounds
from streamtrain.report.number_format import (
    loss_figure_text,
    loss_text,
    rate_text,
    size_text,
    slower_figure_text,
    target_word,
    times_text,
)
from streamtrain.report.summary_parts import NOT_MEASURED, CellFigures, TargetCell
from streamtrain.report.text.facts import scale_text
from streamtrain.science.intervals import Estimate
from streamtrain.science.landmarks import FEW_STEPS
from streamtrain.types import Json

#: Sharpness is a lower bound, so without an interval only a ratio of at least this counts as a
#: difference between the largest and the smallest size.
_SHARPER = 2.0
#: A loss must be smaller by more than this factor to be called better.
_LITTLE_BETTER = 1.1
#: Minima whose losses differ by more than this factor are not called equally deep.
_UNLIKE = 1.5

AnyCell = CellFigures | TargetCell


def explain(summary: Summary) -> list[str]:
    """Return sentences for the report, as far as the run can tell; none for a run of one size."""
    if len(summary.cells) < 2:
        return []
    return [
        *_steps(summary),
        *_tuned(summary),
        *_grown(summary),
        *_sqrt_m(summary),
        *_noise(summary),
        *_sharpness(summary),
    ]


def _grown(summary: Summary) -> Iterator[str]:
    """Yield what came of a size that grows, where it was tried."""
    growing = summary.growing
    if growing is None:
        return
    tried = (
        f"A minibatch that grows ({growing.batch_schedule}, learning rate"
        f" {rate_text(growing.learning_rate)})"
    )
    if growing.slower_by.value is None:
        yield f"{tried} missed the target in some trials."
        return
    interval = slower_figure_text(growing.slower_by)
    if (growing.slower_by.lo or 0.0) > 0:
        yield f"{tried} is slower than the recommended size, by {interval} (90 %)."
    elif growing.wins:
        saved = _less_time(growing.slower_by)
        yield f"{tried} takes {saved} less time than the recommended size (90 %)."
    else:
        yield (
            f"{tried} is not certainly faster than the recommended size: slower by {interval}"
            " (90 %, negative is faster)."
        )


def _less_time(slower_by: Estimate) -> str:
    """Return the part of the time that is saved, with its interval, in percent."""
    least, most = -100 * (slower_by.hi or 0.0), -100 * (slower_by.lo or -1.0)
    return f"{-100 * (slower_by.value or 0.0):.0f} % [{least:.0f}, {most:.0f}]"


def _steps(summary: Summary) -> Iterator[str]:
    """Yield the observation itself: at the same rate, about the same steps but many more rows.

    The figures are those at the hardest target that the largest size reached.
    """
    target, cells = _hardest_target(summary)
    reached = [cell for cell in cells if cell.status == "reached"]
    if not reached or reached == [cells[-1]]:
        return
    largest = cells[-1]
    costs = "; ".join(_cost(cell) for cell in reached)
    yield (
        f"At the same learning rate ({rate_text(reached[0].lr)}) loss {target_word(target)}"
        f" took: {costs}."
    )
    fewest = min(_steps_of(cell) for cell in reached)
    small = next(cell for cell in reached if _steps_of(cell) <= FEW_STEPS * fewest)
    if largest.status == "reached" and small is not largest:
        rows = _rows_of(largest) / _rows_of(small)
        yield (
            f"From {size_text(small.batch_size)} to {size_text(largest.batch_size)} the steps"
            f" hardly fall and the rows grow {times_text(rows)} times: a step of more rows is"
            " hardly a better step, but costs more rows."
        )
    yield from _too_few(summary)
    judged = {cell.batch_size: cell for cell in summary.cells_of("fixed")}
    yield from _step_for_step(summary, judged[small.batch_size], judged[largest.batch_size])


def _hardest_target(summary: Summary) -> tuple[float | None, Sequence[AnyCell]]:
    """Return a target and the cells at the same rate, by size.

    It is the smallest target that the largest size reached, else the judged one.
    """
    targets: list[tuple[float | None, Sequence[AnyCell]]] = [
        (summary.target_loss, _by_size(summary.cells_of("fixed")))
    ]
    if summary.lr_rules[0] == "fixed":
        targets += [(other.target_loss, _by_size(other.cells)) for other in summary.other_targets]
    reached = [
        (target, cells) for target, cells in targets if cells and cells[-1].status == "reached"
    ]
    return min(reached or targets[:1], key=lambda pair: pair[0] or 0.0)


def _by_size(cells: Sequence[AnyCell]) -> Sequence[AnyCell]:
    return sorted(cells, key=lambda cell: cell.batch_size)


def _num_steps(rows: int, epoch_rows: int, size: int) -> int:
    """Return the steps of a training; the last one of an epoch takes the rows that are left.

    >>> _num_steps(27_770_624, 3_967_232, 1_000_000)
    28
    """
    epochs, rest = divmod(rows, epoch_rows)
    return epochs * -(-epoch_rows // size) + rest // size


def _too_few(summary: Summary) -> Iterator[str]:
    """Yield the sizes whose updates were too few to reach the judged target."""
    rows, cells = summary.train_rows, summary.cells_of("fixed")
    missed = sorted(cell.batch_size for cell in cells if cell.status == "not_reached")
    if missed and rows and summary.target_loss is not None:
        steps = ", ".join(
            f"{format_count(_num_steps(rows, summary.epoch_rows or rows, size))} steps of"
            f" {size_text(size)}"
            for size in missed
        )
        yield (
            f"{format_count(rows)} rows are only {steps}: too few updates"
            f" to reach loss {target_word(summary.target_loss)}, however exact each is."
        )


def _step_for_step(summary: Summary, small: CellFigures, large: CellFigures) -> Iterator[str]:
    """Yield the losses of both sizes after the same number of steps."""
    steps = summary.holdout_loss_at_steps
    small_loss, large_loss = small.holdout_loss_at_steps, large.holdout_loss_at_steps
    if not steps or small_loss.value is None or large_loss.value is None:
        return
    ratio = large_loss.value / small_loss.value
    better = f"{times_text(1 / ratio)} times better"
    gain = "no better" if ratio > 1 / _LITTLE_BETTER else better
    yield (
        f"After {steps:,} steps each, {size_text(small.batch_size)} is at loss"
        f" {loss_figure_text(small_loss)} and {size_text(large.batch_size)} at"
        f" {loss_figure_text(large_loss)}: {times_text(large.batch_size / small.batch_size)}"
        f" times the rows per step, and {gain}."
    )


def _tuned(summary: Summary) -> Iterator[str]:
    """Yield what tuning the rate at every size recovers."""
    tuned = [cell for cell in summary.cells_of("tuned") if cell.status == "reached"]
    if "fixed" not in summary.lr_rules or len(tuned) < 2:
        return
    small = min(tuned, key=lambda cell: cell.batch_size)
    large = max(tuned, key=lambda cell: cell.batch_size)
    rows = _rows_of(large) / _rows_of(small)
    yield (
        f"With the rate tuned at every size, loss {target_word(summary.target_loss)} took:"
        f" {_cost(small)} (rate {rate_text(small.lr)}); {_cost(large)} (rate"
        f" {rate_text(large.lr)}). {size_text(large.batch_size)} still reads"
        f" {times_text(rows)} times the rows."
    )


def _sqrt_m(summary: Summary) -> Iterator[str]:
    """Yield Goodfellow's √m law: its prediction, the measurement, and the gain."""
    measured = section(summary.measures, "sqrt_m_slope")
    slope = estimate_of(measured)
    if slope is None or slope.value is None or slope.lo is None or slope.hi is None:
        return
    agrees = "more steeply than"
    if slope.lo > -0.5:
        agrees = "less steeply than"
    elif slope.hi >= -0.5:
        agrees = "as"
    text = (
        "The standard deviation of the gradient fell with the rows m averaged as"
        f" m^{slope.value:.2f} [{slope.lo:.2f}, {slope.hi:.2f}], {agrees} Goodfellow's √m law says"
        " (-0.50)"
    )
    sizes, sds = measured.get("sizes", []), measured.get("sd", [])
    if len(sizes) > 1 and sds[-1]:
        more = sizes[-1] / sizes[0]
        text += (
            f": {times_text(more)} times the rows made it {times_text(sds[0] / sds[-1])} times as"
            f" exact, {times_text(more**0.5)} by the law"
        )
    yield f"{text}. So 100 times the rows buy a gradient 10 times as exact, at 100 times the cost."


def _noise(summary: Summary) -> Iterator[str]:
    scale = section(summary.measures, "noise_scale")
    if text := scale_text(found := estimate_of(scale)):
        where = ""
        if scale.get("batch_size"):
            where = f" at the end of the training of {size_text(scale['batch_size'])}"
        if found and is_without_bounds(found):
            yield f"The noise scale{where} is {text}."
            return
        yield (
            f"Noise and signal of the gradient balance at {text}{where}: beyond that a larger"
            " minibatch hardly changes the direction."
        )


def _sharpness(summary: Summary) -> Iterator[str]:
    """Yield how sharpness grows with the size, for comparison with Keskar's claim.

    Sizes are compared at equal loss where they were trained to the target, else as training left
    them.
    """
    sharpness = section(summary.measures, "sharpness")
    if at_targets := sharpness.get("at_targets"):
        yield _sharpness_at_target(at_targets)
        return
    by_size = section(sharpness, "by_batch_size")
    values = {int(size): entry["value"] for size, entry in by_size.items() if entry.get("value")}
    if len(values) < 2:
        return
    small, large = min(values), max(values)
    trend = _trend(Estimate(value=values[large] / values[small]))
    losses = {cell.batch_size: cell.holdout_loss.value for cell in summary.cells}
    small_loss, large_loss = losses.get(small), losses.get(large)
    caution = ""
    if small_loss and large_loss:
        low, high = sorted((small_loss, large_loss))
        if high > _UNLIKE * low:
            caution = " (their losses differ, so these minima are not equally deep)"
    adaptive = [_smallest_epsilon(by_size[str(size)].get("adaptive")) for size in (small, large)]
    rescaled = ""
    if all(adaptive):
        rescaled = (
            " The adaptive one, which does not change when layers are rescaled, is"
            f" {loss_text(adaptive[0])} % and {loss_text(adaptive[1])} %."
        )
    yield (
        f"Keskar's sharpness is {loss_text(values[small])} % at {size_text(small)} and"
        f" {loss_text(values[large])} % at {size_text(large)}{caution}: {trend}."
        f"{rescaled} Sharpness never enters the recommendation."
    )


def _sharpness_at_target(at_targets: Sequence[Json]) -> str:
    """Return one comparison at equal loss as text.

    Among several, that with the largest minibatch counts, and then that at the smallest loss.
    """
    comparison = max(
        at_targets,
        key=lambda entry: (max(map(int, entry["by_batch_size"])), -entry["target_loss"]),
    )
    sizes = sorted(map(int, comparison["by_batch_size"]))
    ratios = {
        name: estimate_of(ratio) or NOT_MEASURED
        for name, ratio in comparison["largest_over_smallest"].items()
    }
    phi = ratios["phi"]
    return (
        f"Trained to the same loss ({target_word(comparison['target_loss'])}),"
        f" {size_text(sizes[-1])} is {_ratio(phi)} times as sharp as {size_text(sizes[0])} by"
        f" Keskar's φ ({_ratio(ratios['adaptive'])} by the adaptive one,"
        f" {_ratio(ratios['curvature'])} by the largest curvature): {_trend(phi)}. Sharpness never"
        " enters the recommendation."
    )


def _smallest_epsilon(by_epsilon: Json | None) -> float | None:
    """Return the value at the smallest ε, which comes first."""
    return next(iter((by_epsilon or {}).values()), {}).get("value")


def _trend(ratio: Estimate) -> str:
    """Return the conclusion from a ratio of sharpness.

    An interval must exclude 1 to show a difference; without one, a factor of two is needed.
    """
    value = ratio.value or 0.0
    lo = value / _SHARPER if ratio.lo is None else ratio.lo
    hi = value * _SHARPER if ratio.hi is None else ratio.hi
    if lo > 1:
        return "as Keskar et al. found"
    if hi < 1:
        return "the opposite of what Keskar et al. found"
    return "no difference could be shown"


def _ratio(ratio: Estimate) -> str:
    if ratio.lo is None:
        return f"{ratio.value:.2f}"
    return f"{ratio.value:.2f} [{ratio.lo:.2f}, {ratio.hi:.2f}]"


def _steps_of(cell: AnyCell) -> float:
    """Return the steps to the target of a cell that reached it."""
    return cell.steps_to_target.value or 0.0


def _rows_of(cell: AnyCell) -> float:
    """Return the rows to the target of a cell that reached it."""
    return cell.rows_to_target.value or 0.0


def _cost(cell: AnyCell) -> str:
    steps, rows = format_count(_steps_of(cell)).strip(), format_count(_rows_of(cell)).strip()
    return f"{size_text(cell.batch_size)}: {steps} steps, {rows} rows"
