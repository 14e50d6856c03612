"""Connecting to a Dask cluster, or starting one on this machine: on loopback, so nobody else can
reach it.

Whoever can connect to a Dask scheduler can run code on it and on its workers. So nothing here opens
a port to other machines; a cluster of several machines is the user's own, with TLS where the
network is not trusted.

Where the scheduler is, by flag, file or environment, and a client of it: with an end to the wait
for what is no scheduler.
"""

import asyncio
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.base.budget import default_readers
from streamtrain.base.plugins import import_function
from streamtrain.cluster.versions import check_answer, versions
from streamtrain.config import ClusterConfig
from streamtrain.errors import ConfigError, ResourceError, StreamTrainError, first_line

LOOPBACK = "127.0.0.1"

#: How long a scheduler and its workers may take to answer.
CONNECT_SECONDS = 30.0

#: Of clusters that we start. Blocks belong to us, so Dask must not move or spill anything; one task
#: at a time is enough.
OWN_CLUSTER = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.work-stealing": False,
    "distributed.comm.retry.count": 3,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.no-workers-timeout": "120s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connected client, and whether its workers are ours to start anew."""

    client: Any
    own: bool

    @property
    def dashboard(self) -> str | None:
        """The link to Dask's dashboard, where there is one."""
        with suppress(Exception):
            return self.client.dashboard_link or None
        return None


def is_wanted(config: ClusterConfig) -> bool:
    """True when a flag, the config or `DASK_SCHEDULER_ADDRESS` names a cluster."""
    named = (config.scheduler, config.scheduler_file, config.workers, config.factory)
    return any(value is not None for value in named) or bool(
        os.environ.get("DASK_SCHEDULER_ADDRESS")
    )


@contextmanager
def connect(config: ClusterConfig, client: Any = None) -> Iterator[Connection]:
    """A client of the cluster that the config names; what was started here ends with the context.

    `client`: one that exists already.

    Raises ConfigError for what cannot be used, ResourceError when no scheduler answers or a version
    of streamtrain differs.
    """
    distributed = _import_distributed()
    with ExitStack() as stack:
        if client is None:
            client, own = _open(config, distributed, stack)
        else:
            own = False
        if client.asynchronous:
            raise ConfigError(
                "client= is asynchronous; give a distributed.Client(asynchronous=False)."
            )
        connection = Connection(client=client, own=own)
        check_workers(connection)
        yield connection


def check_workers(connection: Connection) -> None:
    """Compare versions with the workers that are there now.

    Raises ConfigError, or warns where only the last bits may differ.

    The scheduler unpickles what it hands on, so without streamtrain it would refuse every task.
    Workers that join later are checked before their first task.
    """
    client = connection.client
    try:
        check_answer(
            versions(),
            client.sync(_ask_scheduler, client, callback_timeout=CONNECT_SECONDS),
            "the scheduler",
        )
        found = client.sync(
            client.run, versions, on_error="return", callback_timeout=CONNECT_SECONDS
        )
    except OSError as error:
        raise ResourceError(
            f"the cluster's scheduler or workers do not answer ({error}). Look at their logs."
        ) from error
    odd = []
    for address, answer in found.items():
        odd += check_answer(versions(), answer, address)
    if odd:
        warnings.warn(
            f"{odd[0]}{f' (and {len(odd) - 1} more)' if len(odd) > 1 else ''}: losses may differ in"
            " their last bits.",
            stacklevel=3,
        )


async def _ask_scheduler(client: Any) -> Any:
    """Its versions, or what it raised when it was asked."""
    try:
        return await client.run_on_scheduler(versions)
    except Exception as error:
        return error


@contextmanager
def performance_report(connection: Connection, path: Path) -> Iterator[None]:
    """Dask's own report of what its workers did, as one HTML file; nothing where Bokeh is not
    installed, or the cluster is lost.
    """
    distributed = _import_distributed()
    try:
        import bokeh  # noqa: F401 - of the extra [cluster]: without it Dask's report would be an error page
    except ImportError:
        yield
        return
    report = distributed.performance_report(filename=str(path))
    report.__enter__()
    try:
        yield
    finally:
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # it asks every worker: one may hang
            connection.client.sync(
                report.__aexit__, None, None, None, callback_timeout=CONNECT_SECONDS
            )


