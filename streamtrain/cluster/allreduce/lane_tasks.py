"""The Dask tasks of a synchronous run: open a store, measure, take some steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamtrain.cluster.allreduce.collective import Collective, PeerLostError, Store
from streamtrain.cluster.allreduce.lane_engine import shape_of_sums
from streamtrain.cluster.allreduce.lane_session import LaneSession
from streamtrain.cluster.allreduce.lane_work import LaneResult, LaneTask
from streamtrain.cluster.worker import PeerLost, current_state, own_host
from streamtrain.run.prepare import Prepared
from streamtrain.training.engine_choice import running
from streamtrain.training.torch.device_feed import train_device

#: Names of a worker's resources.
_SESSION, _STORE = "lane session", "store"

#: Sums and steps that are timed, after as many that warm up.
TRIES = 16

#: A worker's part of a step is timed on this many rows at most.
TIMED_ROWS = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduceTiming:
    """Median seconds of a sum over all workers, and of one worker's own part of a step."""

    sum_seconds: float
    local_step_seconds: float


def open_store(prepared: Prepared, timeout_seconds: float) -> tuple[str, int]:
    """Open the store of a group on its first worker; return its host and port."""
    host, resources = own_host(), current_state().resources
    _close_resource(_STORE)
    resources[_STORE] = store = Store(host, timeout_seconds)
    return host, store.port


def measure_allreduce(prepared: Prepared, task: LaneTask) -> AllReduceTiming | PeerLost:
    """Time a sum of the group's gradients, and this worker's part of a step."""
    sums_shape = shape_of_sums(task.lanes, len(task.lrs), prepared.model.num_parameters)
    sums = np.zeros(sums_shape, dtype=np.float32)
    try:
        collective = _join(prepared, task)
        try:
            sum_seconds = _median_seconds(lambda: collective.sum(sums))
        finally:
            collective.close()
    except PeerLostError as error:
        return PeerLost(str(error))
    rows = max(1, task.batch_size // task.group.size)
    block = np.zeros((min(rows, TIMED_ROWS), prepared.source.num_columns), dtype=np.float32)
    engine = prepared.make_engine(task.batch_size, task.lrs, task.trial)
    with (
        running([engine], prepared.config.train.threads or 1),
    ):

        def local_step() -> None:
            engine.accumulate(block, 0, len(block))
            engine.apply_gradient_sum(engine.take_gradient_sum(), len(block))

        local_step_seconds = _median_seconds(local_step) * rows / len(block)
    return AllReduceTiming(sum_seconds=sum_seconds, local_step_seconds=local_step_seconds)


def train_lanes(prepared: Prepared, task: LaneTask) -> LaneResult | PeerLost:
    """Take some steps with the other workers of the group; the session of a group is kept."""
    resources = current_state().resources
    session: LaneSession | None = resources.get(_SESSION)
    try:
        if session is None or session.group != task.group:
            _close_resource(_SESSION)
            session = resources[_SESSION] = LaneSession(prepared, task, partial(_join, prepared))
        return session.train(task)
    except PeerLostError as error:
        _close_resource(_SESSION)
        return PeerLost(str(error))
    except BaseException:
        _close_resource(_SESSION)
        raise


def _join(prepared: Prepared, task: LaneTask) -> Collective:
    group = task.group
    owns_store = group.rank == 0 and group.size > 1
    if prepared.engine == "fused":
        device = "cpu"
    else:
        device = str(train_device(prepared.config.train.device))
    return Collective(
        group.address,
        rank=group.rank,
        size=group.size,
        generation=group.generation,
        own_host=own_host(),
        timeout_seconds=group.timeout_seconds,
        store=current_state().resources.get(_STORE) if owns_store else None,
        device=device,
    )


def _close_resource(name: str) -> None:
    """Close the resource that an earlier group left on this worker, if any."""
    resource = current_state().resources.pop(name, None)
    if resource is not None:
        resource.close()


def _median_seconds(action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(2 * TRIES):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[TRIES:]))
