"""How `train` goes over workers: rounds of local SGD, or an all-reduce at every step; as asked for,
or by what a step and a sum take here.
"""

import time

from streamtrain.cluster.crew import Crew
from streamtrain.cluster.gang import Broken
from streamtrain.cluster.lane_tasks import Exchange, measure_exchange
from streamtrain.cluster.lane_work import LaneWork
from streamtrain.cluster.rounds import count_shares
from streamtrain.cluster.synchronous import Meeting
from streamtrain.cluster.worker import ready
from streamtrain.config import ClusterConfig
from streamtrain.errors import ConfigError
from streamtrain.learners.learner import Learner
from streamtrain.prepared import Prepared
from streamtrain.types import Record
from streamtrain.units import format_seconds

#: All-reduce is chosen where a sum takes at most this part of what a worker does between two sums:
#: then four fifths are training.
MOST_WAITING = 0.25


def choose_sync(
    prepared: Prepared, learner: Learner, config: ClusterConfig, crew: Crew, meeting: Meeting
) -> Record:
    """What the run's record and its checkpoints keep: `sync`, its `reason`, what was measured, and
    the constants of that way.

    Raises ConfigError when --sync asks for what cannot be.
    """
    batch_size, workers = learner.engine.batch_size, len(crew)
    obstacle = why_not_allreduce(prepared, config.lanes, batch_size)
    measured: Record = {}
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
    learner: Learner, config: ClusterConfig, crew: Crew, meeting: Meeting
) -> tuple[str, str, Record]:
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
        found: list[Exchange] = list(
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
