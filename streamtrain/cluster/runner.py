"""Where learners run: on this machine, or on the workers of a Dask cluster.

Both are called like `passes.run_pass`.

Where `train` runs on a cluster: one pass of one learner, in rounds or by all-reduce.

How `train` goes over workers: rounds of local SGD, or an all-reduce at every step; as asked for,
or by what a step and a sum take here.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from streamtrain.base.units import format_seconds
from streamtrain.cluster.allreduce.allreduce_pass import COLLECTIVE_SECONDS, LanesPass, Rendezvous
from streamtrain.cluster.allreduce.lane_tasks import AllReduceTiming, measure_exchange
from streamtrain.cluster.allreduce.lane_work import LaneWork
from streamtrain.cluster.cluster_pass import ClusterPass, pass_name
from streamtrain.cluster.connect import Connection, connect, is_wanted, performance_report
from streamtrain.cluster.dask_backend import DaskBackend
from streamtrain.cluster.local_sgd.rounds import count_shares
from streamtrain.cluster.local_sgd.rounds_pass import RoundsPass
from streamtrain.cluster.run_spec import draw
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.sweep_pass import SweepRunner
from streamtrain.cluster.worker import call, ready
from streamtrain.cluster.worker_group import Broken, WorkerGroup
from streamtrain.cluster.worker_pool import LOOK_SECONDS, WorkerPool
from streamtrain.config import ClusterConfig
from streamtrain.errors import ConfigError
from streamtrain.records import Emit, PassEnded, SyncChosen
from streamtrain.run.passes import PassRunner, run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpointing import Checkpointer, PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Json

#: Dask's own report of a run, in its folder.
DASK_REPORT = "dask-report.html"


@contextmanager
def place(
    verb: Literal["sweep", "train"],
    config: ClusterConfig,
    out: Path,
    *,
    client: Any = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[PassRunner]:
    """Where the passes of a run go.

    `client`: a `distributed.Client` of the caller's, which wins over the config.
    """
    if client is None and not is_wanted(config):
        yield run_pass
        return
    with connect(config, client) as connection:
        tell(_greeting(connection))
        chosen = (
            SweepRunner(connection, config, tell)
            if verb == "sweep"
            else nullcontext(TrainRunner(connection, config, tell))
        )
        with performance_report(connection, out / DASK_REPORT), chosen as run:
            yield run


def _greeting(connection: Any) -> str:
    workers = len(connection.client.scheduler_info(n_workers=-1)["workers"])
    at = connection.client.scheduler.address if connection.client.scheduler is not None else "?"
    dashboard = connection.dashboard
    return f"cluster: {workers:,} worker{'' if workers == 1 else 's'} at {at}" + (
        f"; dashboard {dashboard}" if dashboard else ""
    )


class TrainRunner:
    """Call it like `passes.run_pass`, with one learner. `tell` hears what happens, for people."""

    def __init__(self, connection: Connection, config: ClusterConfig, tell: Callable[[str], None]):
        self._connection, self._config, self._tell = connection, config, tell

    def __call__(
        self,
        prepared: Prepared,
        learners: list[Learner],
        trial: int,
        emit: Emit,
        *,
        kind: str = "tuning",
        max_seconds: float | None = None,
        saving: Checkpointer | None = None,
    ) -> PassEnded:
        """See `run_pass`.

        Raises ConfigError for what workers cannot do, ResourceError when the cluster is lost: the
        last commit is saved.
        """
        (learner,), config, run = learners, self._config, uuid.uuid4().hex[:12]
        blueprint = draw(prepared)
        begun = saving.take(pass_name(learner, kind)) if saving is not None else None
        with DaskBackend(
            self._connection.client,
            run,
            blueprint,
            call,
            restarts=self._connection.own,
            tell=self._tell,
        ) as fabric:
            crew = WorkerPool(
                fabric, min_workers=config.min_workers, tell=self._tell, look_seconds=LOOK_SECONDS
            )
            leases = Leases(
                timeout_seconds=config.timeout_seconds, max_failures=config.max_failures
            )
            notice_seconds = min(COLLECTIVE_SECONDS, config.timeout_seconds)
            meeting = Rendezvous(
                WorkerGroup(crew, leases, notice_seconds=notice_seconds),
                run,
                timeout_seconds=notice_seconds,
            )
            if begun is None:
                crew.wait_for(crew.min_workers)
                chosen = choose_sync(prepared, learner, config, crew, meeting)
                emit(SyncChosen(**chosen))
            else:
                chosen = begun[0]["chosen"]
            self._tell(
                f"{'all-reduce' if chosen['sync'] == 'allreduce' else 'rounds of local SGD'}:"
                f" {chosen['reason']}"
            )
            work = self._pass(
                prepared, learner, emit, meeting, chosen, kind=kind, saving=saving, begun=begun
            )
            return work.record if work.record is not None else work.run(crew, leases)

    def _pass(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        meeting: Rendezvous,
        chosen: Json,
        *,
        kind: str,
        saving: Checkpointer | None,
        begun: PassState | None,
    ) -> ClusterPass:
        if chosen["sync"] == "allreduce":
            return LanesPass(
                prepared,
                learner,
                emit,
                meeting,
                lanes=chosen["lanes"],
                kind=kind,
                saving=saving,
                chosen=chosen,
                begun=begun,
            )
        if begun is None or begun[0]["record"] is None:
            meeting.gang.gather(chosen["shares"])  # opening the run is no part of a round
        meeting.gang.disband()
        rows = self._config.round_rows
        windows = None if rows is None else max(1, round(rows / prepared.window_rows))
        return RoundsPass(
            prepared,
            learner,
            emit,
            shares=chosen["shares"],
            windows_a_share=windows,
            kind=kind,
            saving=saving,
            chosen=chosen,
            begun=begun,
        )


#: All-reduce is chosen where a sum takes at most this part of what a worker does between two sums:
#: then four fifths are training.
MOST_WAITING = 0.25


def choose_sync(
    prepared: Prepared,
    learner: Learner,
    config: ClusterConfig,
    crew: WorkerPool,
    meeting: Rendezvous,
) -> Json:
    """What the run's record and its checkpoints keep: `sync`, its `reason`, what was measured, and
    the constants of that way.

    Raises ConfigError when --sync asks for what cannot be.
    """
    batch_size, workers = learner.engine.batch_size, len(crew)
    obstacle = why_not_allreduce(prepared, config.lanes, batch_size)
    measured: Json = {}
    if config.sync == "allreduce":
        if obstacle is not None:
            raise ConfigError(f"--sync allreduce: {obstacle}")
        sync, reason = "allreduce", "as asked for"
    elif config.sync == "rounds":
        sync, reason = "rounds", "as asked for"
    elif obstacle is not None:
        sync, reason = "rounds", f"all-reduce cannot be: {obstacle}"
    elif workers < 2:
        sync, reason = (
            "rounds",
            (
                "one worker was there at the start, and has nothing to wait for (--min-workers"
                " waits for more)"
            ),
        )
    else:
        sync, reason, measured = _measured(learner, config, crew, meeting)
    constants = (
        {"lanes": config.lanes}
        if sync == "allreduce"
        else {"shares": _shares(config, batch_size, workers)}
    )
    return {"sync": sync, "reason": reason, "workers_at_start": workers, **measured, **constants}


def why_not_allreduce(prepared: Prepared, lanes: int, batch_size: int) -> str | None:
    """What stands against it, with the next move; None when nothing does."""
    train = prepared.config.train
    if batch_size % lanes:
        return (
            f"a minibatch of {batch_size:,} rows cannot be cut into {lanes} lanes. Use a multiple"
            f" of {lanes}, or --set cluster.lanes to a divisor of it."
        )
    if prepared.source.on_null == "drop":
        return (
            "rows that --on-null drop steps over are not known before they are read, and lanes"
            " count rows. Use --on-null impute or --sync rounds."
        )
    if train.early_stop is not None:
        return "--early-stop would have to be judged alike on every worker. Use --sync rounds."
    return None


def _shares(config: ClusterConfig, batch_size: int, workers: int) -> int:
    if config.shares is not None and batch_size % config.shares:
        raise ConfigError(
            f"cluster.shares is {config.shares}, which does not divide the minibatch of"
            f" {batch_size:,} rows. Use a divisor of it."
        )
    return config.shares or count_shares(batch_size, workers)


def _measured(
    learner: Learner, config: ClusterConfig, crew: WorkerPool, meeting: Rendezvous
) -> tuple[str, str, Json]:
    """By a sum and a part of a step on the workers that are there, and a task that does nothing,
    all timed now.
    """
    work = {
        "batch_size": learner.engine.batch_size,
        "lrs": tuple(learner.engine.learning_rates),
        "trial": learner.trial,
        "lanes": config.lanes,
    }
    try:
        group = meeting.meet(config.lanes)
        started = time.perf_counter()
        meeting.gang.do(dict.fromkeys(group, (ready, None)))
        task_seconds = time.perf_counter() - started
        found: list[AllReduceTiming] = list(
            meeting.gang.do(
                {
                    worker: (measure_exchange, LaneWork(**work, keeps_best=False, group=own))
                    for worker, own in group.items()
                }
            ).values()
        )
    except Broken as error:
        return "rounds", f"workers did not come together for a sum of gradients ({error})", {}
    meeting.gang.succeeded()
    sum_seconds, part_seconds = (
        max(getattr(one, name) for one in found) for name in ("sum_seconds", "part_seconds")
    )
    pays = sum_seconds <= MOST_WAITING * part_seconds
    reason = (
        f"a sum of gradients over {len(group)} workers takes {_short(sum_seconds)}, which is"
        f" {'at most' if pays else 'more than'} a quarter of a worker's part of a step of"
        f" {work['batch_size']:,} rows, {_short(part_seconds)}"
    )
    measured = {
        "sum_seconds": sum_seconds,
        "part_seconds": part_seconds,
        "task_seconds": task_seconds,
    }
    return "allreduce" if pays else "rounds", reason, measured


def _short(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else format_seconds(seconds)
