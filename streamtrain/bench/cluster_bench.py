"""`streamtrain bench cluster`: the driver of a cluster run against simulated workers.

It measures what planning, leasing and surviving failures cost, without a cluster. The plan, the
rounds, the leases and their scheduling are those of a real run; only the workers are simulated, and
no row is read.
"""

import math
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.local_sgd.rounds import Rounds, Share, run_round, windows_a_round
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.errors import CheckFailed
from streamtrain.plan.holdout import draw_holdout
from streamtrain.plan.order import hash_array
from streamtrain.plan.plan import Plan, default_window_rows, make_plan
from streamtrain.plan.spans import cut_spans
from streamtrain.types import Json, Shard

SPAN_ROWS = 262_144
SHARD_SPANS = 1_000
COLUMNS = 5
HOLDOUT_ROWS = 131_072
TIMEOUT_SECONDS = 300.0

#: The plan is made this often and the shortest time reported: the first one also takes fresh memory
#: pages from the system.
PLAN_REPEATS = 3

#: Key of the digest of windows, the same order-independent sum as in a receipt of rows.
_DIGEST_KEY = 7


def simulate(
    *,
    rows: int,
    workers: int,
    habits: WorkerModel,
    seed: int = 0,
    sizes: Sequence[float] = (0.01, 0.1, 1.0),
) -> Json:
    """Simulate one epoch of local SGD in rounds, and return what it costs the driver.

    It is run over the fractions `sizes` of `rows` rows. `growth` is the slope of the logarithm of
    each cost against the logarithm of the number of spans, between the two largest sizes; 1 is
    linear.

    Raises CheckFailed when a window was trained on twice or not at all.
    """
    scales = [_one_scale(round(rows * size), workers, habits, seed) for size in sorted(sizes)]
    growth: dict[str, float] = {}
    if len(scales) > 1:
        below, above = scales[-2:]
        log_spans = math.log(above["spans"] / below["spans"])
        for name in ("plan_seconds", "plan_peak_bytes", "driver_seconds", "messages"):
            growth[name] = math.log(above[name] / below[name]) / log_spans
    return {
        "rows": rows,
        "workers": workers,
        "seed": seed,
        "habits": asdict(habits),
        "scales": scales,
        "growth": growth,
    }


def _one_scale(rows: int, workers: int, habits: WorkerModel, seed: int) -> Json:
    plan_seconds, plan = _timed_plan(rows, seed)
    for _ in range(PLAN_REPEATS - 1):
        plan_seconds = min(plan_seconds, _timed_plan(rows, seed)[0])
    tracemalloc.start()
    _plan(rows, seed)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    windows_per_share = windows_a_round(habits.rows_per_second, default_window_rows(COLUMNS))
    rounds = Rounds(
        lambda epoch: plan,
        shares=workers,
        windows_a_share=windows_per_share,
        last_row=None,
        last_epoch=1,
    )
    backend = SimulatedBackend(workers, habits, _train, seed=seed)
    pool = WorkerPool(backend)
    leases = Leases(timeout_seconds=TIMEOUT_SECONDS)
    digest = windows = 0
    started = time.process_time()
    pool.wait_for(workers)
    while not rounds.done:
        results = run_round(pool, leases, rounds.deal(), lambda share: share)
        for result in results:
            digest = (digest + result["digest"]) % 2**64
            windows += result["windows"]
        rounds.commit(sum(result["rows"] for result in results))
    driver_seconds = time.process_time() - started
    whole_digest = _digest(np.arange(len(plan)))
    if windows != len(plan) or digest != whole_digest or rounds.rows != plan.num_rows:
        raise CheckFailed(
            f"{windows:,} windows were trained on; the plan has {len(plan):,}. This is a defect:"
            f" please report it with the seed, {seed}."
        )
    simulated_seconds = backend.now()
    return {
        "rows": rows,
        "spans": len(plan.spans),
        "windows": len(plan),
        "plan_seconds": plan_seconds,
        "plan_peak_bytes": peak_bytes,
        "rounds": rounds.number,
        "tasks": leases.issued,
        "failures": leases.failures,
        "lost_workers": pool.lost_workers,
        "discarded_results": leases.discarded,
        "messages": pool.messages,
        "simulated_seconds": simulated_seconds,
        "messages_per_simulated_second": pool.messages / simulated_seconds,
        "driver_seconds": driver_seconds,
        "driver_messages_per_second": pool.messages / driver_seconds,
        "efficiency": rows / habits.rows_per_second / workers / simulated_seconds,
    }


def _timed_plan(rows: int, seed: int) -> tuple[float, Plan]:
    """Return the processor time of this process for one plan, and the plan.

    Other processes may be using the machine, so the clock would not do.
    """
    started = time.process_time()
    plan = _plan(rows, seed)
    return time.process_time() - started, plan


def _plan(rows: int, seed: int) -> Plan:
    """Return the plan of an epoch over shards of 262 M rows, made from their boundaries."""
    shard_rows = SHARD_SPANS * SPAN_ROWS
    shards = [_shard(min(shard_rows, rows - first)) for first in range(0, rows, shard_rows)]
    window_rows = default_window_rows(COLUMNS)
    spans = cut_spans(shards, span_rows=SPAN_ROWS, window_rows=window_rows)
    holdout = draw_holdout(spans, min(HOLDOUT_ROWS, rows // 5), seed)
    return make_plan(spans, holdout, seed=seed, trial=0, epoch=0, window_rows=window_rows)


def _shard(num_rows: int) -> Shard:
    boundaries = np.append(np.arange(0, num_rows, SPAN_ROWS), num_rows)
    return Shard(
        url="simulated",
        format="parquet",
        num_rows=num_rows,
        num_bytes=0,
        boundaries=boundaries,
        columns=(),
        source="",
    )


def _train(share: Share) -> tuple[float, Any]:
    """Return the rows that a worker would train on, and the result that it would send back."""
    indices = np.array([window.index for window in share.windows], dtype=np.int64)
    return share.rows, {"rows": share.rows, "windows": len(indices), "digest": _digest(indices)}


def _digest(indices: np.ndarray) -> int:
    return int(hash_array(indices, _DIGEST_KEY).sum(dtype=np.uint64))
