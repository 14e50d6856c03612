"""The workers of a run: their synchronisation, and speed and loss by the number of workers."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from streamtrain.base.units import format_count
from streamtrain.base.words import plural
from streamtrain.records import PassEnded, RoundEnded
from streamtrain.report.analysis import finite
from streamtrain.report.number_format import loss_text, speed_text
from streamtrain.report.summary_parts import WorkerCount, Workers
from streamtrain.science.cells import round_speeds
from streamtrain.science.intervals import measure
from streamtrain.science.run_log import Run

_WAYS = {"rounds": "local SGD in rounds", "allreduce": "all-reduce every step"}
#: The reason in the record of a run whose user chose the way; the second one is in older logs.
_CHOSEN_BY_USER = ("requested with --sync", "as asked for")
_BACKENDS = {"gloo": "gloo, between CPUs", "nccl": "NCCL, between GPUs"}


def summarize_workers(run: Run) -> Workers | None:
    """Return `workers` of `summary.json`; None for a run on one machine."""
    passes = [record for record in run.passes if record.lost_workers is not None]
    if not passes and run.sync is None:
        return None
    last = passes[-1] if passes else PassEnded()
    rows = [late - early for early, late in pairwise([0, *(record.rows for record in run.rounds)])]
    counts = [record.workers for record in [*run.rounds, *passes] if record.workers is not None]
    sync = run.sync
    return Workers(
        sync=sync and sync.sync,
        reason=sync and sync.reason,
        shares=sync and sync.shares,
        lanes=sync and sync.lanes,
        sum_seconds=sync and sync.sum_seconds,
        part_seconds=sync and sync.part_seconds,
        task_seconds=sync and sync.task_seconds,
        most_workers=max(counts, default=None),
        lost_workers=sum(record.lost_workers or 0 for record in passes),
        failed_tasks=sum(record.failed_tasks or 0 for record in passes),
        rounds=len(run.rounds),
        rows_a_round=measure(rows).value,
        outer_optimizer=last.outer_optimizer,
        generations=last.generations,
        collective=last.collective,
        by_workers=tuple(_by_workers(run, rows)),
    )


def _by_workers(run: Run, rows: Sequence[int]) -> list[WorkerCount]:
    """Return an entry per number of workers; `rows` are the rows of each round."""
    rounds: dict[int, list[tuple[int, RoundEnded]]] = defaultdict(list)
    for record, trained in zip(run.rounds, rows, strict=True):
        rounds[record.workers].append((trained, record))
    losses = [
        (evaluated_at, loss)
        for curves in run.curves.values()
        for curve in curves.values()
        for evaluated_at, loss in zip(curve.rows, curve.holdout_loss, strict=True)
    ]
    counts = []
    for workers, trained_rounds in sorted(rounds.items()):
        end_rows = trained_rounds[-1][1].rows
        before_end = [(rows_seen, loss) for rows_seen, loss in losses if rows_seen <= end_rows]
        counts.append(
            WorkerCount(
                workers=workers,
                rounds=len(trained_rounds),
                rows=sum(trained for trained, _ in trained_rounds),
                seconds=sum(record.seconds for _, record in trained_rounds),
                rows_per_second=measure(round_speeds(run.rounds, workers), log=True),
                end_rows=end_rows,
                holdout_loss=finite(max(before_end)[1]) if before_end else None,
            )
        )
    return counts


def worker_facts(workers: Workers | None) -> list[tuple[str, str]]:
    """Return the same in words, as `(name, text)`; nothing for a run on one machine."""
    if workers is None:
        return []
    facts: list[tuple[str, str]] = []
    if workers.most_workers:
        facts.append(
            (
                "workers",
                f"{workers.most_workers:,} at most; {workers.lost_workers:,} lost,"
                f" {workers.failed_tasks:,} tasks failed and were retried",
            )
        )
    if workers.sync:
        is_chosen = workers.reason in _CHOSEN_BY_USER
        reason = "requested" if is_chosen else workers.reason
        facts.append(("synchronisation", f"{_WAYS[workers.sync]} ({reason})"))
    if workers.sync == "rounds" and workers.rounds:
        facts.append(("period", _period(workers)))
    if workers.generations:
        facts.append(("worker groups formed", str(workers.generations)))
    if workers.collective in _BACKENDS:
        facts.append(("gradients summed by", _BACKENDS[workers.collective]))
    return facts + [_count_fact(count) for count in workers.by_workers]


def _period(workers: Workers) -> str:
    return (
        f"{format_count(workers.rows_a_round or 0).strip()} rows per round over"
        f" {workers.shares} shares; outer optimizer: {workers.outer_optimizer}"
    )


def _count_fact(count: WorkerCount) -> tuple[str, str]:
    text = f"{speed_text(count.rows_per_second)} rows/s over {plural(count.rounds, 'round')}"
    if count.holdout_loss is not None:
        rows = format_count(count.end_rows).strip()
        text += f"; held-out loss {loss_text(count.holdout_loss)} at {rows} rows"
    return f"with {plural(count.workers, 'worker')}", text
