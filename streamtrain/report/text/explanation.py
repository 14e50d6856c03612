"""Why one minibatch size beats another, in plain words and the run's own figures: steps,
Goodfellow's √m, noise, Keskar's sharpness.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamtrain.base.units import format_count
from streamtrain.report.number_format import (
    loss_figure_text,
    loss_text,
    rate_text,
    size_text,
    target_word,
    times_text,
)
from streamtrain.report.text.facts import scale_text
from streamtrain.science.landmarks import FEW_STEPS

Summary = Mapping[str, Any]

#: Sharpness of the largest size this many times the smallest's, or the inverse, is called a
#: difference: a lower bound says no more.
_SHARPER = 2.0

#: A loss less than this many times smaller is not called better.
_LITTLE_BETTER = 1.1


def explain(summary: Summary) -> list[str]:
    """Sentences for the report, as far as the run can tell; none for a run of one size."""
    if len(summary["cells"]) < 2:
        return []
    return [
        *_steps(summary),
        *_tuned(summary),
        *_sqrt_m(summary),
        *_noise(summary),
        *_sharpness(summary),
    ]


def _steps(summary: Summary) -> Iterator[str]:
    """The observation itself: the same rate, about the same steps, many more rows.

    At the hardest target that the largest size reached.
    """
    target, cells = _told_target(summary)
    reached = [cell for cell in cells if cell["status"] == "reached"]
    largest = max(cells, key=lambda cell: cell["batch_size"], default=None)
    if not reached or reached == [largest]:
        return
    each = "; ".join(_cost(cell) for cell in reached)
    yield (
        f"At the same learning rate ({rate_text(reached[0]['lr'])}) loss {target_word(target)}"
        f" took: {each}."
    )
    fewest = min(cell["steps_to_target"]["value"] for cell in reached)
    small = next(cell for cell in reached if cell["steps_to_target"]["value"] <= FEW_STEPS * fewest)
    if largest["status"] == "reached" and small is not largest:
        rows = largest["rows_to_target"]["value"] / small["rows_to_target"]["value"]
        yield (
            f"From {size_text(small['batch_size'])} to {size_text(largest['batch_size'])} the steps"
            f" hardly fall and the rows grow {times_text(rows)} times: a step of more rows is"
            " hardly a better step, and costs them all."
        )
    yield from _too_few(summary)
    judged = {cell["batch_size"]: cell for cell in _cells(summary, "fixed")}
    yield from _step_for_step(summary, judged[small["batch_size"]], judged[largest["batch_size"]])


def _told_target(summary: Summary) -> tuple[float | None, Sequence[Mapping[str, Any]]]:
    """(target, cells at the same rate): the smallest that the largest size reached, else the judged
    one.
    """
    cells = _cells(summary, "fixed")
    known = [(summary["target_loss"], cells)]
    if summary["lr_rules"][0] == "fixed":
        known += [
            (other["target_loss"], other["cells"]) for other in summary.get("other_targets", ())
        ]
    all_reached = [
        one
        for one in known
        if one[1] and max(one[1], key=lambda cell: cell["batch_size"])["status"] == "reached"
    ]
    target, cells = min(all_reached or known[:1], key=lambda one: one[0] or 0.0)
    return target, sorted(cells, key=lambda cell: cell["batch_size"])


def _too_few(summary: Summary) -> Iterator[str]:
    """The sizes that did not arrive at the judged target had too few updates."""
    missed = [
        cell["batch_size"] for cell in _cells(summary, "fixed") if cell["status"] == "not_reached"
    ]
    if missed and summary["train_rows"] and summary["target_loss"] is not None:
        steps = ", ".join(
            f"{format_count(summary['train_rows'] // size).strip()} steps of {size_text(size)}"
            for size in sorted(missed)
        )
        yield (
            f"{format_count(summary['train_rows']).strip()} rows are only {steps}: too few updates"
            f" to reach loss {target_word(summary['target_loss'])}, however exact each is."
        )


def _step_for_step(
    summary: Summary, small: Mapping[str, Any], large: Mapping[str, Any]
) -> Iterator[str]:
    """The losses of both after the same number of steps."""
    steps, losses = (
        summary.get("holdout_loss_at_steps"),
        [cell.get("holdout_loss_at_steps") or {"value": None} for cell in (small, large)],
    )
    if not steps or any(loss["value"] is None for loss in losses):
        return
    ratio = losses[1]["value"] / losses[0]["value"]
    alike = "no better" if ratio > 1 / _LITTLE_BETTER else f"{times_text(1 / ratio)} times better"
    yield (
        f"After {steps:,} steps each, {size_text(small['batch_size'])} is at loss"
        f" {loss_figure_text(losses[0])} and {size_text(large['batch_size'])} at"
        f" {loss_figure_text(losses[1])}: {times_text(large['batch_size'] / small['batch_size'])}"
        f" times the rows a step, and {alike}."
    )


def _tuned(summary: Summary) -> Iterator[str]:
    """What tuning the rate at every size gives back."""
    tuned = {
        cell["batch_size"]: cell for cell in _cells(summary, "tuned") if cell["status"] == "reached"
    }
    if "fixed" not in summary["lr_rules"] or len(tuned) < 2:
        return
    small, large = tuned[min(tuned)], tuned[max(tuned)]
    rows = large["rows_to_target"]["value"] / small["rows_to_target"]["value"]
    yield (
        f"With the rate tuned at every size, loss {target_word(summary['target_loss'])} took:"
        f" {_cost(small)} (rate {rate_text(small['lr'])}); {_cost(large)} (rate"
        f" {rate_text(large['lr'])}). {size_text(large['batch_size'])} still reads"
        f" {times_text(rows)} times the rows."
    )


def _sqrt_m(summary: Summary) -> Iterator[str]:
    """Goodfellow's law: what it predicts for the sizes that were averaged, what was measured, and
    what that buys.
    """
    slope = (summary["measures"] or {}).get("sqrt_m_slope")
    if not slope or slope.get("value") is None or slope.get("lo") is None:
        return
    lo, hi = slope["lo"], slope["hi"]
    agrees = "as" if lo <= -0.5 <= hi else "less steeply than" if lo > -0.5 else "more steeply than"
    text = (
        "The standard deviation of the gradient fell with the rows m averaged as"
        f" m^{slope['value']:.2f} [{lo:.2f}, {hi:.2f}], {agrees} Goodfellow's"
    )
    text += " √m law says (-0.50)"
    sizes, sds = slope.get("sizes") or (), slope.get("sd") or ()
    if len(sizes) > 1 and sds[-1]:
        more = sizes[-1] / sizes[0]
        text += (
            f": {times_text(more)} times the rows made it {times_text(sds[0] / sds[-1])} times as"
            f" exact, {times_text(more**0.5)} by the law"
        )
    yield f"{text}. So 100 times the rows buy a gradient 10 times as exact, at 100 times the cost."


def _noise(summary: Summary) -> Iterator[str]:
    scale = (summary["measures"] or {}).get("noise_scale")
    if scale and (text := scale_text(scale)):
        where = (
            f" at the end of the training of {size_text(scale['batch_size'])}"
            if scale.get("batch_size")
            else ""
        )
        yield (
            f"Noise and signal of the gradient balance at {text} rows{where}: beyond that a larger"
            " minibatch hardly changes the direction."
        )


def _sharpness(summary: Summary) -> Iterator[str]:
    """Keskar's claim: at equal loss where sizes were trained to the target, else of the models as
    training left them.
    """
    found = (summary["measures"] or {}).get("sharpness") or {}
    # the one with the largest minibatch, and of those the deepest
    if at_targets := found.get("at_targets"):
        equal = max(
            at_targets, key=lambda one: (max(map(int, one["by_batch_size"])), -one["target_loss"])
        )
        sizes = sorted(map(int, equal["by_batch_size"]))
        phi, adaptive, curvature = (
            equal["largest_over_smallest"][name] for name in ("phi", "adaptive", "curvature")
        )
        yield (
            f"Trained to the same loss ({target_word(equal['target_loss'])}),"
            f" {size_text(sizes[-1])} is {_ratio(phi)} times as sharp as {size_text(sizes[0])} by"
            f" Keskar's φ ({_ratio(adaptive)} by the adaptive one, {_ratio(curvature)} by the"
            f" largest curvature): {_trend(phi)}. Sharpness never enters the recommendation."
        )
        return
    each = found.get("by_batch_size") or {}
    values = {int(size): one["value"] for size, one in each.items() if one.get("value")}
    if len(values) < 2:
        return
    small, large = min(values), max(values)
    trend = _trend({"value": values[large] / values[small], "lo": None, "hi": None})
    losses = {cell["batch_size"]: cell["holdout_loss"]["value"] for cell in summary["cells"]}
    unlike = (
        losses.get(small)
        and losses.get(large)
        and max(losses[small], losses[large]) > 1.5 * min(losses[small], losses[large])
    )
    caution = " (their losses differ, so these are not minima of one depth)" if unlike else ""
    adaptive = [
        next(iter((each[str(size)].get("adaptive") or {}).values()), {}).get("value")
        for size in (small, large)
    ]
    honest = (
        f" The adaptive one, which layers rescaled leave alone, is {loss_text(adaptive[0])} % and"
        f" {loss_text(adaptive[1])} %."
        if all(adaptive)
        else ""
    )
    yield (
        f"Keskar's sharpness is {loss_text(values[small])} % at {size_text(small)} and"
        f" {loss_text(values[large])} % at {size_text(large)}{caution}: {trend}.{honest} Sharpness"
        " never enters the recommendation."
    )


def _trend(ratio: Mapping[str, Any]) -> str:
    """In words: with an interval by whether it leaves out 1, without one by a factor of two."""
    lo, hi = (
        (ratio["value"] / _SHARPER, ratio["value"] * _SHARPER)
        if ratio["lo"] is None
        else (ratio["lo"], ratio["hi"])
    )
    if lo > 1:
        return "as Keskar et al. found"
    return (
        "the opposite of what Keskar et al. found"
        if hi < 1
        else "no difference that could be shown"
    )


def _ratio(found: Mapping[str, Any]) -> str:
    ends = "" if found["lo"] is None else f" [{found['lo']:.2f}, {found['hi']:.2f}]"
    return f"{found['value']:.2f}{ends}"


def _cells(summary: Summary, rule: str) -> Sequence[Mapping[str, Any]]:
    return summary["cells"] if summary["lr_rules"][0] == rule else summary["arms"].get(rule, ())


def _cost(cell: Mapping[str, Any]) -> str:
    steps, rows = (
        format_count(cell[f"{name}_to_target"]["value"]).strip() for name in ("steps", "rows")
    )
    return f"{size_text(cell['batch_size'])}: {steps} steps, {rows} rows"
