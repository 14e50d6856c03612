"""Connecting to a Dask cluster, or starting one on this machine (local_cluster.py).

Anyone who can connect to a Dask scheduler can run code on it and on its workers. So nothing here
opens a port to other machines; a cluster of several machines is the user's own, with TLS where the
network is not trusted.

The scheduler is named by a flag, a file or the environment. Waiting ends after CONNECT_SECONDS also
for an endpoint that is not a scheduler.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from streamtrain.base.atomic_files import write_atomically
from streamtrain.base.plugins import import_function
from streamtrain.base.redact import Secrets
from streamtrain.cluster.local_cluster import local_cluster, start_twice
from streamtrain.cluster.versions import check_answer, import_ahead, versions
from streamtrain.config import ClusterConfig
from streamtrain.errors import ConfigError, ResourceError, StreamTrainError, first_line
from streamtrain.run.directory import EVENTS

#: The module with all work that is sent to workers.
WORK_MODULE = "streamtrain.cluster.runner"

#: How long a scheduler and its workers may take to answer.
CONNECT_SECONDS = 30.0

#: A scheduler file that is still being written is read again, after this time, this many times.
_READ_RETRY_SECONDS, _READ_ATTEMPTS = 0.05, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connected client.

    `is_ours`: we started the cluster, and may restart its workers. `has_dashboard`: not of ours,
    unless asked for.
    """

    client: Any
    is_ours: bool
    has_dashboard: bool = True

    @property
    def dashboard(self) -> str | None:
        """The link to Dask's dashboard; None when there is none."""
        with suppress(Exception):
            return (self.has_dashboard and self.client.dashboard_link) or None
        return None


@contextmanager
def connect(config: ClusterConfig, client: Any = None) -> Iterator[Connection]:
    """Yield a connection to the cluster that the config names; stop at the end what started here.

    `client`: one that exists already. Raises ConfigError for what cannot be used or differs in its
    version of streamtrain, and ResourceError when no scheduler answers.
    """
    distributed = _import_distributed()
    with ExitStack() as stack:
        is_ours = False
        if client is None:
            client, is_ours = _open(config, distributed, stack)
        if client.asynchronous:
            raise ConfigError(
                "client= is asynchronous; give a distributed.Client(asynchronous=False)."
            )
        if client.status == "closed":
            raise ConfigError("client= is closed; give a distributed.Client that is connected.")
        connection = Connection(
            client=client, is_ours=is_ours, has_dashboard=config.dashboard or not is_ours
        )
        check_workers(connection)
        with suppress(OSError):
            client.sync(
                client.run,
                import_ahead,
                WORK_MODULE,
                wait=False,
                on_error="ignore",
                callback_timeout=CONNECT_SECONDS,
            )
        yield connection


def check_workers(connection: Connection) -> None:
    """Compare versions with the scheduler and the workers that are there now.

    Workers that join later are checked before their first task. Raises ConfigError, or warns where
    only the last bits of results may differ. The scheduler unpickles the tasks it passes on, so
    without streamtrain it would refuse all of them.
    """
    client = connection.client
    try:
        check_answer(
            versions(),
            client.sync(_ask_scheduler, client, callback_timeout=CONNECT_SECONDS),
            "the scheduler",
        )
        answers = client.sync(
            client.run, versions, on_error="return", callback_timeout=CONNECT_SECONDS
        )
    except OSError as error:
        raise ResourceError(
            f"the cluster's scheduler or workers do not answer ({error}). Look at their logs."
        ) from error
    differences = []
    for address, answer in answers.items():
        differences += check_answer(versions(), answer, address)
    if differences:
        others = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        warnings.warn(
            f"{differences[0]}{others}: losses may differ in their last bits.", stacklevel=3
        )


async def _ask_scheduler(client: Any) -> Any:
    """Return the scheduler's versions, or the error of asking for them."""
    try:
        return await client.run_on_scheduler(versions)
    except Exception as error:
        return error


@contextmanager
def performance_report(connection: Connection, path: Path, secrets: Secrets) -> Iterator[None]:
    """Write Dask's own report of what its workers did, as one HTML file, without `secrets`.

    Writes nothing when Bokeh is not installed, the cluster is lost, Ctrl-C ends the run, since
    drawing it takes seconds, or the run was refused and has an empty log: such a folder is removed.
    """
    distributed = _import_distributed()
    try:
        # Of the extra [cluster]; without it Dask's report would be an error page.
        import bokeh  # noqa: F401
    except ImportError:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        report = distributed.performance_report(filename=str(draft))
        report.__enter__()
        try:
            yield
        finally:
            is_interrupted = not isinstance(sys.exception() or Exception(), Exception)
            log = path.parent / EVENTS
            is_refused = log.exists() and not log.stat().st_size
            if not is_interrupted and not is_refused:
                with suppress(Exception), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                # Dask asks every worker, and one may hang.
                connection.client.sync(
                    report.__aexit__, None, None, None, callback_timeout=CONNECT_SECONDS
                )
                write_atomically(path, secrets.hide(draft.read_text(encoding="utf-8")).encode())


