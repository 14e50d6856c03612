"""The driver's interface to a cluster, and the events a cluster reports.

A Dask cluster and a simulated one implement the same contract.
"""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The task of lease `number` ended on `worker` and returned `result`."""

    number: int
    worker: str
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The task of lease `number` raised on `worker`, or was lost on the way to or from it."""

    number: int
    worker: str
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """`worker` can be given a task."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """`worker` is gone: its task will never end."""

    worker: str


Event = Finished | Failed | Joined | Left


class ClusterBackend(Protocol):
    """Workers by address, each doing one task at a time. Owned by one thread.

    Workers that were there before the driver connected are reported as `Joined` too. Every method
    raises ResourceError when the cluster itself is lost.
    """

    def now(self) -> float:
        """Return the time in seconds on the clock that deadlines are measured by."""
        ...

    def submit(self, number: int, worker: str, payload: Any) -> None:
        """Send the task of lease `number` to a worker that has none.

        If the worker is already gone, its `Left` event follows.
        """
        ...

    def wait(self, seconds: float | None) -> list[Event]:
        """Return the events since the last call, in order.

        Blocks until there is one, or for `seconds` at most; None: without a limit.
        """
        ...

    def restart(self, worker: str) -> None:
        """Restart a worker that did not answer in time, if the cluster is ours.

        The worker then leaves, and another one joins.
        """
        ...
