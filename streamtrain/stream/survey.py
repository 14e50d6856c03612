"""The survey: one read of at most 64 spread spans gives the held-out rows, the statistics, and the
least-squares model.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from streamtrain.errors import DataError
from streamtrain.records import Baseline, ReferenceLoss
from streamtrain.storage.moments import Moments
from streamtrain.stream.chains import read_ascending
from streamtrain.stream.nulls import Columns, bad_values, mend
from streamtrain.stream.source import Source
from streamtrain.types import Standardization

#: A standard deviation below this share of the mean is rounding, not variation.
CONSTANT_SHARE = 1e-13

#: Rows of a tile of a span, and rows from whose medians deviations are taken.
_TILE_ROWS, _TYPICAL_ROWS = 16_384, 64

#: Spans that are summed at a time, each on a thread.
_SUMMING = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What the spread spans say.

    Held-out and dropped rows take no part in `count`, `mean` and `comoment`; imputed values do.

    `mean` (columns,) and `comoment` (columns, columns), Σ (x − mean)(x − mean)ᵀ: float64, raw
    units. `holdout`: float64 (held-out rows, columns), raw units, in the order of their ids.
    """

    count: int
    mean: np.ndarray
    comoment: np.ndarray
    holdout: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation of each column, of the population: divided by the number of rows."""
        return np.sqrt(np.diag(self.comoment) / max(self.count, 1))

    def standard(self) -> Standardization:
        """Mean 0 and standard deviation 1; a constant column becomes 0."""
        sd = self.sd
        constant = sd <= CONSTANT_SHARE * np.abs(self.mean)
        return Standardization(mean=self.mean, scale=1.0 / np.where(constant, 1.0, sd))


def impute_values(source: Source) -> np.ndarray:
    """The mean of each feature's usable values in the training rows of the spread spans, which are
    read: float64 (features,).

    Raises DataError for a feature that has none.
    """
    moments = [Moments()] * len(source.dataset.features)
    for number, columns in read_ascending(source, source.holdout.spread):
        kept = np.ones(source.spans[number].num_rows, dtype=bool)
        kept[source.holdout.of(number)] = False
        moments = [
            each + Moments.of(column[kept & ~bad_values(column, 0.0, 1.0)])
            for each, column in zip(moments, columns, strict=False)
        ]
    for name, each in zip(source.dataset.features, moments, strict=True):
        if not each.count:
            raise DataError(
                f"{source.dataset.url}: column {name!r} has no value to impute from: all are null,"
                f" NaN or infinite in the {len(source.holdout.spread):,} spans that were looked at."
                " Leave it out with --features, or use --on-null drop."
            )
    return np.array([each.mean for each in moments])


def take_survey(source: Source) -> Survey:
    """Read the spread spans once, under the source's null policy.

    Raises DataError for a value that it refuses.

    Moments are merged span by span (Chan, Golub and LeVeque 1983, eq. 2.1), so that no sum of
    squares cancels.
    """
    width = source.num_columns
    count, mean, comoment = 0, np.zeros(width), np.zeros((width, width))
    held = [np.empty((0, width))]
    for held_rows, rows, span_mean, span_comoment in _looks(source):
        # bad ones too: what is dropped of them is known when the standardisation is
        held.append(held_rows)
        if not rows:
            continue
        gap, merged = span_mean - mean, count + rows
        comoment += span_comoment + np.outer(gap, gap) * (count * rows / merged)
        mean = mean + gap * (rows / merged)
        count = merged
    if source.quarantine is not None:
        for number in map(int, source.holdout.spread):
            if number in source.quarantine:
                source.quarantine.lose_holdout(number)
    return Survey(count=count, mean=mean, comoment=comoment, holdout=np.concatenate(held))


_Look = tuple[np.ndarray, int, np.ndarray, np.ndarray]


def _looks(source: Source) -> Iterator[_Look]:
    """What each spread span says, in order: its held-out rows (float64), count, mean, comoment.

    One span is read while others are summed.
    """
    pending: deque[Future[_Look]] = deque()
    with ThreadPoolExecutor(_SUMMING, thread_name_prefix="streamtrain-survey") as pool:
        for number, columns in read_ascending(source, source.holdout.spread):
            pending.append(pool.submit(_look, source, number, columns))
            if len(pending) > _SUMMING:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _look(source: Source, number: int, columns: Columns) -> _Look:
    columns, dropped, _ = mend(source, source.spans[number], columns)
    out = source.holdout.of(number)
    held = np.stack([np.asarray(column[out], dtype=np.float64) for column in columns], axis=1)
    return held, *_moments(columns, np.union1d(out, dropped))


def _moments(columns: Sequence[np.ndarray], skip: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Count, mean (columns,) and comoment (columns, columns) of a span without the rows at `skip`:
    ascending, values there may be anything.

    A tile at a time, so that its float64 copy stays in the cache; deviations are from a typical
    row, so that no sum of squares cancels.
    """
    kept = len(columns[0]) - len(skip)
    first = np.setdiff1d(np.arange(min(len(columns[0]), _TYPICAL_ROWS + len(skip))), skip)[
        :_TYPICAL_ROWS
    ]
    if not kept:
        return 0, np.zeros(len(columns)), np.zeros((len(columns), len(columns)))
    # exactly the value of a constant column
    typical = np.array([np.median(column[first].astype(np.float64)) for column in columns])
    sums, products, tile = (
        np.zeros(len(columns)),
        np.zeros((len(columns), len(columns))),
        np.empty((len(columns), _TILE_ROWS)),
    )
    for start in range(0, len(columns[0]), _TILE_ROWS):
        part = tile[:, : min(_TILE_ROWS, len(columns[0]) - start)]
        for line, column, value in zip(part, columns, typical, strict=True):
            np.subtract(column[start : start + part.shape[1]], value, out=line, dtype=np.float64)
        low, high = np.searchsorted(skip, (start, start + part.shape[1]))
        part[:, skip[low:high] - start] = 0.0
        sums += part.sum(axis=1)
        products += part @ part.T
    return kept, typical + sums / kept, products - np.outer(sums, sums) / kept


