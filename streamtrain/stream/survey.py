"""The survey: one read of at most 64 spread spans, before training.

It gives the held-out rows, the column statistics and the least-squares baseline.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from streamtrain.errors import DataError
from streamtrain.kernels.span_sums import sum_span
from streamtrain.records import Baseline, Outlier, ReferenceLoss
from streamtrain.storage.moments import Moments
from streamtrain.stream.chains import read_ascending
from streamtrain.stream.nulls import Columns, apply_null_policy, as_uniform_views, bad_values
from streamtrain.stream.source import Source
from streamtrain.types import ScoredOn, Standardization

#: A standard deviation below this fraction of the mean is rounding, not variation.
CONSTANT_FRACTION = 1e-13

#: Rows whose medians make the typical row that deviations are taken from.
_TYPICAL_ROWS = 64

#: A held-out row is reported as an outlier when it makes more than this part of the best linear
#: model's squared error, and as much as this many rows that have the mean error.
OUTLIER_SHARE, OUTLIER_ROWS = 0.1, 50

#: A linear model whose squared error is at most this fraction of that of the mean has no error but
#: rounding.
EXACT = 1e-10

#: A feature that alone explains a larger part of the target's variance may be made from the target.
#: (A choice: a tax on a price, or the same quantity in another unit, explains more.)
NEAR = 0.999

#: Threads that read spans and sum them.
_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpanMoments:
    """Moments of the spans that were read: how far they are from one another.

    `count`: rows, int64 (spans,). `mean` and `squares`, the sum of squared deviations from it:
    float64 (spans, columns), raw units.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """The statistics of the spread spans, and their held-out rows.

    Held-out and dropped rows do not enter `count`, `mean` and `comoment`; imputed values do.

    Attributes:
        count: The number of rows in the statistics.
        mean: float64 (columns,), raw units.
        comoment: Σ (x − mean)(x − mean)ᵀ: float64 (columns, columns), raw units.
        holdout: float64 (held-out rows, columns), raw units, in the order of their ids.
        holdout_ids: The ids of these rows, int64 (held-out rows,).
        spans: The moments of each span that has any of these rows.
        low: The smallest value of each column, float64 (columns,); `high`: the largest. Empty where
            they are not known.
    """

    count: int
    mean: np.ndarray
    comoment: np.ndarray
    holdout: np.ndarray
    holdout_ids: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    spans: SpanMoments | None = None
    low: np.ndarray = field(default_factory=lambda: np.empty(0))
    high: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def sd(self) -> np.ndarray:
        """The population standard deviation of each column: divided by the number of rows."""
        return np.sqrt(np.diag(self.comoment) / max(self.count, 1))

    def standard(self) -> Standardization:
        """Return the map to mean 0 and standard deviation 1; a constant column becomes 0."""
        sd = self.sd
        constant = sd <= CONSTANT_FRACTION * np.abs(self.mean)
        return Standardization(mean=self.mean, scale=1.0 / np.where(constant, 1.0, sd))


def impute_values(source: Source) -> np.ndarray:
    """Return the values that `impute` puts in: float64 (features,), raw units.

    Each is the mean of the feature's usable values in the training rows of the spread spans, which
    are read here.

    Raises DataError for a feature without a usable value.
    """
    moments = [Moments()] * len(source.dataset.features)
    for number, columns in read_ascending(source, source.holdout.spread):
        training = np.ones(source.spans[number].num_rows, dtype=bool)
        training[source.holdout.of(number)] = False
        moments = [
            merged + Moments.of(column[training & ~bad_values(column, 0.0, 1.0)])
            for merged, column in zip(moments, columns, strict=False)
        ]
    for name, feature_moments in zip(source.dataset.features, moments, strict=True):
        if not feature_moments.count:
            raise DataError(
                f"{source.dataset.url}: column {name!r} has no value to impute from: all are null,"
                f" NaN or infinite in the {len(source.holdout.spread):,} spans that were read."
                " Leave it out with --features, or use --on-null drop."
            )
    return np.array([feature_moments.mean for feature_moments in moments])


