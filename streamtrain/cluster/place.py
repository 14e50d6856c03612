"""Where learners run: on this machine, or on the workers of a Dask cluster.

Both are called like `passes.run_pass`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from streamtrain.cluster.connect import connect, is_wanted, performance_report
from streamtrain.cluster.sweeping import SweepPlace
from streamtrain.cluster.training import TrainPlace
from streamtrain.config import ClusterConfig
from streamtrain.passes import RunPass, run_pass

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
) -> Iterator[RunPass]:
    """Where the passes of a run go.

    `client`: a `distributed.Client` of the caller's, which wins over the config.
    """
    if client is None and not is_wanted(config):
        yield run_pass
        return
    with connect(config, client) as connection:
        tell(_greeting(connection))
        chosen = (
            SweepPlace(connection, config, tell)
            if verb == "sweep"
            else nullcontext(TrainPlace(connection, config, tell))
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