def _open(config: ClusterConfig, distributed: Any, stack: ExitStack) -> tuple[Any, bool]:
    if config.workers is not None:
        cluster = stack.enter_context(_local_cluster(config.workers, distributed))
        return stack.enter_context(distributed.Client(cluster, timeout=CONNECT_SECONDS)), True
    if config.factory is not None:
        made = _make(config.factory)
        if isinstance(made, distributed.Client):
            return stack.enter_context(made), False
        if not hasattr(made, "scheduler_address"):
            raise ConfigError(
                f"--cluster {config.factory} returned {type(made).__name__}. Return a Dask cluster"
                " or a distributed.Client."
            )
        return (
            stack.enter_context(
                distributed.Client(stack.enter_context(made), timeout=CONNECT_SECONDS)
            ),
            False,
        )
    address = find_address(config)
    where = (
        address
        if config.scheduler_file is None
        else f"{address}, as {config.scheduler_file} names it,"
    )
    security = _security(config, distributed)
    try:
        return stack.enter_context(open_client(address, security, CONNECT_SECONDS)), False
    # a tls:// address without certificates is a TypeError
    except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
        raise ResourceError(
            f"the Dask scheduler {where} does not answer: {first_line(error)}. Check the address,"
            " the network, and TLS."
        ) from None


@contextmanager
def _local_cluster(workers: int, distributed: Any) -> Iterator[Any]:
    """So many worker processes on loopback, which share the cores."""
    import dask

    threads = max(1, default_readers() // workers)
    before = {
        name: str(threads)
        for name in (
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "NUMBA_NUM_THREADS",
        )
    }
    environment = {**before, "MALLOC_ARENA_MAX": "2"}
    with dask.config.set({**OWN_CLUSTER, "distributed.nanny.pre-spawn-environ": environment}):
        cluster = distributed.LocalCluster(
            # a dashboard address of None would listen on every address
            n_workers=workers,
            processes=True,
            threads_per_worker=threads,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            worker_dashboard_address=None,
            silence_logs=logging.ERROR,
            resources={"trainer": 1},
        )
    with cluster:
        yield cluster


def _make(factory: str) -> Any:
    """What the user's function returns. Raises ConfigError for what it raises."""
    function = import_function("--cluster", factory)
    try:
        return function()
    except StreamTrainError:
        raise
    except Exception as error:
        raise ConfigError(
            f"--cluster {factory} raised {type(error).__name__}: {first_line(error)}. Mend the"
            " factory."
        ) from error


def _security(config: ClusterConfig, distributed: Any) -> Any:
    """TLS from the config; None leaves it to Dask's own configuration."""
    files = {
        "tls_ca_file": config.tls_ca_file,
        "tls_client_cert": config.tls_cert,
        "tls_client_key": config.tls_key,
    }
    given = {name: value for name, value in files.items() if value is not None}
    if not given:
        return None
    for name, value in given.items():
        if not Path(value).is_file():
            raise ConfigError(
                f"cluster.{re.sub('_client', '', name)} is {value}, which is not a file."
            )
    return distributed.Security(require_encryption=True, **given)


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ConfigError(
            "a cluster needs the extra [cluster]: pip install 'streamtrain[cluster]'."
        ) from None
    return distributed


#: A file that a scheduler has begun to write is read again after so many seconds, so many times.
_READ_AGAIN, _READS = 0.05, 10


def find_address(config: ClusterConfig) -> str:
    """The address that the config names, or else `DASK_SCHEDULER_ADDRESS`.

    Raises ConfigError for a file that has none.
    """
    if config.scheduler_file is not None:
        return _read_address(config.scheduler_file)
    return config.scheduler or os.environ["DASK_SCHEDULER_ADDRESS"]


def open_client(address: str, security: Any, seconds: float) -> Any:
    """A connected client.

    Raises OSError when no scheduler answers in time, and what Dask raises for an address that it
    cannot use.
    """
    import distributed  # of the extra [cluster]; the caller says so where it is missing

    class Client(distributed.Client):
        """Dask's time-out ends with the connection: by a port that lets everybody in and says
        nothing it would wait for ever.
        """

        async def _start(self, **kwargs: Any) -> Any:
            try:
                return await asyncio.wait_for(super()._start(**kwargs), 1.5 * seconds)
            except TimeoutError:
                await self._close(fast=True)
                raise OSError(
                    f"something listens there that did not greet within {1.5 * seconds:.0f} s, as a"
                    " scheduler does"
                ) from None

    return Client(address, timeout=seconds, security=security)


def _read_address(path: str) -> str:
    if not os.path.isfile(path):
        raise ConfigError(
            f"--scheduler-file {path} does not exist. Start the scheduler with the same"
            " --scheduler-file."
        )
    for _ in range(_READS):
        try:
            with open(path, encoding="utf-8") as file:
                address = json.load(file)["address"]
            if isinstance(address, str):
                return address
        except OSError as error:
            raise ConfigError(
                f"--scheduler-file {path} cannot be read: {error.strerror}. Let its owner give you"
                " the right to."
            ) from None
        except (ValueError, KeyError, TypeError):
            pass
        time.sleep(_READ_AGAIN)
    raise ConfigError(
        f"--scheduler-file {path} holds no scheduler's address. Name the file that `dask scheduler"
        " --scheduler-file` wrote."
    )
