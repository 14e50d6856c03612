"""Why one minibatch size beats another, in plain words and the run's own figures: steps, Goodfellow's √m, noise, Keskar's sharpness."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamtrain.report.figures import loss_text, rate_text, size_text, target_word, times_text
from streamtrain.units import format_count

Summary = Mapping[str, Any]

#: Sharpness of the largest size this many times the smallest's, or the inverse, is called a difference: a lower bound says no more.
_SHARPER = 2.0


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
    fewest = min(reached, key=lambda cell: cell["rows_to_target"]["value"])
    largest = max(cells, key=lambda cell: cell["batch_size"])
    begin = f"At the same learning rate ({rate_text(fewest['lr'])}), {_cost(fewest)} to loss {target_word(summary['target_loss'])}; "
    if largest["status"] == "reached" and largest is not fewest:
        rows = largest["rows_to_target"]["value"] / fewest["rows_to_target"]["value"]
        yield f"{begin}{_cost(largest)}, {times_text(rows)} times the rows: a step of more rows is hardly a better step, and costs them all."
    elif largest is not fewest and summary["train_rows"]:
        steps = summary["train_rows"] // largest["batch_size"]
        yield (
            f"{begin}{size_text(largest['batch_size'])} got {format_count(steps).strip()} steps out of"
            f" {format_count(summary['train_rows']).strip()} rows, and was not there: it had too few updates, however exact each was."
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
    slope = (summary["measures"] or {}).get("sqrt_m_slope")
    if not slope or slope.get("value") is None or slope.get("lo") is None:
        return
    lo, hi = slope["lo"], slope["hi"]
    agrees = "as" if lo <= -0.5 <= hi else "less steeply than" if lo > -0.5 else "more steeply than"
    yield (
        f"The standard deviation of the gradient fell with the rows m averaged as m^{slope['value']:.2f} [{lo:.2f}, {hi:.2f}], {agrees} Goodfellow's"
        " √m law says (-0.50): by that law 100 times the rows buy a gradient 10 times as exact."
    )


def _noise(summary: Summary) -> Iterator[str]:
    scale = (summary["measures"] or {}).get("noise_scale")
    if scale and scale.get("value") is not None:
        size = size_text(round(scale["value"]))
        where = f" at the end of the training of {size_text(scale['batch_size'])}" if scale.get("batch_size") else ""
        yield f"Noise and signal of the gradient balance at {size} rows{where}: beyond that a larger minibatch hardly changes the direction."


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
    yield (
        f"Keskar's sharpness is {loss_text(values[small])} % at {size_text(small)} and {loss_text(values[large])} % at {size_text(large)}{caution}:"
        f" {trend}. It never enters the recommendation."
    )


def _cells(summary: Summary, rule: str) -> Sequence[Mapping[str, Any]]:
    return summary["cells"] if summary["lr_rules"][0] == rule else summary["arms"].get(rule, ())


def _cost(cell: Mapping[str, Any]) -> str:
    steps, rows = (format_count(cell[f"{name}_to_target"]["value"]).strip() for name in ("steps", "rows"))
    return f"{size_text(cell['batch_size'])} took {steps} steps, {rows} rows,"
