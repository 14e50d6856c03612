"""Rounds of local SGD, as bookkeeping: the windows of each share, and how far the run has come.

```
windows of the plan   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
                      (3 shares, 2 windows per share and round)
round 0               share 0: 0 3   share 1: 1 4   share 2: 2 5
round 1               share 0: 6     share 1: 7     share 2: 8
```
Shares are constants of the run, and workers are not: whichever worker trains a share, and however
often it is retried, it starts from the same parameters and takes the same rows. So the result does
not depend on which workers did the work or died.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streamtrain.cluster.scheduling import Lease, Leases, dispatch
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.plan.plan import Plan, Window

#: The aim for the time of a round on a worker: at 1 ms per task, the driver adds less than 1 %.
ROUND_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one task of a round trains on: the first `rows` rows of `windows`, in order.

    With `ends_epoch` a short minibatch at the end becomes a separate step.
    """

    number: int
    windows: tuple[Window, ...]
    rows: int
    ends_epoch: bool


def count_shares(batch_size: int, workers: int) -> int:
    """Return the number of shares of a minibatch: its largest divisor of at most `workers`.

    >>> count_shares(1024, 6), count_shares(1000, 6), count_shares(7, 6)
    (4, 5, 1)
    """
    return max(shares for shares in range(1, max(1, workers) + 1) if batch_size % shares == 0)


def windows_per_round(rows_per_second: float, window_rows: int) -> int:
    """Return the windows of a share in one round, from the speed of one worker; at least one.

    >>> windows_per_round(5e6, 2**21), windows_per_round(1e5, 2**21)
    (5, 1)
    """
    return max(1, round(ROUND_SECONDS * rows_per_second / window_rows))


class Rounds:
    """The rounds of a run, one after another: `deal`, then `commit` once all its shares are done.

    Takes the memory of one epoch's plan. `plan_of`: the plan of an epoch. `last_row`: where the run
    ends, None when it ends with `last_epoch` alone.
    """

    def __init__(
        self,
        plan_of: Callable[[int], Plan],
        *,
        shares: int,
        windows_per_share: int,
        last_row: int | None,
        last_epoch: int | None,
    ):
        self._plan_of = plan_of
        self.shares = shares
        self.windows_per_share = windows_per_share
        self._last_row, self._last_epoch = last_row, last_epoch
        self.number = self.epoch = self.window = self.rows = 0
        self._plan: Plan | None = None
        #: The window after the dealt round, and whether the epoch has no more.
        self._dealt: tuple[int, bool] = (0, False)

    @property
    def done(self) -> bool:
        """True when the last row or the last epoch has been trained on."""
        if self.epoch == self._last_epoch:
            return True
        return self._last_row is not None and self.rows >= self._last_row

    def resume(self, *, number: int, epoch: int, window: int, rows: int) -> None:
        """Continue with round `number`, after rounds that were committed before."""
        self.number = number
        self.epoch, self.window, self.rows = epoch, window, rows
        self._plan = None

    def deal(self) -> list[Share]:
        """Return all shares of the next round, including those without a window.

        They are the same until the round is committed.
        """
        if self._plan is None or self._plan.epoch != self.epoch:
            self._plan = self._plan_of(self.epoch)
        stop = min(len(self._plan), self.window + self.shares * self.windows_per_share)
        windows = [self._plan.window(index) for index in range(self.window, stop)]
        rows_dealt = [0] * self.shares
        rows_left = None if self._last_row is None else self._last_row - self.rows
        dealt: list[list[Window]] = [[] for _ in range(self.shares)]
        for index, window in enumerate(windows):
            rows = window.num_rows if rows_left is None else min(window.num_rows, rows_left)
            if rows_left is not None:
                rows_left -= rows
            # a window whose rows are all held out is dealt like any other
            if rows or not window.num_rows:
                dealt[index % self.shares].append(window)
                rows_dealt[index % self.shares] += rows
        reaches_end = stop == len(self._plan)
        self._dealt = (stop, reaches_end)
        # If the run ends but the epoch does not, a short minibatch takes no step.
        ends_epoch = reaches_end and sum(rows_dealt) == sum(window.num_rows for window in windows)
        return [
            Share(
                number=number,
                windows=tuple(dealt[number]),
                rows=rows_dealt[number],
                ends_epoch=ends_epoch,
            )
            for number in range(self.shares)
        ]

    def commit(self, rows: int) -> None:
        """Finish the dealt round.

        `rows`: those that were trained on, fewer than dealt where the null policy dropped some.
        """
        stop, reaches_end = self._dealt
        self.number += 1
        self.rows += rows
        if reaches_end:
            self.epoch, self.window = self.epoch + 1, 0
        else:
            self.window = stop


def run_round(
    pool: WorkerPool,
    leases: Leases,
    shares: Sequence[Share],
    make_payload: Callable[[Share], Any],
) -> list[Any]:
    """Have every share trained by some worker; return the results in the order of the shares."""
    results: list[Any] = [None] * len(shares)

    def take(lease: Lease, result: Any) -> None:
        results[lease.item] = result

    for share in shares:
        leases.add(share.number, 1.0 + share.rows)
    dispatch(pool, leases, lambda lease: make_payload(shares[lease.item]), take)
    return results
