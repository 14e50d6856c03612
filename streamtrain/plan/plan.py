"""The plan of an epoch: which spans make which window, in which order.

Pure arithmetic; it knows no data and no batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamtrain.plan.holdout import Holdout
from streamtrain.plan.order import SPANS, WINDOW, cut_windows, deal_lanes, make_key, read_sequence
from streamtrain.plan.spans import Spans

#: Rows shuffled together when nothing is said: 40 MiB of float32, whatever the number of columns.
WINDOW_VALUES = 2**21 * 5


def default_window_rows(num_columns: int) -> int:
    """A constant of the run, from the columns only.

    >>> default_window_rows(5)
    2097152
    """
    return max(1, WINDOW_VALUES // num_columns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """What one block is made of: span numbers in the order of their deal, and the key of the
    shuffle.

    `num_rows`: all but the held-out ones; the null policy may drop some of them.
    """

    epoch: int
    index: int
    key: int
    spans: np.ndarray
    num_rows: int
    ends_epoch: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The windows of one epoch of one trial, or of one lane of it.

    `window_starts` (windows + 1,): the row at which each begins.
    """

    spans: Spans
    holdout: Holdout
    seed: int
    trial: int
    epoch: int
    sequence: np.ndarray
    offsets: np.ndarray
    window_starts: np.ndarray
    lane: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_rows(self) -> int:
        """Rows of the epoch that are not held out: what is delivered, unless the null policy drops
        some.
        """
        return int(self.window_starts[-1])

    def window(self, index: int) -> Window:
        return Window(
            epoch=self.epoch,
            index=index,
            key=make_key(
                self.seed,
                self.trial,
                self.epoch,
                WINDOW,
                index,
                *(() if self.lane is None else (self.lane,)),
            ),
            spans=self.sequence[self.offsets[index] : self.offsets[index + 1]],
            num_rows=int(self.window_starts[index + 1] - self.window_starts[index]),
            ends_epoch=index + 1 == len(self),
        )

    def windows(self, first: int = 0) -> Iterator[Window]:
        return (self.window(index) for index in range(first, len(self)))

    def window_at(self, row: int) -> int:
        """The window that holds the epoch's row number `row`; `len(self)` past the end."""
        return int(np.searchsorted(self.window_starts, row, side="right")) - 1


def make_plan(
    spans: Spans, holdout: Holdout, *, seed: int, trial: int, epoch: int, window_rows: int
) -> Plan:
    """Order the spans by a key and cut the sequence into windows of about `window_rows` rows."""
    sequence = read_sequence(spans, make_key(seed, trial, epoch, SPANS))
    return _plan(
        spans, holdout, sequence, seed=seed, trial=trial, epoch=epoch, window_rows=window_rows
    )


def make_lanes(
    spans: Spans,
    holdout: Holdout,
    *,
    seed: int,
    trial: int,
    epoch: int,
    window_rows: int,
    lanes: int,
) -> list[Plan]:
    """The plans of an epoch's lanes: the spans of `make_plan`, dealt to lanes, each cut into
    windows of its own.

    A lane's windows are shorter by as much as there are lanes, so that all lanes together shuffle
    as many rows as one window does. A lane without spans has a plan without windows; one lane alone
    is `make_plan`.
    """
    sequences = deal_lanes(spans, make_key(seed, trial, epoch, SPANS), lanes)
    window_rows = max(1, window_rows // lanes)
    return [
        _plan(
            spans,
            holdout,
            sequence,
            seed=seed,
            trial=trial,
            epoch=epoch,
            window_rows=window_rows,
            lane=lane if lanes > 1 else None,
        )
        for lane, sequence in enumerate(sequences)
    ]


def _plan(
    spans: Spans,
    holdout: Holdout,
    sequence: np.ndarray,
    *,
    seed: int,
    trial: int,
    epoch: int,
    window_rows: int,
    lane: int | None = None,
) -> Plan:
    kept = spans.num_rows.copy()
    for span, rows in holdout.positions.items():
        kept[span] -= len(rows)
    offsets = cut_windows(spans.num_rows[sequence], window_rows)
    rows_before = np.concatenate([[0], np.cumsum(kept[sequence])])
    return Plan(
        spans=spans,
        holdout=holdout,
        seed=seed,
        trial=trial,
        epoch=epoch,
        sequence=sequence,
        offsets=offsets,
        window_starts=rows_before[offsets],
        lane=lane,
    )
