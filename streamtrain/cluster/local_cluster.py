"""A Dask cluster on this machine, for `--workers N`.

Any user of this machine can reach a port on loopback, and whoever connects to a Dask scheduler can
run code as its owner. So the processes use TLS in both directions, with a key that is made for this
cluster and stays in memory. Dask's dashboard has no authentication, so it is off unless the config
asks for it.
"""

import ast
import asyncio
import logging
import multiprocessing.resource_tracker
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from streamtrain.base.budget import default_readers
from streamtrain.errors import ConfigError, ResourceError

_LOOPBACK = "127.0.0.1"

#: Dask settings of our clusters. Blocks belong to us, so Dask must not move or spill anything; one
#: task at a time is enough.
_SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.work-stealing": False,
    "distributed.comm.retry.count": 3,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.no-workers-timeout": "120s",
    "distributed.worker.http.routes": [],
}

#: How long Dask waits for a dead worker to come back. After that Dask removes it for good, also
#: when it has died again or is still starting on a busy machine. Its nanny restarts it in any case.
_GIVE_UP_AFTER = {"distributed.deploy.lost-worker-timeout": "365 days"}

#: A worker that has not ended by itself within this time is killed.
_END_SECONDS = 1.0

#: Environment variables that set the threads of a library; workers share the cores.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

#: Names that a script uses to find out whether it is the first process.
_GUARD_NAMES = {"__name__", "parent_process", "current_process"}


@contextmanager
def local_cluster(workers: int, *, dashboard: bool, distributed: Any) -> Iterator[Any]:
    """Start `workers` worker processes on loopback, which share the cores.

    Raises ConfigError when each worker would run the caller's script and start workers again, and
    when the package cryptography is missing.
    """
    import dask

    _require_main_guard()
    threads = max(1, default_readers() // workers)
    environment = dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"MALLOC_ARENA_MAX": "2"}
    settings = {**_SETTINGS, "distributed.nanny.pre-spawn-environ": environment}
    if not dashboard:
        settings["distributed.scheduler.http.routes"] = []
    with ExitStack() as stack:
        # Dask reads this setting at each death, not when the cluster starts.
        stack.enter_context(dask.config.set(_GIVE_UP_AFTER))
        with dask.config.set(settings), _workers_ignore_ctrl_c():
            cluster = stack.enter_context(
                start_twice(
                    partial(
                        distributed.LocalCluster,
                        n_workers=workers,
                        processes=True,
                        threads_per_worker=threads,
                        host=_LOOPBACK,
                        security=_security(distributed),
                        # None would make the server listen on every address.
                        dashboard_address=f"{_LOOPBACK}:0",
                        worker_dashboard_address=None,
                        scheduler_kwargs={"dashboard": dashboard},
                        silence_logs=logging.ERROR,
                        resources={"trainer": 1},
                    )
                )
            )
        try:
            yield cluster
        finally:
            with suppress(Exception):  # the cluster ends them too
                cluster.sync(_end_workers, list(cluster.workers.values()))


def start_twice(start: Callable[[], Any]) -> Any:
    """Return what `start` returns: a Dask client or cluster.

    Dask asserts that the thread of its event loop runs within 10 s. On a machine that was suspended
    or overloaded meanwhile it does not, so an AssertionError is answered by one more attempt.
    Raises ResourceError when that fails too.
    """
    try:
        return start()
    except AssertionError:
        pass
    try:
        return start()
    except AssertionError:
        raise ResourceError(
            "Dask's event loop did not start within 10 s, twice. The machine is overloaded: end"
            " other work on it and try again."
        ) from None


async def _end_workers(nannies: list[Any]) -> None:
    """End the worker processes: Dask alone would wait longer for tasks whose results are unused."""
    await asyncio.gather(*(nanny.close(timeout=_END_SECONDS) for nanny in nannies))


def _security(distributed: Any) -> Any:
    """Return TLS with a key and a certificate of its own, valid for a year."""
    try:
        return distributed.Security.temporary()
    except ImportError:
        raise ConfigError(
            "--workers encrypts with TLS, which needs cryptography: pip install"
            " 'streamtrain[cluster]'."
        ) from None


@contextmanager
def _workers_ignore_ctrl_c() -> Iterator[None]:
    """Leave Ctrl-C, which a terminal sends to all processes, to the driver.

    Threads and processes inherit the signals that are blocked: so do Dask's event loop, which is
    started inside, and all workers that it starts and restarts. A Ctrl-C in the meantime is
    delivered at the end.
    """
    # Started later, before the first worker, the tracker would unblock the signal.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _require_main_guard() -> None:
    """Raise ConfigError when the script that calls us would be run again by each worker.

    A new process imports the script that was started, up to what is guarded by its name.
    """
    main = sys.modules["__main__"]
    path, frame = getattr(main, "__file__", None), sys._getframe()
    while frame is not None and not (
        frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"
    ):
        frame = frame.f_back
    if path is None or frame is None:
        return
    try:
        with open(path, "rb") as file:
            script = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):  # not a script in Python
        return
    if not _is_guarded(script, frame.f_lineno):
        raise ConfigError(
            f"{path}, line {frame.f_lineno}: workers import this script, which would start workers"
            ' again. Put the code that it runs below `if __name__ == "__main__":`.'
        )


def _is_guarded(script: ast.Module, line: int) -> bool:
    """Return whether a condition on the process's name comes before a line, or around it.

    >>> _is_guarded(ast.parse("if __name__ == '__main__': train()"), 1)
    True
    >>> _is_guarded(ast.parse("train()"), 1)
    False
    """
    tests = (
        node.test for node in ast.walk(script) if isinstance(node, ast.If) and node.lineno <= line
    )
    return any(
        getattr(name, "id", None) in _GUARD_NAMES or getattr(name, "attr", None) in _GUARD_NAMES
        for test in tests
        for name in ast.walk(test)
    )
