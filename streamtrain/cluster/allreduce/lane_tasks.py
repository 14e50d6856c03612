"""The tasks of a synchronous run, as Dask workers do them: meet, measure, train some steps,
leave.
"""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamtrain.cluster.allreduce.collective import Collective, PeerLost, Store
from streamtrain.cluster.allreduce.lane_engine import shape_of_sums
from streamtrain.cluster.allreduce.lane_session import LaneSession, inner_engine
from streamtrain.cluster.allreduce.lane_work import LanesDone, LaneWork, Lost
from streamtrain.cluster.worker import current_site, own_host
from streamtrain.run.prepare import Prepared
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.training.gradient_accumulator import GradientAccumulator
from streamtrain.training.torch.device_feed import train_device

#: Where a worker keeps these between tasks.
_SESSION, _STORE = "lane session", "store"

#: Sums and steps that are tried, after as many that warm up; rows of a part of a step that are
#: tried at most.
TRIES, TRIED_ROWS = 16, 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduceTiming:
    """Seconds of one sum over all workers, and of the part of a step that is a worker's own:
    medians.
    """

    sum_seconds: float
    part_seconds: float


def open_store(prepared: Prepared, timeout_seconds: float) -> tuple[str, int]:
    """A task for the first worker of a group: open the place where all meet, and say where it
    is.
    """
    host, kept = own_host(), current_site().kept
    _drop(_STORE)
    kept[_STORE] = Store(host, timeout_seconds)
    return host, kept[_STORE].port


def measure_exchange(prepared: Prepared, work: LaneWork) -> AllReduceTiming | Lost:
    """How long this group takes for a sum of its gradients, and this worker for its part of a
    step.
    """
    try:
        collective = _join(prepared, work)
        sums = np.zeros(
            shape_of_sums(work.lanes, len(work.lrs), prepared.model.num_parameters),
            dtype=np.float32,
        )
        try:
            sum_seconds = _median_seconds(lambda: collective.sum(sums))
        finally:
            collective.close()
    except PeerLost as error:
        return Lost(str(error))
    rows = max(1, work.batch_size // work.group.size)
    block = np.zeros((min(rows, TRIED_ROWS), prepared.source.num_columns), dtype=np.float32)
    fused = prepared.engine == "fused"
    with one_blas_thread(fused), ComputePool(prepared.config.train.threads or 1) as cores:
        engine = inner_engine(prepared, work)
        if fused:
            engine.cores = cores
        gradients = GradientAccumulator(engine)

        def part() -> None:
            gradients.add(block, 0, len(block))
            gradients.step(gradients.take(), len(block))

        part_seconds = _median_seconds(part) * rows / len(block)
    return AllReduceTiming(sum_seconds=sum_seconds, part_seconds=part_seconds)


def train_lanes(prepared: Prepared, work: LaneWork) -> LanesDone | Lost:
    """The task of every worker of a group. A group that is already together goes on as it is."""
    kept = current_site().kept
    session = kept.get(_SESSION)
    try:
        if session is None or session.group != work.group:
            _drop(_SESSION)
            session = kept[_SESSION] = LaneSession(prepared, work, partial(_join, prepared))
        return session.train(work)
    except PeerLost as error:
        _drop(_SESSION)
        return Lost(str(error))
    except BaseException:
        _drop(_SESSION)
        raise


def _join(prepared: Prepared, work: LaneWork) -> Collective:
    group = work.group
    store = current_site().kept.get(_STORE) if group.rank == 0 and group.size > 1 else None
    return Collective(
        group.address,
        rank=group.rank,
        size=group.size,
        generation=group.generation,
        own_host=own_host(),
        timeout_seconds=group.timeout_seconds,
        store=store,
        device=(
            "cpu" if prepared.engine == "fused" else str(train_device(prepared.config.train.device))
        ),
    )


def _drop(name: str) -> None:
    """Close what was kept of an earlier group, if anything."""
    kept = current_site().kept.pop(name, None)
    if kept is not None:
        kept.close()


def _median_seconds(act) -> float:
    seconds = []
    for _ in range(2 * TRIES):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[TRIES:]))
