"""The hold-out: rows drawn by a key, the same in every epoch and trial."""

import math
from dataclasses import dataclass, field

import numpy as np

from streamtrain.plan.order import HOLDOUT, make_key, sample
from streamtrain.plan.spans import Spans

#: Held-out rows and statistics come from this many spans, spread evenly over the data set. If spans
#: are so small that these would have fewer than MIN_SHARE rows per held-out row, more are used.
SPREAD_SPANS = 64
MIN_SHARE = 4

#: At most one row in so many is held out where no number is given, so of fewer rows none is.
FEWEST_ROWS = 5

#: Bytes per held-out row: its position, int64.
HELD_OUT_BYTES = 8

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Holdout:
    """The held-out rows of every span.

    Attributes:
        spread: Ascending numbers of the spans from which rows were drawn; the survey reads no
            others.
        positions: Span number → ascending int64 positions within the span; spans without held-out
            rows are absent.
    """

    spread: np.ndarray
    positions: dict[int, np.ndarray] = field(default_factory=dict)

    def of(self, span: int) -> np.ndarray:
        """Return the ascending int64 positions of a span's held-out rows; empty for most spans."""
        return self.positions.get(span, _NONE)

    @property
    def num_rows(self) -> int:
        """Number of held-out rows."""
        return sum(len(rows) for rows in self.positions.values())


def spread_spans(num_spans: int, share: float) -> np.ndarray:
    """Return ascending span numbers, spread evenly over `range(num_spans)`.

    `share` is the fraction of all rows that is held out.

    >>> spread_spans(6400, 0.0001)[:3].tolist(), len(spread_spans(6400, 0.2))
    ([50, 150, 250], 5120)
    """
    return evenly_spread(num_spans, max(SPREAD_SPANS, math.ceil(num_spans * share * MIN_SHARE)))


def evenly_spread(num_spans: int, count: int) -> np.ndarray:
    """Return ascending numbers of `count` spans, spread evenly, or of all where there are fewer."""
    count = min(num_spans, count)
    return ((np.arange(count) + 0.5) * num_spans / count).astype(np.int64)


def holdout_rows(num_rows: int, *, asked: int | float | None, eval_rows: int) -> int:
    """Return how many of `num_rows` rows to hold out.

    `asked` is a number of rows (int) or a fraction (float); None means min(eval_rows, 20 % of the
    rows).
    """
    if asked is None:
        return min(eval_rows, num_rows // FEWEST_ROWS)
    return round(asked * num_rows) if isinstance(asked, float) else asked


def draw_holdout(spans: Spans, rows: int, seed: int) -> Holdout:
    """Draw exactly `rows` rows from evenly spread spans, in proportion to the spans' sizes.

    Raises ValueError if these spans have fewer rows.
    """
    chosen = spread_spans(len(spans), rows / int(spans.num_rows.sum()))
    sizes = spans.num_rows[chosen]
    total = int(sizes.sum())
    if rows > total:
        raise ValueError(
            f"cannot hold out {rows:,} rows: they come from {len(chosen)} spans with {total:,} rows"
        )
    # Differences of rounded cumulative sums add up exactly. Python integers, because the product of
    # two row counts may not fit into int64.
    ends = [end * rows // total for end in np.cumsum(sizes).tolist()]
    shares = np.diff([0, *ends])
    positions = {
        int(span): sample(int(size), int(share), make_key(seed, HOLDOUT, int(span)))
        for span, size, share in zip(chosen, sizes, shares, strict=True)
        if share
    }
    return Holdout(spread=chosen, positions=positions)
