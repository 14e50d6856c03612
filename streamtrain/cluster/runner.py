"""What runs the passes of a run on the workers of a Dask cluster.

`train` on a cluster is one pass of one learner, by rounds of local SGD or by an all-reduce at every
step: as requested, or as the times of a step and of a sum suggest.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from streamtrain.base.redact import Secrets
from streamtrain.base.units import format_seconds
from streamtrain.cluster.allreduce.allreduce_pass import (
    COLLECTIVE_SECONDS,
    AllReducePass,
    GroupTiming,
    Rendezvous,
    measure_group,
)
from streamtrain.cluster.choice import refuse_shares, why_not_allreduce
from streamtrain.cluster.cluster_pass import SharedLearnerPass, pass_name, saved_choice
from streamtrain.cluster.connect import Connection, connect, performance_report
from streamtrain.cluster.dask_backend import DaskBackend
from streamtrain.cluster.local_sgd.rounds import count_shares
from streamtrain.cluster.local_sgd.rounds_pass import RoundsPass
from streamtrain.cluster.run_spec import RunSpec
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.sweep_pass import SweepRunner
from streamtrain.cluster.worker import call_work
from streamtrain.cluster.worker_group import GroupFailedError, WorkerGroup
from streamtrain.cluster.worker_pool import CHECK_SECONDS, WorkerPool
from streamtrain.config import ClusterConfig, Config
from streamtrain.errors import ConfigError, DataError
from streamtrain.records import Emit, PassEnded, SyncChosen
from streamtrain.run.passes import PassRunner
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpointing import Checkpointing, PassState
from streamtrain.training.learner import Learner

#: Dask's own report of a run, in the run's folder.
DASK_REPORT = "dask-report.html"

#: All-reduce is chosen where a sum takes at most this fraction of the time that a worker computes
#: between two sums; then four fifths of the time go into training.
MAX_SUM_FRACTION = 0.25

_REQUESTED = "requested with --sync"


@contextmanager
def cluster_runner(
    verb: Literal["sweep", "train"],
    config: ClusterConfig,
    out: Path,
    client: Any,
    notify: Callable[[str], None],
    secrets: Secrets,
) -> Iterator[PassRunner]:
    """Yield what runs the passes of a run on workers; see `choose_runner`."""
    with connect(config, client) as connection:
        notify(_describe_cluster(connection))
        if verb == "sweep":
            runner_context = SweepRunner(connection, config, notify)
        else:
            runner_context = nullcontext(TrainRunner(connection, config, notify))
        with performance_report(connection, out / DASK_REPORT, secrets), runner_context as runner:
            yield runner


def _describe_cluster(connection: Connection) -> str:
    client = connection.client
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    address = client.scheduler.address if client.scheduler is not None else "?"
    plural = "" if workers == 1 else "s"
    dashboard = f"; dashboard {connection.dashboard}" if connection.dashboard else ""
    return f"cluster: {workers:,} worker{plural} at {address}{dashboard}"


class TrainRunner:
    """Runs the pass of `train` on workers: a `PassRunner` for one learner.

    `notify` receives messages for the user.
    """

    def __init__(
        self, connection: Connection, config: ClusterConfig, notify: Callable[[str], None]
    ):
        self._connection = connection
        self._config = config
        self._notify = notify

    def __call__(
        self,
        prepared: Prepared,
        learners: list[Learner],
        trial: int,
        emit: Emit,
        *,
        kind: str = "tuning",
        max_seconds: float | None = None,
        saving: Checkpointing | None = None,
    ) -> PassEnded:
        """See `run_pass`.

        Raises ConfigError for what workers cannot do, and ResourceError when the cluster is lost;
        the last commit is saved.
        """
        (learner,) = learners
        config = self._config
        run = uuid.uuid4().hex[:12]
        run_spec = RunSpec.of(prepared)
        resume_state = saving.take(pass_name(learner, kind)) if saving is not None else None
        with DaskBackend(
            self._connection.client,
            run,
            run_spec,
            call_work,
            restarts=self._connection.is_ours,
            notify=self._notify,
        ) as backend:
            pool = WorkerPool(
                backend,
                min_workers=config.min_workers,
                notify=self._notify,
                check_seconds=CHECK_SECONDS,
            )
            leases = Leases(
                timeout_seconds=config.timeout_seconds, max_failures=config.max_failures
            )
            peer_timeout = min(COLLECTIVE_SECONDS, config.timeout_seconds)
            group = WorkerGroup(pool, leases, peer_timeout_seconds=peer_timeout)
            rendezvous = Rendezvous(group, run, timeout_seconds=peer_timeout)
            if resume_state is None:
                pool.wait_for(pool.min_workers)
                chosen = choose_sync(prepared, learner, config, pool, rendezvous)
                emit(chosen)
            else:
                chosen = saved_choice(resume_state)
                if chosen is None:
                    raise DataError("the checkpoint does not say how its workers were synchronised")
            way = "all-reduce" if chosen.sync == "allreduce" else "rounds of local SGD"
            self._notify(f"{way}: {chosen.reason}")
            train_pass = self._make_pass(
                prepared, learner, emit, rendezvous, chosen, kind, saving, resume_state
            )
            if train_pass.record is not None:
                return train_pass.record
            return train_pass.run(pool, leases)

    def _make_pass(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        rendezvous: Rendezvous,
        chosen: SyncChosen,
        kind: str,
        saving: Checkpointing | None,
        resume_state: PassState | None,
    ) -> SharedLearnerPass:
        if chosen.sync == "allreduce":
            assert chosen.lanes is not None
            return AllReducePass(
                prepared,
                learner,
                emit,
                rendezvous,
                lanes=chosen.lanes,
                kind=kind,
                saving=saving,
                chosen=chosen,
                resume_state=resume_state,
            )
        assert chosen.shares is not None
        if resume_state is None or resume_state[0].get("record") is None:
            # Opening the run must not count in the first round.
            rendezvous.group.gather(chosen.shares)
        rendezvous.group.disband()
        rows = self._config.round_rows
        windows_per_share = (
            None if rows is None else max(1, round(rows / prepared.source.window_rows))
        )
        return RoundsPass(
            prepared,
            learner,
            emit,
            shares=chosen.shares,
            windows_per_share=windows_per_share,
            kind=kind,
            saving=saving,
            chosen=chosen,
            resume_state=resume_state,
        )


def choose_sync(
    prepared: Prepared,
    learner: Learner,
    config: ClusterConfig,
    pool: WorkerPool,
    rendezvous: Rendezvous,
) -> SyncChosen:
    """Return how the workers train together, the reason, and the measurements.

    Raises ConfigError when --sync requests what is not possible.
    """
    batch_size, workers = learner.engine.batch_size, len(pool)
    obstacle = why_not_allreduce(prepared.config, batch_size)
    sync: Literal["allreduce", "rounds"] = "rounds"
    timing: GroupTiming | None = None
    if config.sync == "allreduce":
        if obstacle is not None:
            raise ConfigError(f"--sync allreduce: {obstacle}")
        sync, reason = "allreduce", _REQUESTED
    elif config.sync == "rounds":
        reason = _REQUESTED
    elif obstacle is not None:
        reason = f"all-reduce is not possible: {obstacle}"
    elif workers < 2:
        reason = (
            "there was one worker at the start, which has no other to wait for (--min-workers"
            " waits for more)"
        )
    else:
        try:
            timing = measure_group(rendezvous, learner, config.lanes)
            sync, reason = _compare(timing, batch_size)
        except GroupFailedError as error:
            reason = f"workers could not form a group to sum gradients ({error})"
    return SyncChosen(
        sync=sync,
        reason=reason,
        workers_at_start=workers,
        sum_seconds=None if timing is None else timing.sum_seconds,
        part_seconds=None if timing is None else timing.local_step_seconds,
        task_seconds=None if timing is None else timing.task_seconds,
        lanes=config.lanes if sync == "allreduce" else None,
        shares=_shares(prepared.config, batch_size, workers) if sync == "rounds" else None,
    )


def _shares(config: Config, batch_size: int, workers: int) -> int:
    refuse_shares(config, batch_size)
    return config.cluster.shares or count_shares(batch_size, workers)


def _compare(timing: GroupTiming, batch_size: int) -> tuple[Literal["allreduce", "rounds"], str]:
    """Return the faster way to synchronise, and the reason."""
    pays = timing.sum_seconds <= MAX_SUM_FRACTION * timing.local_step_seconds
    comparison = "at most" if pays else "more than"
    reason = (
        f"a sum of gradients over {timing.workers} workers takes {_short(timing.sum_seconds)},"
        f" which is {comparison} a quarter of a worker's part of a step of {batch_size:,} rows,"
        f" {_short(timing.local_step_seconds)}"
    )
    return ("allreduce" if pays else "rounds"), reason


def _short(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else format_seconds(seconds)
