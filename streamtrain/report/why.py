"""Why one minibatch size beats another, in plain words and the run's own figures: steps, Goodfellow's √m, noise, Keskar's sharpness."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamtrain.report.facts import scale_text
from streamtrain.report.figures import loss_figure_text, loss_text, rate_text, size_text, target_word, times_text
from streamtrain.units import format_count

Summary = Mapping[str, Any]

#: Sharpness of the largest size this many times the smallest's, or the inverse, is called a difference: a lower bound says no more.
_SHARPER = 2.0

#: A loss less than this many times smaller is not called better.
_LITTLE_BETTER = 1.1


def explain(summary: Summary) -> list[str]:
    """Sentences for the report, as far as the run can tell; none for a run of one size."""
    if len(summary["cells"]) < 2:
        return []
    return [*_steps(summary), *_tuned(summary), *_sqrt_m(summary), *_noise(summary), *_sharpness(summary)]


def _steps(summary: Summary) -> Iterator[str]:
    """The observation itself: the same rate, about the same steps, many more rows."""
    cells = _cells(summary, "fixed")
    reached = [cell for cell in cells if cell["status"] == "reached"]
    if not reached:
        return
    chosen = [cell for cell in reached if cell["batch_size"] == summary["recommendation"]["batch_size"]]
    small = (chosen or [min(reached, key=lambda cell: cell["rows_to_target"]["value"])])[0]
    large = max(cells, key=lambda cell: cell["batch_size"])
    if large is small:
        return
    begin = f"At the same learning rate ({rate_text(small['lr'])}), {_cost(small)} to loss {target_word(summary['target_loss'])}; "
    if large["status"] == "reached":
        rows = large["rows_to_target"]["value"] / small["rows_to_target"]["value"]
        yield f"{begin}{_cost(large)}, {times_text(rows)} times the rows: a step of more rows is hardly a better step, and costs them all."
    elif summary["train_rows"]:
        steps = summary["train_rows"] // large["batch_size"]
        yield (
            f"{begin}{size_text(large['batch_size'])} got {format_count(steps).strip()} steps out of"
            f" {format_count(summary['train_rows']).strip()} rows, and was not there: it had too few updates, however exact each was."
        )
    yield from _step_for_step(summary, small, large)


def _step_for_step(summary: Summary, small: Mapping[str, Any], large: Mapping[str, Any]) -> Iterator[str]:
    """The losses of both after the same number of steps."""
    steps, losses = summary.get("holdout_loss_at_steps"), [cell.get("holdout_loss_at_steps") or {"value": None} for cell in (small, large)]
    if not steps or any(loss["value"] is None for loss in losses):
        return
    ratio = losses[1]["value"] / losses[0]["value"]
    alike = "no better" if ratio > 1 / _LITTLE_BETTER else f"{times_text(1 / ratio)} times better"
    yield (
        f"After {steps:,} steps each, {size_text(small['batch_size'])} is at loss {loss_figure_text(losses[0])} and {size_text(large['batch_size'])} at"
        f" {loss_figure_text(losses[1])}: {times_text(large['batch_size'] / small['batch_size'])} times the rows a step, and {alike}."
    )


def _tuned(summary: Summary) -> Iterator[str]:
    """What tuning the rate at every size gives back."""
    tuned = {cell["batch_size"]: cell for cell in _cells(summary, "tuned") if cell["status"] == "reached"}
    if "fixed" not in summary["lr_rules"] or len(tuned) < 2:
        return
    small, large = tuned[min(tuned)], tuned[max(tuned)]
    rows = large["rows_to_target"]["value"] / small["rows_to_target"]["value"]
    yield (
        f"With the rate tuned at every size, {_cost(large)} (rate {rate_text(large['lr'])}) and {_cost(small)} (rate"
        f" {rate_text(small['lr'])}): tuning helps large minibatches most, and {size_text(large['batch_size'])} still reads"
        f" {times_text(rows)} times the rows."
    )


def _sqrt_m(summary: Summary) -> Iterator[str]:
    """Goodfellow's law: what it predicts for the sizes that were averaged, what was measured, and what that buys."""
    slope = (summary["measures"] or {}).get("sqrt_m_slope")
    if not slope or slope.get("value") is None or slope.get("lo") is None:
        return
    lo, hi = slope["lo"], slope["hi"]
    agrees = "as" if lo <= -0.5 <= hi else "less steeply than" if lo > -0.5 else "more steeply than"
    text = f"The standard deviation of the gradient fell with the rows m averaged as m^{slope['value']:.2f} [{lo:.2f}, {hi:.2f}], {agrees} Goodfellow's"
    text += " √m law says (-0.50)"
    sizes, sds = slope.get("sizes") or (), slope.get("sd") or ()
    if len(sizes) > 1 and sds[-1]:
        more = sizes[-1] / sizes[0]
        text += f": {times_text(more)} times the rows made it {times_text(sds[0] / sds[-1])} times as exact, {times_text(more**0.5)} by the law"
    yield f"{text}. So 100 times the rows buy a gradient 10 times as exact, at 100 times the cost."


def _noise(summary: Summary) -> Iterator[str]:
    scale = (summary["measures"] or {}).get("noise_scale")
    if scale and (text := scale_text(scale)):
        where = f" at the end of the training of {size_text(scale['batch_size'])}" if scale.get("batch_size") else ""
        yield f"Noise and signal of the gradient balance at {text} rows{where}: beyond that a larger minibatch hardly changes the direction."


def _sharpness(summary: Summary) -> Iterator[str]:
    each = ((summary["measures"] or {}).get("sharpness") or {}).get("by_batch_size") or {}
    values = {int(size): one["value"] for size, one in each.items() if one.get("value")}
    if len(values) < 2:
        return
    small, large = min(values), max(values)
    ratio = values[large] / values[small]
    trend = (
        "as Keskar et al. found" if ratio > _SHARPER else "the opposite of what Keskar et al. found" if ratio < 1 / _SHARPER
        else "no difference that these lower bounds could show"
    )  # fmt: skip
    losses = {cell["batch_size"]: cell["holdout_loss"]["value"] for cell in summary["cells"]}
    unlike = losses.get(small) and losses.get(large) and max(losses[small], losses[large]) > 1.5 * min(losses[small], losses[large])
    caution = " (their losses differ, so these are not minima of one depth)" if unlike else ""
    adaptive = [next(iter((each[str(size)].get("adaptive") or {}).values()), {}).get("value") for size in (small, large)]
    honest = f" The adaptive one, which layers rescaled leave alone, is {loss_text(adaptive[0])} % and {loss_text(adaptive[1])} %." if all(adaptive) else ""
    yield (
        f"Keskar's sharpness is {loss_text(values[small])} % at {size_text(small)} and {loss_text(values[large])} % at {size_text(large)}{caution}:"
        f" {trend}.{honest} Sharpness never enters the recommendation."
    )


def _cells(summary: Summary, rule: str) -> Sequence[Mapping[str, Any]]:
    return summary["cells"] if summary["lr_rules"][0] == rule else summary["arms"].get(rule, ())


def _cost(cell: Mapping[str, Any]) -> str:
    steps, rows = (format_count(cell[f"{name}_to_target"]["value"]).strip() for name in ("steps", "rows"))
    return f"{size_text(cell['batch_size'])} took {steps} steps, {rows} rows,"
