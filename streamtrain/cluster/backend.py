"""What the driver asks of a cluster, and what it hears from one: a Dask cluster and a simulated one
keep the same contract.
"""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The task of lease `number` has ended on `worker` and gave `result`."""

    number: int
    worker: str
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The task of lease `number` raised on `worker`, or was lost with the way there."""

    number: int
    worker: str
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """`worker` can be given a task."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """`worker` is gone: what it was doing will never end."""

    worker: str


Event = Finished | Failed | Joined | Left


class ClusterBackend(Protocol):
    """Workers by address, each doing one task at a time. Owned by one thread.

    A worker that was there from the beginning joins like any other. Raises ResourceError when the
    cluster itself is lost.
    """

    def now(self) -> float:
        """Seconds on the clock that deadlines are measured by."""
        ...

    def submit(self, number: int, worker: str, payload: Any) -> None:
        """Send the task of lease `number` to a worker that has none.

        A worker that is gone meanwhile leaves later.
        """
        ...

    def wait(self, seconds: float | None) -> list[Event]:
        """What has happened since the last call, in its order; blocks until there is something, or
        for so long at most.
        """
        ...

    def recover(self, worker: str) -> None:
        """Start a worker anew that has not answered in time, where that is ours to do; it leaves
        and another one joins.
        """
        ...
