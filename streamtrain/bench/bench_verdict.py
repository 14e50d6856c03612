"""From samples to a verdict: medians, intervals and ratios, which of them say nothing, and what
limits delivery. Pure functions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.science.intervals import measure, paired_ratio
from streamtrain.types import Json

#: An expert's loop slower than this share of raw decode on two threads is a bad one: its ratio says
#: nothing (0.046 was measured).
WORST_EXPERT = 0.035
REFERENCE_THREADS = 2

#: A consumer that waits for less than this share of the time, once the first block is there, is
#: what limits delivery.
IDLE_SHARE = 0.1

#: Side → the JSON key of its ratio.
RATIOS = {
    "expert_loop": "ratio_to_expert_loop",
    "tuned_loop": "ratio_to_tuned_loop",
    "decode": "ratio_to_decode",
    "in_ram_gather": "ratio_to_in_ram_gather",
}


def summarize(samples: Mapping[str, Sequence[float]], reasons: Mapping[str, str]) -> Json:
    """Medians, intervals and paired ratios of the samples; null with its reason where a side is
    missing or says nothing.
    """
    medians = {name: measure(sample, log=True).to_json() for name, sample in samples.items()}
    reasons, reference = dict(reasons), medians.get("decode_2_threads") or medians.get("decode")
    document: Json = {"rows_per_second": medians["streamtrain"]["value"]}
    intervals: Json = {"rows_per_second": medians["streamtrain"]}
    if "first_epoch" in medians:
        document["first_epoch_rows_per_second"] = medians["first_epoch"]["value"]
        intervals["first_epoch_rows_per_second"] = medians["first_epoch"]
    for name, ratio in RATIOS.items():
        document[f"{name}_rows_per_second"] = medians[name]["value"] if name in medians else None
        document[ratio] = None
        if name not in medians:
            continue
        intervals[f"{name}_rows_per_second"] = medians[name]
        reason = judge_loop(medians[name]["value"], reference) if name.endswith("_loop") else None
        if reason:
            reasons[name] = reason
            continue
        value, lo, hi = paired_ratio(samples["streamtrain"], samples[name])
        document[ratio] = value
        intervals[ratio] = {"value": value, "n": len(samples[name]), "lo": lo, "hi": hi}
    return document | {
        "expert_loop_valid": "expert_loop" not in reasons,
        "reasons": reasons,
        "intervals": intervals,
    }


def judge_loop(loop: float, reference: Mapping[str, Any] | None) -> str | None:
    """Why a loop is too slow to be compared with.

    None when it is a good one. `reference`: raw decode on two threads, if measured.
    """
    if reference is None:
        return "raw decode was not measured, so nothing says that the loop is a good one"
    share = loop / reference["value"]
    if share >= WORST_EXPERT:
        return None
    return (
        f"the loop reaches {share:.3f} of raw decode on {REFERENCE_THREADS} threads; below"
        f" {WORST_EXPERT} a ratio to it says nothing"
    )


def bottleneck(stats: Mapping[str, float]) -> str:
    """`consumer` when it hardly waits once the first block has come, else the part that takes most
    of the readers' seconds.

    >>> waits = {"wait_seconds": 1.0, "fill_seconds": 0.9}
    >>> bottleneck({**waits, "consumer_seconds": 4.0, "decode_seconds": 3.0})
    'consumer'
    """
    wait = max(0.0, stats["wait_seconds"] - stats["fill_seconds"])
    if wait < IDLE_SHARE * (wait + stats["consumer_seconds"]):
        return "consumer"
    shuffle = stats["deal_seconds"] + stats["permute_seconds"]
    return "decode" if stats["decode_seconds"] >= shuffle else "shuffle"
