"""Rounds of local SGD, as bookkeeping: which windows each share trains on, and how far the run has
come.

```
windows of the plan   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
                      (3 shares, 2 windows a share and round)
round 0               share 0: 0 3   share 1: 1 4   share 2: 2 5
round 1               share 0: 6     share 1: 7     share 2: 8
```
Shares are constants of the run and workers are not: whichever worker a share falls to, and however
often it is tried, it begins at the same parameters and takes the same rows. So the result does not
depend on who worked, nor on who died.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streamtrain.cluster.scheduling import Lease, Leases, dispatch
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.plan.plan import Plan, Window

#: A round is about so long on a worker: at 1 ms a task, what the driver adds stays below 1 %.
ROUND_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one task of a round trains on: the first `rows` rows of `windows`, in order.

    With `ends_epoch` a short minibatch ends it.
    """

    number: int
    windows: tuple[Window, ...]
    rows: int
    ends_epoch: bool


def count_shares(batch_size: int, workers: int) -> int:
    """How many shares a minibatch of the run is cut into: the largest divisor of its size that is
    no more than the workers.

    >>> count_shares(1024, 6), count_shares(1000, 6), count_shares(7, 6)
    (4, 5, 1)
    """
    return max(shares for shares in range(1, max(1, workers) + 1) if batch_size % shares == 0)


def windows_a_round(rows_per_second: float, window_rows: int) -> int:
    """Windows of a share in a round, from the speed of one worker; at least one.

    >>> windows_a_round(5e6, 2**21), windows_a_round(1e5, 2**21)
    (5, 1)
    """
    return max(1, round(ROUND_SECONDS * rows_per_second / window_rows))


class Rounds:
    """The rounds of a run, one after another: `deal`, then `commit` once all its shares are done.

    Memory: one epoch's plan.

    `plan_of`: the plan of an epoch. `last_row`: where the run ends, None when it ends with
    `last_epoch` alone.
    """

    def __init__(
        self,
        plan_of: Callable[[int], Plan],
        *,
        shares: int,
        windows_a_share: int,
        last_row: int | None,
        last_epoch: int | None,
    ):
        self._plan_of, self.shares, self.windows_a_share = plan_of, shares, windows_a_share
        self._last_row, self._last_epoch = last_row, last_epoch
        self.number = self.epoch = self.window = self.rows = 0
        self._plan: Plan | None = None
        self._dealt: tuple[int, bool] = (0, False)

    @property
    def done(self) -> bool:
        return self.epoch == self._last_epoch or (
            self._last_row is not None and self.rows >= self._last_row
        )

    def go_on(self, *, number: int, epoch: int, window: int, rows: int) -> None:
        """Begin at a round that follows those which were committed before."""
        self.number, self.epoch, self.window, self.rows, self._plan = (
            number,
            epoch,
            window,
            rows,
            None,
        )

    def deal(self) -> list[Share]:
        """The shares of the next round, all of them, those without a window included; the same
        until it is committed.
        """
        if self._plan is None or self._plan.epoch != self.epoch:
            self._plan = self._plan_of(self.epoch)
        stop = min(len(self._plan), self.window + self.shares * self.windows_a_share)
        windows = [self._plan.window(index) for index in range(self.window, stop)]
        limits = [0] * self.shares
        left = self._last_row - self.rows if self._last_row is not None else None
        dealt: list[list[Window]] = [[] for _ in range(self.shares)]
        for place, window in enumerate(windows):
            taken = window.num_rows if left is None else min(window.num_rows, left)
            if left is not None:
                left -= taken
            if taken or not window.num_rows:
                dealt[place % self.shares].append(window)
                limits[place % self.shares] += taken
        self._dealt = (stop, stop == len(self._plan))
        whole = sum(limits) == sum(window.num_rows for window in windows)
        return [
            Share(
                number=i,
                windows=tuple(dealt[i]),
                rows=limits[i],
                ends_epoch=stop == len(self._plan) and whole,
            )
            for i in range(self.shares)
        ]

    def commit(self, rows: int) -> None:
        """The dealt round is done.

        `rows` were trained on, fewer than dealt where the null policy dropped some.
        """
        stop, ended = self._dealt
        self.number, self.rows = self.number + 1, self.rows + rows
        self.epoch, self.window = (self.epoch + 1, 0) if ended else (self.epoch, stop)


def run_round(
    crew: WorkerPool, leases: Leases, shares: Sequence[Share], payload: Callable[[Share], Any]
) -> list[Any]:
    """Have every share done by some worker; their results in the order of the shares."""
    results: list[Any] = [None] * len(shares)

    def take(lease: Lease, result: Any) -> None:
        results[lease.item] = result

    for share in shares:
        leases.add(share.number, 1.0 + share.rows)
    dispatch(crew, leases, lambda lease: payload(shares[lease.item]), take)
    return results
