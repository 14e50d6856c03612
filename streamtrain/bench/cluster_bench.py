"""The cluster's driver against simulated workers: what planning, leasing and surviving failures
cost, without a cluster.

The plan, the rounds, the leases and their dispatch are those of a real run; only the workers are
simulated, and no row is read.
"""

import math
import time
import tracemalloc
from collections.abc import Sequence
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

#: The least of so many is reported: the first one takes fresh pages from the system.
PLAN_REPEATS = 3

#: Key of the digest of windows: the same order-free sum as a receipt of rows.
_DIGEST_KEY = 7


def simulate(
    *,
    rows: int,
    workers: int,
    habits: WorkerModel,
    seed: int = 0,
    sizes: Sequence[float] = (0.01, 0.1, 1.0),
) -> Json:
    """One epoch of local SGD in rounds, over `rows` rows and over parts of them: seconds, bytes and
    messages of the driver.

    `growth` is the slope of the logarithm of each against that of the spans, between the two
    largest; 1 is linear. Raises CheckFailed when a window was trained on twice or not at all.
    """
    scales = [_one_scale(round(rows * size), workers, habits, seed) for size in sorted(sizes)]
    growth = {}
    if len(scales) > 1:
        below, above = scales[-2:]
        for name in ("plan_seconds", "plan_peak_bytes", "driver_seconds", "messages"):
            growth[name] = math.log(above[name] / below[name]) / math.log(
                above["spans"] / below["spans"]
            )
    return {
        "rows": rows,
        "workers": workers,
        "seed": seed,
        "habits": {name: getattr(habits, name) for name in habits.__dataclass_fields__},
        "scales": scales,
        "growth": growth,
    }


def _one_scale(rows: int, workers: int, habits: WorkerModel, seed: int) -> Json:
    plan_seconds = math.inf
    for _ in range(PLAN_REPEATS):
        # of this process alone: the machine may be doing other things
        started = time.process_time()
        plan = _plan(rows, seed)
        plan_seconds = min(plan_seconds, time.process_time() - started)
    tracemalloc.start()
    _plan(rows, seed)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    windows_a_share = windows_a_round(habits.rows_per_second, default_window_rows(COLUMNS))
    rounds = Rounds(
        lambda epoch: plan,
        shares=workers,
        windows_a_share=windows_a_share,
        last_row=None,
        last_epoch=1,
    )
    fabric = SimulatedBackend(workers, habits, _train, seed=seed)
    crew = WorkerPool(fabric)
    leases = Leases(timeout_seconds=TIMEOUT_SECONDS)
    digest = windows = 0
    started = time.process_time()
    crew.wait_for(workers)
    while not rounds.done:
        done = run_round(crew, leases, rounds.deal(), lambda share: share)
        for part in done:
            digest, windows = (digest + part["digest"]) % 2**64, windows + part["windows"]
        rounds.commit(sum(part["rows"] for part in done))
    driver_seconds = time.process_time() - started
    if (
        windows != len(plan)
        or digest != _digest(np.arange(len(plan)))
        or rounds.rows != plan.num_rows
    ):
        raise CheckFailed(
            f"{windows:,} windows were trained on; the plan has {len(plan):,}. This is a defect:"
            f" please report it with the seed, {seed}."
        )
    return {
        "rows": rows,
        "spans": len(plan.spans),
        "windows": len(plan),
        "plan_seconds": plan_seconds,
        "plan_peak_bytes": peak_bytes,
        "rounds": rounds.number,
        "tasks": leases.issued,
        "failures": leases.failures,
        "lost_workers": crew.lost_workers,
        "discarded_results": leases.discarded,
        "messages": crew.messages,
        "simulated_seconds": fabric.now(),
        "messages_per_simulated_second": crew.messages / fabric.now(),
        "driver_seconds": driver_seconds,
        "driver_messages_per_second": crew.messages / driver_seconds,
        "efficiency": rows / habits.rows_per_second / workers / fabric.now(),
    }


def _plan(rows: int, seed: int) -> Plan:
    """The plan of an epoch of shards of 262 M rows, from their boundaries on."""
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
    """What a worker would take, and send back."""
    indices = np.array([window.index for window in share.windows], dtype=np.int64)
    return share.rows, {"rows": share.rows, "windows": len(indices), "digest": _digest(indices)}


def _digest(indices: np.ndarray) -> int:
    return int(hash_array(indices, _DIGEST_KEY).sum(dtype=np.uint64))
