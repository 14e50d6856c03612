"""Whether a run wants a cluster, and whether its options allow one.

What a cluster needs is imported only if a run wants one.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from streamtrain.base.words import plural
from streamtrain.config import AUTO, ClusterConfig, Config
from streamtrain.errors import ConfigError
from streamtrain.run.passes import PassRunner, run_pass


def is_wanted(config: ClusterConfig) -> bool:
    """Return True when a flag, the config or `DASK_SCHEDULER_ADDRESS` names a cluster."""
    named = (config.scheduler, config.scheduler_file, config.workers, config.factory)
    return any(value is not None for value in named) or bool(
        os.environ.get("DASK_SCHEDULER_ADDRESS")
    )


def why_not_allreduce(config: Config, batch_size: int) -> str | None:
    """Return why a run cannot use all-reduce, with what to do instead; None when it can."""
    lanes = config.cluster.lanes
    if batch_size % lanes:
        return (
            f"a minibatch of {plural(batch_size, 'row')} cannot be cut into {lanes} lanes. Use a"
            f" multiple of {lanes}, or --set cluster.lanes to a divisor of it."
        )
    if config.data.on_null == "drop":
        return (
            "lanes count rows in advance, but the rows that --on-null drop leaves out are known"
            " only once they are read. Use --on-null impute or --sync rounds."
        )
    return None


def refuse_shares(config: Config, batch_size: int) -> None:
    """Raise ConfigError where a minibatch is not a whole number of shares."""
    shares = config.cluster.shares
    if shares is not None and batch_size % shares:
        raise ConfigError(
            f"cluster.shares is {shares}, which does not divide the minibatch of"
            f" {plural(batch_size, 'row')}. Use a divisor of it."
        )


def check_options(verb: Literal["sweep", "train"], config: Config) -> None:
    """Raise ConfigError for options with which workers could not train, or would differ.

    They are refused before the run has a record, and not when its first pass starts. A
    `train.batch_size` of auto is refused for `train` only: a sweep does not use that key, and one
    configuration file serves both.
    """
    if config.data.on_bad_shard == "quarantine":
        raise ConfigError(
            "--on-bad-shard quarantine is for one machine: workers could step over different"
            " rows. Leave out what `streamtrain verify` lists."
        )
    train = config.train
    if train.max_time is not None:
        raise ConfigError(
            "--max-time ends a pass by one machine's clock; on a cluster give --epochs or"
            " --max-rows."
        )
    if train.batch_schedule is not None or (verb == "train" and train.batch_size == AUTO):
        flag = "--batch-schedule" if train.batch_schedule else "--batch-size auto"
        raise ConfigError(
            f"{flag} is for one machine: shares and lanes are parts of one minibatch size. Give"
            " the rows of --batch-size on a cluster."
        )
    if verb == "train" and config.cluster.sync == "rounds":
        refuse_shares(config, train.constant_size)
    if verb == "train" and config.cluster.sync == "allreduce":
        obstacle = why_not_allreduce(config, train.constant_size)
        if obstacle is not None:
            raise ConfigError(f"--sync allreduce: {obstacle}")


def choose_runner(
    verb: Literal["sweep", "train"],
    config: Config,
    out: Path,
    *,
    client: Any = None,
    notify: Callable[[str], None] = lambda _: None,
) -> AbstractContextManager[PassRunner]:
    """Return a context with what runs the passes of a run whose folder is `out`.

    `client`: the caller's own `distributed.Client`, which takes precedence over the config.
    `notify` receives messages for the user. The secrets of the config are hidden in Dask's report.
    Raises ConfigError for options that are for one machine; entering raises ConfigError,
    ResourceError.
    """
    if client is None and not is_wanted(config.cluster):
        return nullcontext(run_pass)
    check_options(verb, config)
    # Most runs have no cluster, and need not wait for what belongs to one.
    from streamtrain.cluster.runner import cluster_runner

    return cluster_runner(verb, config.cluster, out, client, notify, config.data.secrets)