def standardized(rows: np.ndarray, standard: Standardization) -> np.ndarray:
    """Raw float64 rows in model units, float32: the arithmetic of the deal kernel."""
    return np.ascontiguousarray(((rows - standard.mean) * standard.scale).astype(np.float32))


def linear_model(survey: Survey) -> np.ndarray:
    """Least squares of the target on the features: float64 coefficients, intercept last, raw units.

    Solved on correlations, so that scales do not matter; directions with less than 1e-12 of the
    largest share are left out.
    """
    sd, correlation = _correlation(survey)
    slopes = (
        np.linalg.pinv(correlation[:-1, :-1], rcond=1e-12, hermitian=True) @ correlation[:-1, -1]
    )
    slopes = slopes * sd[-1] / sd[:-1]
    return np.append(slopes, survey.mean[-1] - slopes @ survey.mean[:-1])


def feature_eigenvalues(survey: Survey) -> list[float]:
    """Eigenvalues of the features' correlations, ascending: those of the Hessian of a linear model
    of standardised features.
    """
    return np.clip(np.linalg.eigvalsh(_correlation(survey)[1][:-1, :-1]), 0.0, None).tolist()


def _correlation(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations (columns,), 1 where constant, and correlations (columns, columns)."""
    sd = np.where(survey.sd > CONSTANT_SHARE * np.abs(survey.mean), survey.sd, 1.0)
    return sd, survey.comoment / np.outer(sd, sd) / max(survey.count, 1)


def baselines(survey: Survey, evaluation: np.ndarray | None) -> Baseline:
    """The best constant and the best linear model, `{value, rmse, scored_on}` each, and
    `feature_eigenvalues`.

    `evaluation`: raw float64 rows to score on; None: the training rows themselves. `value` is the
    mean squared error in units of the target's variance, `rmse` is in the target's own units.
    """
    variance = float(survey.comoment[-1, -1]) / max(survey.count, 1)
    coefficients = linear_model(survey)
    if evaluation is None:
        residual = np.append(-coefficients[:-1], 1.0)
        errors = {
            "best_constant_loss": variance,
            "best_linear_loss": float(residual @ survey.comoment @ residual) / max(survey.count, 1),
        }
    else:
        target = evaluation[:, -1]
        linear = evaluation[:, :-1] @ coefficients[:-1] + coefficients[-1]
        errors = {
            "best_constant_loss": float(np.mean((target - survey.mean[-1]) ** 2)),
            "best_linear_loss": float(np.mean((target - linear) ** 2)),
        }
    unit = variance if survey.sd[-1] > CONSTANT_SHARE * abs(survey.mean[-1]) else 1.0
    losses = {
        name: ReferenceLoss(
            value=max(error, 0.0) / unit,
            rmse=max(error, 0.0) ** 0.5,
            scored_on="training" if evaluation is None else "holdout",
        )
        for name, error in errors.items()
    }
    return Baseline(feature_eigenvalues=tuple(feature_eigenvalues(survey)), **losses)
