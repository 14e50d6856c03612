"""Where learners run: on this machine, or on the workers of a Dask cluster. Both are called like `passes.run_pass`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamtrain.cluster.connect import connect, is_wanted, performance_report
from streamtrain.cluster.sweeping import SweepPlace
from streamtrain.config import ClusterConfig
from streamtrain.passes import run_pass

#: Dask's own report of a run, in its folder.
DASK_REPORT = "dask-report.html"


@contextmanager
def sweep_place(config: ClusterConfig, out: Path, *, client: Any = None, tell: Callable[[str], None] = lambda _: None) -> Iterator[Callable]:
    """Where the passes of a sweep run. `client`: a `distributed.Client` of the caller's, which wins over the config."""
    if client is None and not is_wanted(config):
        yield run_pass
        return
    with connect(config, client) as connection:
        tell(_greeting(connection))
        with performance_report(connection, out / DASK_REPORT), SweepPlace(connection, config, tell) as place:
            yield place


def _greeting(connection: Any) -> str:
    workers = len(connection.client.scheduler_info(n_workers=-1)["workers"])
    at = connection.client.scheduler.address if connection.client.scheduler is not None else "?"
    dashboard = connection.dashboard
    return f"cluster: {workers:,} worker{'' if workers == 1 else 's'} at {at}" + (f"; dashboard {dashboard}" if dashboard else "")