def _open(config: ClusterConfig, distributed: Any, stack: ExitStack) -> tuple[Any, bool]:
    """Return a client, and whether the cluster is ours."""
    if config.workers is not None:
        cluster = stack.enter_context(
            local_cluster(config.workers, dashboard=config.dashboard, distributed=distributed)
        )
        return stack.enter_context(_client_of(cluster, distributed)), True
    if config.factory is not None:
        return _open_factory(config.factory, distributed, stack), False
    address = find_address(config)
    named = address
    if config.scheduler_file is not None:
        named = f"{address}, as {config.scheduler_file} names it,"
    security = _security(config, distributed)
    try:
        return stack.enter_context(open_client(address, security, CONNECT_SECONDS)), False
    # A tls:// address without certificates is a TypeError.
    except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
        message = (
            f"the Dask scheduler {named} does not answer: {first_line(error)}. Check the address,"
            " the network, and TLS."
        )
        raise ResourceError(Secrets.of({}, [address]).hide(message)) from None


def _open_factory(factory: str, distributed: Any, stack: ExitStack) -> Any:
    """Return a client of the cluster that the user's function returns, or that client itself."""
    result = _call_factory(factory)
    if isinstance(result, distributed.Client):
        return stack.enter_context(result)
    if not hasattr(result, "scheduler_address"):
        raise ConfigError(
            f"--cluster {factory} returned {type(result).__name__}. Return a Dask cluster or a"
            " distributed.Client."
        )
    cluster = stack.enter_context(result)
    return stack.enter_context(_client_of(cluster, distributed))


def _client_of(cluster: Any, distributed: Any) -> Any:
    return start_twice(partial(distributed.Client, cluster, timeout=CONNECT_SECONDS))


def _call_factory(factory: str) -> Any:
    """Call the user's function and return its result. Raises ConfigError for any error in it."""
    function = import_function("--cluster", factory)
    try:
        return function()
    except StreamTrainError:
        raise
    except Exception as error:
        raise ConfigError(
            f"--cluster {factory} raised {type(error).__name__}: {first_line(error)}. Fix the"
            " factory."
        ) from error


def _security(config: ClusterConfig, distributed: Any) -> Any:
    """Return the TLS settings of the config; None leaves them to Dask's own configuration."""
    files = {
        "tls_ca_file": config.tls_ca_file,
        "tls_cert": config.tls_cert,
        "tls_key": config.tls_key,
    }
    given = {name: path for name, path in files.items() if path is not None}
    if not given:
        return None
    for name, path in given.items():
        if not Path(path).is_file():
            raise ConfigError(f"cluster.{name} is {path}, which is not a file.")
    dask_names = {"tls_cert": "tls_client_cert", "tls_key": "tls_client_key"}
    return distributed.Security(
        require_encryption=True,
        **{dask_names.get(name, name): path for name, path in given.items()},
    )


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ConfigError(
            "a cluster needs the extra [cluster]: pip install 'streamtrain[cluster]'."
        ) from None
    return distributed


def find_address(config: ClusterConfig) -> str:
    """Return the address that the config names, or else `DASK_SCHEDULER_ADDRESS`.

    Raises ConfigError for a scheduler file without an address.
    """
    if config.scheduler_file is not None:
        return _read_address(config.scheduler_file)
    return config.scheduler or os.environ["DASK_SCHEDULER_ADDRESS"]


def open_client(address: str, security: Any, seconds: float) -> Any:
    """Return a connected client.

    Raises OSError when no scheduler answers in time, and what Dask raises for an address that it
    cannot use.
    """
    import distributed  # of the extra [cluster]; the caller reports where it is missing

    class Client(distributed.Client):
        """A client that does not wait for ever.

        Dask's time-out covers only the connection: an endpoint that accepts it and then sends
        nothing would block the client.
        """

        async def _start(self, **kwargs: Any) -> Any:
            try:
                return await asyncio.wait_for(super()._start(**kwargs), 1.5 * seconds)
            except TimeoutError:
                await self._close(fast=True)
                raise OSError(
                    "the endpoint accepted the connection but did not complete the Dask handshake"
                    f" within {1.5 * seconds:.0f} s"
                ) from None

    return start_twice(partial(Client, address, timeout=seconds, security=security))


def _read_address(path: str) -> str:
    if not os.path.isfile(path):
        raise ConfigError(
            f"--scheduler-file {path} does not exist. Start the scheduler with the same"
            " --scheduler-file."
        )
    for _ in range(_READ_ATTEMPTS):
        try:
            with open(path, encoding="utf-8") as file:
                address = json.load(file)["address"]
            if isinstance(address, str):
                return address
        except OSError as error:
            raise ConfigError(
                f"--scheduler-file {path} cannot be read: {error.strerror}. Ask its owner for"
                " permission to read it."
            ) from None
        except (ValueError, KeyError, TypeError):
            pass
        time.sleep(_READ_RETRY_SECONDS)
    raise ConfigError(
        f"--scheduler-file {path} does not contain a scheduler's address. Name the file that"
        " `dask scheduler --scheduler-file` wrote."
    )
