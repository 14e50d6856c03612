"""What a run's workers did: how they were kept together, how many there were, and what that made of
speed and loss.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from streamtrain.base.units import format_count
from streamtrain.records import PassEnded
from streamtrain.report.number_format import loss_text, speed_text
from streamtrain.science.cells import round_speeds
from streamtrain.science.intervals import measure
from streamtrain.science.run_log import Run

_WAYS = {"rounds": "rounds of local SGD", "allreduce": "all-reduce at every step"}
_BACKENDS = {"gloo": "gloo, between processors", "nccl": "NCCL, between GPUs"}


def workers_summary(run: Run) -> dict[str, Any] | None:
    """`workers` of summary.json.

    None for a run on one machine. `by_workers`: one entry for each number of workers there were.
    """
    on_workers = [one for one in run.passes if one.lost_workers is not None]
    if not on_workers and run.sync is None:
        return None
    last = on_workers[-1] if on_workers else PassEnded()
    ends = [0, *(one.rows for one in run.rounds)]
    rows = [late - early for early, late in pairwise(ends)]
    return {
        **{
            name: getattr(run.sync, name, None)
            for name in (
                "sync",
                "reason",
                "shares",
                "lanes",
                "sum_seconds",
                "part_seconds",
                "task_seconds",
            )
        },
        "most_workers": max(
            (one.workers for one in [*run.rounds, *on_workers] if one.workers is not None),
            default=None,
        ),
        "lost_workers": sum(one.lost_workers or 0 for one in on_workers),
        "failed_tasks": sum(one.failed_tasks or 0 for one in on_workers),
        "rounds": len(run.rounds),
        "rows_a_round": measure(rows)["value"],
        "outer_optimizer": last.outer_optimizer,
        "generations": last.generations,
        "collective": last.collective,
        "by_workers": _by_workers(run, rows),
    }


def worker_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same in words; nothing for a run on one machine."""
    found = summary.get("workers")
    if not found:
        return []
    lost, failed = found["lost_workers"], found["failed_tasks"]
    known = [
        (
            "workers",
            found["most_workers"]
            and f"{found['most_workers']:,} at most; {lost:,} lost,"
            f" {failed:,} tasks failed and were done again",
        ),
        ("kept together by", found["sync"] and f"{_WAYS[found['sync']]}: {found['reason']}"),
        ("period", found["sync"] == "rounds" and found["rounds"] and _period(found)),
        ("groups formed", found["generations"]),
        ("gradients summed by", _BACKENDS.get(found["collective"])),
    ]
    for one in found["by_workers"]:
        loss = (
            ""
            if one["holdout_loss"] is None
            else (
                f"; held-out loss {loss_text(one['holdout_loss'])} at"
                f" {format_count(one['end_rows']).strip()} rows"
            )
        )
        name = f"with {one['workers']:,} worker{'' if one['workers'] == 1 else 's'}"
        known.append(
            (
                name,
                (
                    f"{speed_text(one['rows_per_second'])} rows/s over {one['rounds']:,}"
                    f" round{'' if one['rounds'] == 1 else 's'}{loss}"
                ),
            )
        )
    return [(name, str(text)) for name, text in known if text]


def _period(found: Mapping[str, Any]) -> str:
    return (
        f"{format_count(found['rows_a_round']).strip()} rows a round over {found['shares']} shares;"
        f" outer optimizer: {found['outer_optimizer']}"
    )


def _by_workers(run: Run, rows: list[int]) -> list[dict[str, Any]]:
    rounds: dict[int, list[tuple[int, float, int]]] = defaultdict(list)
    for one, trained in zip(run.rounds, rows, strict=True):
        rounds[one.workers].append((trained, one.seconds, one.rows))
    losses = [
        (at, loss)
        for curves in run.curves.values()
        for curve in curves.values()
        for at, loss in zip(curve.rows, curve.holdout_loss, strict=True)
    ]
    return [
        {
            "workers": workers,
            "rounds": len(mine),
            "rows": sum(trained for trained, _, _ in mine),
            "seconds": sum(seconds for _, seconds, _ in mine),
            "rows_per_second": measure(round_speeds(run.rounds, workers), log=True),
            "end_rows": mine[-1][2],
            "holdout_loss": max(
                ((at, loss) for at, loss in losses if at <= mine[-1][2]), default=(0, None)
            )[1],
        }
        for workers, mine in sorted(rounds.items())
    ]
