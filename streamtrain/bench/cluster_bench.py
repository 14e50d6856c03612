"""The cost of a cluster's driver, measured against simulated workers: planning, leases, failures.

The plan, the rounds, the leases and their dispatch are as in a real run; only the workers are
simulated, and no row is read.
"""

import math
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.local_sgd.rounds import Rounds, Share, run_round, windows_per_round
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

#: The least of this many plans is reported: the first takes fresh pages from the system.
PLAN_REPEATS = 3

#: Key of the digest of windows, which is an order-independent sum like the digest of a receipt.
_DIGEST_KEY = 7


def simulate(
    *,
    rows: int,
    workers: int,
    habits: WorkerModel,
    seed: int = 0,
    sizes: Sequence[float] = (0.01, 0.1, 1.0),
    shard_rows: int = SHARD_SPANS * SPAN_ROWS,
) -> Json:
    """Run one epoch of local SGD, over `rows` rows and over fractions `sizes` of them.

    Returns the driver's seconds, bytes and messages per scale, and the shards that workers open.
    `growth` is the slope of the logarithm of each against the logarithm of the spans, between the
    two largest scales; 1 is linear. Raises CheckFailed when a window was trained on twice or not at
    all.
    """
    scales = [
        _run_scale(round(rows * size), workers, habits, seed, shard_rows) for size in sorted(sizes)
    ]
    growth = {}
    if len(scales) > 1:
        smaller, larger = scales[-2:]
        spans_growth = math.log(larger["spans"] / smaller["spans"])
        for name in ("plan_seconds", "plan_peak_bytes", "driver_seconds", "messages"):
            growth[name] = math.log(larger[name] / smaller[name]) / spans_growth
    return {
        "rows": rows,
        "workers": workers,
        "seed": seed,
        "habits": {name: getattr(habits, name) for name in habits.__dataclass_fields__},
        "scales": scales,
        "growth": growth,
    }


class _NotingBackend(SimulatedBackend):
    """A simulated cluster that notes the windows that each worker is given."""

    def __init__(self, workers: int, habits: WorkerModel, seed: int):
        super().__init__(workers, habits, _train, seed=seed)
        self.given: list[tuple[str, list[int]]] = []

    def submit(self, number: int, worker: str, payload: Share) -> None:
        super().submit(number, worker, payload)
        self.given.append((worker, [window.index for window in payload.windows]))

    def shards_opened(self, plan: Plan) -> list[int]:
        """Return how many shards each worker opens: those of its windows, each once.

        A worker that replaces a dead one opens its own.
        """
        shards: dict[str, set[int]] = defaultdict(set)
        for worker, windows in self.given:
            for window in windows:
                shards[worker].update(plan.spans.shard[plan.window(window).spans].tolist())
        return [len(opened) for opened in shards.values()]


def _run_scale(rows: int, workers: int, habits: WorkerModel, seed: int, shard_rows: int) -> Json:
    plan, plan_seconds, plan_peak_bytes = _measure_plan(rows, seed, shard_rows)
    rounds = Rounds(
        lambda epoch: plan,
        shares=workers,
        windows_per_share=windows_per_round(habits.rows_per_second, default_window_rows(COLUMNS)),
        last_row=None,
        last_epoch=1,
    )
    backend = _NotingBackend(workers, habits, seed)
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
    is_complete = windows == len(plan) and rounds.rows == plan.num_rows
    if not is_complete or digest != _digest(np.arange(len(plan))):
        raise CheckFailed(
            f"{windows:,} windows were trained on; the plan has {len(plan):,}. This is a defect:"
            f" please report it with the seed, {seed}."
        )
    opened = backend.shards_opened(plan)
    return {
        "rows": rows,
        "shards": -(-rows // shard_rows),
        "shards_opened_per_worker": sum(opened) / len(opened),
        "most_shards_opened": max(opened),
        "spans": len(plan.spans),
        "windows": len(plan),
        "plan_seconds": plan_seconds,
        "plan_peak_bytes": plan_peak_bytes,
        "rounds": rounds.number,
        "tasks": leases.issued,
        "failures": leases.failures,
        "lost_workers": pool.lost_workers,
        "discarded_results": leases.discarded,
        "messages": pool.messages,
        "simulated_seconds": backend.now(),
        "messages_per_simulated_second": pool.messages / backend.now(),
        "driver_seconds": driver_seconds,
        "driver_messages_per_second": pool.messages / driver_seconds,
        "efficiency": rows / habits.rows_per_second / workers / backend.now(),
    }


def _measure_plan(rows: int, seed: int, shard_rows: int) -> tuple[Plan, float, int]:
    """Return the plan, and the seconds and peak bytes that it takes."""
    plan_seconds = math.inf
    for _ in range(PLAN_REPEATS):
        # Processor time of this process: the machine may be doing other things.
        started = time.process_time()
        plan = _plan(rows, seed, shard_rows)
        plan_seconds = min(plan_seconds, time.process_time() - started)
    tracemalloc.start()
    plan = _plan(rows, seed, shard_rows)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return plan, plan_seconds, peak_bytes


def _plan(rows: int, seed: int, shard_rows: int) -> Plan:
    """Return the plan of an epoch, made from the boundaries of shards of `shard_rows` rows."""
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