def take_survey(source: Source) -> Survey:
    """Read the spread spans once, under the source's null policy.

    The moments of the spans are merged one by one (Chan, Golub and LeVeque 1983, eq. 2.1), so that
    no sum of squares cancels.

    Raises DataError for a value that the policy refuses.
    """
    width = source.num_columns
    count, mean, comoment = 0, np.zeros(width), np.zeros((width, width))
    held_out, ids = [np.empty((0, width))], [np.empty(0, dtype=np.int64)]
    counts, means, squares = list[int](), [np.empty((0, width))], [np.empty((0, width))]
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for span in _summarize_spans(source):
        # bad held-out rows included: which of them are dropped is known with the standardisation
        held_out.append(span.held_out)
        ids.append(span.held_out_ids)
        if not span.count:
            continue
        counts.append(span.count)
        means.append(span.mean[None])
        squares.append(np.diag(span.comoment)[None])
        low, high = np.minimum(low, span.low), np.maximum(high, span.high)
        gap, merged_count = span.mean - mean, count + span.count
        comoment += span.comoment + np.outer(gap, gap) * (count * span.count / merged_count)
        mean = mean + gap * (span.count / merged_count)
        count = merged_count
    if source.quarantine is not None:
        for number in map(int, source.holdout.spread):
            if number in source.quarantine:
                source.quarantine.lose_holdout(number)
    moments = SpanMoments(
        count=np.array(counts, dtype=np.int64),
        mean=np.concatenate(means),
        squares=np.concatenate(squares),
    )
    return Survey(
        count=count,
        mean=mean,
        comoment=comoment,
        holdout=np.concatenate(held_out),
        holdout_ids=np.concatenate(ids),
        spans=moments,
        low=low,
        high=high,
    )


class _SpanSummary(NamedTuple):
    """The held-out rows of a span (float64) with their ids; moments and extremes of the others."""

    held_out: np.ndarray
    held_out_ids: np.ndarray
    count: int
    mean: np.ndarray
    comoment: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _summarize_spans(source: Source) -> Iterator[_SpanSummary]:
    """Yield the summaries of the spread spans, in order.

    The spans of a unit follow one another on one thread, since the slices of a chain do.
    """
    spread = source.holdout.spread
    units = [source.spans.unit_of(number) for number in map(int, spread)]
    parts = np.split(spread, np.flatnonzero(np.diff(units)) + 1)
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="streamtrain-survey")
    try:
        for summaries in pool.map(partial(_summarize_part, source), parts):
            yield from summaries
    finally:
        pool.shutdown(cancel_futures=True)


def _summarize_part(source: Source, numbers: np.ndarray) -> list[_SpanSummary]:
    """Return the summaries of spans that are read in one pass."""
    return [
        _summarize_span(source, number, columns)
        for number, columns in read_ascending(source, numbers)
    ]


def _summarize_span(source: Source, number: int, columns: Columns) -> _SpanSummary:
    span = source.spans[number]
    result = apply_null_policy(source, span, columns)
    held_out = source.holdout.of(number)
    rows = [np.asarray(column[held_out], dtype=np.float64) for column in result.columns]
    moments = _moments(result.columns, np.union1d(held_out, result.dropped))
    return _SpanSummary(np.stack(rows, axis=1), span.first_id + held_out, *moments)


