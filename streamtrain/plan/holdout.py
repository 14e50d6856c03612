"""The held-out rows: drawn once by a key, the same in every epoch and trial."""

import math
from dataclasses import dataclass, field

import numpy as np

from streamtrain.plan.order import HOLDOUT, make_key, sample
from streamtrain.plan.spans import Spans

#: Held-out rows and statistics come from this many spans, spread evenly over the data set; from
#: more only when spans are so small that these would hold fewer than MIN_SHARE rows for each
#: held-out one.
SPREAD_SPANS = 64
MIN_SHARE = 4

#: Of a held-out row: its position, int64.
HELD_OUT_BYTES = 8

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Holdout:
    """Held-out rows of each span that has some: `positions[span]` is ascending, relative to the
    span's start.

    `spread`: the span numbers they were drawn from, ascending; all of the survey's reading.
    """

    spread: np.ndarray
    positions: dict[int, np.ndarray] = field(default_factory=dict)

    def of(self, span: int) -> np.ndarray:
        """Ascending int64 positions within the span; empty for most spans."""
        return self.positions.get(span, _NONE)

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for rows in self.positions.values())


def spread_spans(num_spans: int, share: float) -> np.ndarray:
    """Span numbers spread evenly over `range(num_spans)`, ascending.

    `share`: held-out rows as a share of all rows.

    >>> spread_spans(6400, 0.0001)[:3].tolist(), len(spread_spans(6400, 0.2))
    ([50, 150, 250], 5120)
    """
    count = min(num_spans, max(SPREAD_SPANS, math.ceil(num_spans * share * MIN_SHARE)))
    return ((np.arange(count) + 0.5) * num_spans / count).astype(np.int64)


def holdout_rows(num_rows: int, *, asked: int | float | None, eval_rows: int) -> int:
    """How many rows to hold out.

    `asked` as rows or a fraction; when None, min(eval_rows, 20 % of the rows).
    """
    if asked is None:
        return min(eval_rows, num_rows // 5)
    return round(asked * num_rows) if isinstance(asked, float) else asked


def draw_holdout(spans: Spans, rows: int, seed: int) -> Holdout:
    """Draw `rows` rows from the spread spans, in proportion to their sizes; counts are exact.

    Raises ValueError when the spread spans have fewer rows than that.
    """
    chosen = spread_spans(len(spans), rows / int(spans.num_rows.sum()))
    sizes = spans.num_rows[chosen]
    total = int(sizes.sum())
    if rows > total:
        raise ValueError(
            f"cannot hold out {rows:,} rows: they come from {len(chosen)} spans with {total:,} rows"
        )
    # Exact shares: differences of rounded cumulative sums. In Python's integers, since a product of
    # two counts of rows may not fit int64.
    ends = [end * rows // total for end in np.cumsum(sizes).tolist()]
    shares = np.diff([0, *ends])
    positions = {
        int(span): sample(int(size), int(share), make_key(seed, HOLDOUT, int(span)))
        for span, size, share in zip(chosen, sizes, shares, strict=True)
        if share
    }
    return Holdout(spread=chosen, positions=positions)
