"""From samples to a verdict: medians, intervals, ratios, and what limits delivery.

Pure functions. A ratio to a side that was not measured, or that is too slow to be a fair
comparison, is null with a reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.errors import ConfigError
from streamtrain.science.intervals import measure, paired_ratio
from streamtrain.types import Json

#: An expert's loop slower than this fraction of raw decode on two threads is not a fair comparison,
#: so no ratio to it is given (0.046 was measured).
WORST_EXPERT = 0.035
REFERENCE_THREADS = 2

#: A consumer that waits for less than this fraction of the time, once the first block is there,
#: limits delivery itself.
IDLE_FRACTION = 0.1

#: Side → the JSON key of its ratio.
RATIOS = {
    "expert_loop": "ratio_to_expert_loop",
    "tuned_loop": "ratio_to_tuned_loop",
    "decode": "ratio_to_decode",
    "in_ram_gather": "ratio_to_in_ram_gather",
}


def figure(sample: Sequence[float]) -> Json:
    """Return the median of positive values and its 95 % interval: `{value, n, lo, hi}`."""
    return measure(sample, log=True).to_json()


def ratio_figure(ours: Sequence[float], theirs: Sequence[float]) -> Json:
    """Return the ratio of two paired samples and its 95 % interval: `{value, n, lo, hi}`."""
    return paired_ratio(ours, theirs).to_json()


def require_positive(flag: str, count: int) -> None:
    """Raise ConfigError unless the number given by `flag` is at least 1."""
    if count < 1:
        raise ConfigError(f"{flag} is {count}; it takes at least 1.")


def summarize(samples: Mapping[str, Sequence[float]], reasons: Mapping[str, str]) -> Json:
    """Return medians, intervals and paired ratios of the samples, as JSON values by name.

    `reasons` says why a side was not measured; the result adds the reasons of ratios left out.
    """
    medians = {name: figure(sample) for name, sample in samples.items()}
    reasons = dict(reasons)
    reference = medians.get("decode_2_threads") or medians.get("decode")
    document: Json = {"rows_per_second": medians["streamtrain"]["value"]}
    intervals: Json = {"rows_per_second": medians["streamtrain"]}
    if "first_epoch" in medians:
        document["first_epoch_rows_per_second"] = medians["first_epoch"]["value"]
        intervals["first_epoch_rows_per_second"] = medians["first_epoch"]
    for side, ratio_key in RATIOS.items():
        rate_key = f"{side}_rows_per_second"
        document[rate_key] = document[ratio_key] = None
        if side not in medians:
            continue
        document[rate_key] = medians[side]["value"]
        intervals[rate_key] = medians[side]
        reason = judge_loop(medians[side]["value"], reference) if side.endswith("_loop") else None
        if reason:
            reasons[side] = reason
            continue
        ratio = ratio_figure(samples["streamtrain"], samples[side])
        document[ratio_key] = ratio["value"]
        intervals[ratio_key] = ratio
    return document | {
        "expert_loop_valid": "expert_loop" not in reasons,
        "reasons": reasons,
        "intervals": intervals,
    }


def judge_loop(loop: float, reference: Mapping[str, Any] | None) -> str | None:
    """Return why a loop of `loop` rows/s is too slow to compare with; None if it is not.

    `reference` is the figure of raw decode on two threads, None if that was not measured.
    """
    if reference is None:
        return "raw decode was not measured, so the loop cannot be judged"
    fraction = loop / reference["value"]
    if fraction >= WORST_EXPERT:
        return None
    return (
        f"the loop reaches {fraction:.3f} of raw decode on {REFERENCE_THREADS} threads; below"
        f" {WORST_EXPERT} it is not a fair comparison"
    )


def bottleneck(stats: Mapping[str, float]) -> str:
    """Return the part that limits delivery: `consumer`, `decode` or `shuffle`.

    It is the consumer if that hardly waits once the first block has come, and otherwise the part
    that takes most of the readers' seconds.

    >>> waits = {"wait_seconds": 1.0, "fill_seconds": 0.9}
    >>> bottleneck({**waits, "consumer_seconds": 4.0, "decode_seconds": 3.0})
    'consumer'
    """
    wait = max(0.0, stats["wait_seconds"] - stats["fill_seconds"])
    if wait < IDLE_FRACTION * (wait + stats["consumer_seconds"]):
        return "consumer"
    shuffle = stats["deal_seconds"] + stats["permute_seconds"]
    return "decode" if stats["decode_seconds"] >= shuffle else "shuffle"