def _moments(
    columns: Columns, skip: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean, comoment (columns, columns), and low and high (columns,) of a span.

    The rows at the positions `skip`, which are ascending, are left out and may have any values.
    Deviations are taken from a typical row, so that no sum of squares cancels.
    """
    num_columns, num_rows = len(columns), len(columns[0])
    count = num_rows - len(skip)
    first_rows = np.arange(min(num_rows, _TYPICAL_ROWS + len(skip)))
    first_rows = np.setdiff1d(first_rows, skip)[:_TYPICAL_ROWS]
    if not count:
        nothing = np.zeros(num_columns)
        return 0, nothing, np.zeros((num_columns, num_columns)), nothing, nothing
    # the median of a constant column is exactly its value
    typical = np.array([np.median(column[first_rows].astype(np.float64)) for column in columns])
    sums, products, low, high = sum_span(as_uniform_views(columns), typical, skip)
    comoment = products - np.outer(sums, sums) / count
    return count, typical + sums / count, comoment, typical + low, typical + high


def standardized(rows: np.ndarray, standard: Standardization) -> np.ndarray:
    """Return raw float64 rows in model units, float32, by the arithmetic of the deal kernel."""
    return np.ascontiguousarray(((rows - standard.mean) * standard.scale).astype(np.float32))


class Correlations(NamedTuple):
    """Standard deviations (columns,), 1 where constant, and correlations (columns, columns)."""

    sd: np.ndarray
    matrix: np.ndarray


def correlations(survey: Survey) -> Correlations:
    """Return the correlations of the columns, target last: those of constant columns are 0."""
    sd = np.where(survey.sd > CONSTANT_FRACTION * np.abs(survey.mean), survey.sd, 1.0)
    matrix = survey.comoment / np.outer(sd, sd) / max(survey.count, 1)
    return Correlations(sd=sd, matrix=matrix)


def linear_model(survey: Survey, correlated: Correlations) -> np.ndarray:
    """Return the least-squares coefficients of the target on the features, intercept last.

    They are float64 in raw units. The system is solved on correlations, so that scales do not
    matter; eigendirections below 1e-12 of the largest eigenvalue are left out.
    """
    sd, matrix = correlated
    inverse = np.linalg.pinv(matrix[:-1, :-1], rcond=1e-12, hermitian=True)
    slopes = inverse @ matrix[:-1, -1]
    slopes = slopes * sd[-1] / sd[:-1]
    return np.append(slopes, survey.mean[-1] - slopes @ survey.mean[:-1])


def feature_eigenvalues(correlated: Correlations) -> list[float]:
    """Return the eigenvalues of the features' correlation matrix, ascending.

    They are the eigenvalues of the Hessian of a linear model of standardised features.
    """
    return np.clip(np.linalg.eigvalsh(correlated.matrix[:-1, :-1]), 0.0, None).tolist()


def baselines(
    survey: Survey,
    evaluation: np.ndarray | None,
    columns: Sequence[str] = (),
    place: Callable[[int], tuple[str, int]] | None = None,
) -> Baseline:
    """Return the losses of the best constant and the best linear model, and what stands out there.

    `evaluation` are the raw float64 rows to score on; None means the training rows themselves.
    `columns`: the names by which an outlier, and the features of a linear model without error, are
    reported; neither is looked for without them.
    `place`: the file and the row there of a row of `evaluation`, where those are known.
    Each loss has a `value`, the mean squared error in units of the target's variance, and an
    `rmse` in the target's own units.
    """
    count = max(survey.count, 1)
    variance = float(survey.comoment[-1, -1]) / count
    correlated = correlations(survey)
    coefficients = linear_model(survey, correlated)
    scored_on: ScoredOn
    outlier = None
    if evaluation is None:
        scored_on = "training"
        residual = np.append(-coefficients[:-1], 1.0)
        constant_error = variance
        linear_error = float(residual @ survey.comoment @ residual) / count
    else:
        scored_on = "holdout"
        target = evaluation[:, -1]
        prediction = evaluation[:, :-1] @ coefficients[:-1] + coefficients[-1]
        constant_error = float(np.mean((target - survey.mean[-1]) ** 2))
        errors = (target - prediction) ** 2
        linear_error = float(np.mean(errors))
        if len(columns):
            outlier = _outlier(evaluation, errors, columns, place)
    target_varies = survey.sd[-1] > CONSTANT_FRACTION * abs(survey.mean[-1])
    unit = variance if target_varies else 1.0

    def reference_loss(error: float) -> ReferenceLoss:
        error = max(error, 0.0)
        return ReferenceLoss(value=error / unit, rmse=error**0.5, scored_on=scored_on)

    with_target = correlated.matrix[:-1, -1] if target_varies else ()
    near = [name for name, r in zip(columns, with_target, strict=False) if r * r > NEAR]
    exact: list[str] = []
    if len(columns) and linear_error <= EXACT * constant_error and target_varies:
        effects = np.abs(coefficients[:-1]) * survey.sd[:-1] / survey.sd[-1]
        exact = [
            name for name, effect in zip(columns, effects, strict=False) if effect > EXACT**0.5
        ]

    return Baseline(
        feature_eigenvalues=tuple(feature_eigenvalues(correlated)),
        best_constant_loss=reference_loss(constant_error),
        best_linear_loss=reference_loss(linear_error),
        outlier=outlier,
        exact_features=tuple(exact),
        near_features=tuple(near),
    )


def _outlier(
    rows: np.ndarray,
    errors: np.ndarray,
    columns: Sequence[str],
    place: Callable[[int], tuple[str, int]] | None,
) -> Outlier | None:
    """The row with the largest of the squared `errors`, where it has a large part in their sum."""
    worst, total = int(np.argmax(errors)), float(np.sum(errors))
    least = max(OUTLIER_SHARE, OUTLIER_ROWS / len(rows))
    if len(rows) < 2 or not errors[worst] > least * total:
        return None
    others = np.delete(rows, worst, axis=0)
    sd, distance = others.std(axis=0), np.abs(rows[worst] - others.mean(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.where(distance > 0, distance / sd, 0.0)
    column = int(np.argmax(deviations))
    found = float(deviations[column])
    file, row = (None, None) if place is None else place(worst)
    return Outlier(
        share=float(errors[worst]) / total,
        column=columns[column],
        value=float(rows[worst, column]),
        deviations=found if np.isfinite(found) else None,
        file=file,
        row=row,
    )
