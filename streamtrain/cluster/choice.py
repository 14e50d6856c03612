"""Whether a run wants a cluster; what a cluster needs is imported only if it does."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from streamtrain.base.redact import NO_SECRETS, Secrets
from streamtrain.config import ClusterConfig
from streamtrain.run.passes import PassRunner, run_pass


def is_wanted(config: ClusterConfig) -> bool:
    """Return True when a flag, the config or `DASK_SCHEDULER_ADDRESS` names a cluster."""
    named = (config.scheduler, config.scheduler_file, config.workers, config.factory)
    return any(value is not None for value in named) or bool(
        os.environ.get("DASK_SCHEDULER_ADDRESS")
    )


def choose_runner(
    verb: Literal["sweep", "train"],
    config: ClusterConfig,
    out: Path,
    *,
    client: Any = None,
    notify: Callable[[str], None] = lambda _: None,
    secrets: Secrets = NO_SECRETS,
) -> AbstractContextManager[PassRunner]:
    """Return a context with what runs the passes of a run whose folder is `out`.

    `client`: the caller's own `distributed.Client`, which takes precedence over the config.
    `notify` receives messages for the user. `secrets` are hidden in Dask's report. Entering
    raises ConfigError, ResourceError.
    """
    if client is None and not is_wanted(config):
        return nullcontext(run_pass)
    # Most runs have no cluster, and need not wait for what belongs to one.
    from streamtrain.cluster.runner import cluster_runner

    return cluster_runner(verb, config, out, client, notify, secrets)
