"""The plan of an epoch: the windows in order, and the spans of each.

Pure arithmetic: it depends neither on the data nor on the batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamtrain.plan.holdout import Holdout
from streamtrain.plan.order import SPANS, WINDOW, cut_windows, deal_lanes, make_key, read_sequence
from streamtrain.plan.spans import Spans

#: Values of a window by default: 40 MiB of float32, for any number of columns.
WINDOW_VALUES = 2**21 * 5

#: A table of at most this many values, 256 MiB of float32, is one window where memory allows it, so
#: that rows in order of time or of a key are mixed as a whole.
WHOLE_VALUES = 2**26


def default_window_rows(num_columns: int) -> int:
    """Return the default size of a window of a larger table, which depends only on its columns.

    >>> default_window_rows(5)
    2097152
    """
    return max(1, WINDOW_VALUES // num_columns)


def whole_window_rows(num_rows: int, num_columns: int) -> int | None:
    """Return the rows of a window that is the whole table.

    None where the table is larger than `WHOLE_VALUES`, or fits a default window anyway.

    >>> whole_window_rows(3_000_000, 5), whole_window_rows(2_000_000, 5)
    (3000000, None)
    """
    is_whole = num_rows * num_columns <= WHOLE_VALUES
    return num_rows if is_whole and num_rows > default_window_rows(num_columns) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """The spans of one block.

    Attributes:
        epoch: The epoch that the window belongs to.
        index: Index of the window within the epoch.
        key: Key of the shuffle within the window.
        spans: Span numbers in the order in which their rows are dealt, int64.
        num_rows: Rows without the held-out ones; the null policy may drop some of them.
        ends_epoch: True for the last window of the epoch.
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

    Attributes:
        spans: The spans of the data set.
        holdout: The rows that are left out.
        seed: Seed of the run.
        trial: Trial of the run.
        epoch: Epoch of the trial.
        sequence: Span numbers in the order in which they are read, int64.
        offsets: Offset in `sequence` of the first span of each window, int64 (windows + 1,).
        window_starts: Row of the epoch at which each window starts, int64 (windows + 1,).
        lane: Number of the lane; None if the epoch is not split into lanes.
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
        """Rows of the epoch that are not held out; the null policy may drop some of them."""
        return int(self.window_starts[-1])

    def window(self, index: int) -> Window:
        """Return window number `index`."""
        words = [self.seed, self.trial, self.epoch, WINDOW, index]
        if self.lane is not None:
            words.append(self.lane)
        return Window(
            epoch=self.epoch,
            index=index,
            key=make_key(*words),
            spans=self.sequence[self.offsets[index] : self.offsets[index + 1]],
            num_rows=int(self.window_starts[index + 1] - self.window_starts[index]),
            ends_epoch=index + 1 == len(self),
        )

    def windows(self, first: int = 0) -> Iterator[Window]:
        """Iterate over the windows from number `first` on."""
        return (self.window(index) for index in range(first, len(self)))

    def window_at(self, row: int) -> int:
        """Return the index of the window with row `row` of the epoch; past the end, len(self)."""
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
    """Deal the spans of an epoch to lanes, and return the plan of each lane.

    A lane's windows have `window_rows / lanes` rows, so that all lanes together shuffle as many
    rows at a time as one window has. A lane without spans has a plan without windows. With one
    lane, the plan equals the plan of `make_plan`.
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
