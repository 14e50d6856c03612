"""How unlike the spans of a data set are: rows in order of time or of a key, before the first step.

One-way analysis of variance of each column over the spans of the survey (docs/science.md §6). F
assumes neither equal variances nor normal rows where spans have the same size, so smaller spans
than half of the largest are left out; and a span may differ by a few extreme rows, so the span that
differs most is left out too. `tests/science/test_span_variation.py` has the share of shuffled data
that is called unlike.
"""

import numpy as np

from streamtrain.base.units import two_digits
from streamtrain.errors import shown
from streamtrain.records import SpanVariation
from streamtrain.science.scipy_functions import Vector, f_tail
from streamtrain.science.shuffle_quality import BAD_SHUFFLE_ABOVE

#: Spans are called unlike below this probability, of all columns together.
LEVEL = 1e-3

#: The minibatch for which the design effect is said before any size was tried.
MINIBATCH_ROWS = 256

_FEWEST_SPANS = 3


def span_variation(
    count_S: np.ndarray,
    mean_SC: Vector,
    squares_SC: Vector,
    columns: tuple[str, ...],
    *,
    spans: int,
    window_spans: float,
) -> SpanVariation | None:
    """Return the column in which spans differ most clearly; None with too few spans or rows.

    `count_S`, `mean_SC`, `squares_SC`: rows, mean and sum of squared deviations of each span that
    was read. `spans`: of the whole data set; `window_spans`: those shuffled together.
    """
    kept = 2 * count_S >= count_S.max(initial=0)
    count_S, mean_SC, squares_SC = count_S[kept], mean_SC[kept], squares_SC[kept]
    if len(count_S) <= _FEWEST_SPANS or count_S.sum() <= len(count_S):
        return None
    share_C, p_C = np.zeros(len(columns)), np.ones(len(columns))
    for column in range(len(columns)):
        share_C[column], p_C[column] = _analysis(count_S, mean_SC[:, column], squares_SC[:, column])
    clearest = int(np.lexsort((-share_C, p_C))[0])
    return SpanVariation(
        column=columns[clearest],
        share=float(share_C[clearest]),
        p_value=min(1.0, float(p_C[clearest]) * len(columns)),
        spans=spans,
        window_spans=window_spans,
    )


def _analysis(count_S: np.ndarray, mean_S: Vector, squares_S: Vector) -> tuple[float, float]:
    """Return the intraclass correlation and the p-value of one column, without its worst span."""
    distance_S = count_S * (mean_S - np.average(mean_S, weights=count_S)) ** 2
    kept = np.arange(len(count_S)) != np.argmax(distance_S)
    count_S, mean_S, within = count_S[kept], mean_S[kept], float(squares_S[kept].sum())
    rows, groups = int(count_S.sum()), len(count_S)
    between = float(count_S @ (mean_S - np.average(mean_S, weights=count_S)) ** 2) / (groups - 1)
    within /= rows - groups
    # the means of a constant column differ by rounding only
    rounding = rows * (1e-13 * float(np.abs(mean_S).max())) ** 2
    if not np.isfinite(between + within) or between <= rounding:
        return 0.0, 1.0
    typical = (rows - float((count_S**2).sum()) / rows) / (groups - 1)
    share = (between - within) / (between + (typical - 1) * within)
    if not within:
        return max(share, 0.0), 0.0
    return max(share, 0.0), float(f_tail(groups - 1, rows - groups, np.array(between / within)))


def design_effect(variation: SpanVariation, batch_size: int) -> float:
    """Return DEFF of minibatches of `batch_size` rows for a quantity that varies as the column.

    Two rows of a window are of the same span with a probability of 1/`window_spans`, where two rows
    of the data set are with 1/`spans`. It is 1 where the window is the data set.
    """
    if variation.spans < 2:
        return 1.0
    all_spans = 1 / variation.spans
    excess = max(0.0, 1 / max(variation.window_spans, 1.0) - all_spans) / (1 - all_spans)
    return 1 + (batch_size - 1) * variation.share * excess


def mixing_spans(variation: SpanVariation) -> float:
    """Return the least spans of a window by which `design_effect` is at most BAD_SHUFFLE_ABOVE.

    At minibatches of MINIBATCH_ROWS rows; at most all spans.

    >>> one = SpanVariation(column="y", share=0.01, p_value=0.0, spans=1000, window_spans=8)
    >>> round(mixing_spans(one), 1)
    24.9
    """
    if variation.spans < 2 or variation.share <= 0:
        return 1.0
    excess = (BAD_SHUFFLE_ABOVE - 1) / ((MINIBATCH_ROWS - 1) * variation.share)
    all_spans = 1 / variation.spans
    return 1 / min(1.0, all_spans + excess * (1 - all_spans))


def is_unlike(variation: SpanVariation | None) -> bool:
    """True when rows are certainly not in random order, and windows do not mix them."""
    return (
        variation is not None
        and variation.p_value < LEVEL
        and design_effect(variation, MINIBATCH_ROWS) > BAD_SHUFFLE_ABOVE
    )


def unlike_text(variation: SpanVariation) -> str:
    """Return one sentence: what differs, and what minibatches are worth."""
    worth = MINIBATCH_ROWS / design_effect(variation, MINIBATCH_ROWS)
    return (
        f"The rows are not in random order: {two_digits(100 * variation.share)} % of the variance"
        f" of {shown(variation.column)} lies between spans, and a window mixes"
        f" {variation.window_spans:.0f} of {variation.spans:,} spans, so that {MINIBATCH_ROWS} rows"
        f" of a minibatch are worth about {max(worth, 1.0):.0f}."
    )
