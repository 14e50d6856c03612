"""What a survey says against training: nothing varies, or one value decides."""

from collections.abc import Sequence

import numpy as np

from streamtrain.base.units import format_percent
from streamtrain.errors import DataError
from streamtrain.storage.column_choice import constants_text
from streamtrain.storage.nothing_to_learn import too_few
from streamtrain.stream.survey import CONSTANT_FRACTION, Survey
from streamtrain.types import Dataset

#: A value of a training row is reported when it makes more than this part of the sum of squares of
#: its column. (A choice: the largest hour of rain of a year of weather makes less.)
FAR_SHARE = 0.5

#: With fewer training rows, one value of a column with heavy tails often makes as much.
FEWEST_FOR_FAR = 500


def refuse_constant(survey: Survey, dataset: Dataset) -> None:
    """Raise DataError where the target, or each feature, has one value in all rows that were read.

    So it is with a single row to train on, which has one value in each column.

    `dataset`: that of the survey, whose features may be those of a transform.
    """
    if survey.count < 2:
        raise DataError(too_few(dataset.url, survey.count, "to train on"))
    varies = survey.sd > CONSTANT_FRACTION * np.abs(survey.mean)
    others = (survey.holdout != survey.mean) & np.isfinite(survey.holdout)
    varies |= others.any(axis=0)
    if varies[-1] and varies[:-1].any():
        return
    rows = survey.count + int(np.isfinite(survey.holdout[:, -1]).sum())
    if not varies[-1]:
        raise DataError(
            f"{dataset.url}: the target, {dataset.target!r}, is {survey.mean[-1]:.6g} in all"
            f" {rows:,} rows that were looked at: there is nothing to learn. Choose another with"
            " --target."
        )
    raise DataError(
        f"{dataset.url}: each feature is constant in all {rows:,} rows that were looked at:"
        f" {constants_text(dataset.features, survey.mean)}. There is nothing to learn from."
        " Choose others with --features."
    )


def far_value(survey: Survey, columns: Sequence[str]) -> str:
    """Return the value of a training row that makes most of its column's variance; "" for none.

    It makes the standard deviation that all others are divided by, and steps of few rows that
    include it are far too long.
    """
    if not len(survey.low) or survey.count < FEWEST_FOR_FAR:
        return ""
    total = np.diag(survey.comoment)
    with np.errstate(all="ignore"):  # of values near the end of the range of floats
        ends = np.stack([survey.low, survey.high])
        shares = (ends - survey.mean) ** 2 / np.where(total > 0, total, np.inf)
    end, column = divmod(int(np.argmax(shares)), len(columns))
    share = float(shares[end, column])
    if not share > FAR_SHARE:
        return ""
    deviations = (share * survey.count) ** 0.5
    return (
        f"{columns[column]} is {ends[end, column]:.9g} in a training row, {deviations:,.0f}"
        f" standard deviations from its mean: that value makes {format_percent(share)} of the"
        " column's variance, and can decide which minibatch size is best. If it is wrong, remove"
        " it, declare it null (--na-values, for text), or limit the column (--transform)."
    )
