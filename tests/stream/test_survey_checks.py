"""What is refused or named before training, by the survey alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.stream.open_source import open_source
from streamtrain.stream.survey import take_survey
from streamtrain.stream.survey_checks import far_value, refuse_constant
from tests.stream.test_survey import made_rows, survey_of


@pytest.mark.parametrize("where", [0, 2_000], ids=["the first row", "another span"])
@pytest.mark.parametrize("wrong", [1e4, -1e4, 6.0])
def test_a_training_value_that_makes_the_variance_is_told(write_data, wrong, where):
    """The share is that of one row in the sum of squares; 6 deviations are ordinary."""
    rows = made_rows(3_000, 0)
    rows[where, 1] = wrong
    path = write_data([[1_500, 1_500]], num_columns=3, stored="float64", rows=rows)
    source = open_source(open_shards(str(path)), make_config({}), holdout=0)
    survey = take_survey(source)
    np.testing.assert_allclose(survey.low, rows.min(axis=0), rtol=1e-12)
    np.testing.assert_allclose(survey.high, rows.max(axis=0), rtol=1e-12)
    text = far_value(survey, source.dataset.columns)
    if abs(wrong) < 10:
        assert text == ""
        return
    share = (wrong - rows[:, 1].mean()) ** 2 / (3_000 * rows[:, 1].var())
    assert text.startswith(f"{source.dataset.columns[1]} is {wrong:g} in a training row, ")
    assert f"makes {100 * share:.0f} % of the column's variance" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({}, "each feature is constant in all 12 rows .*: a = 0.1, b = 7", id="all"),
        pytest.param({(3, 0): 1.0}, None, id="one feature varies"),
        pytest.param({(11, 1): 1.0}, None, id="in a held-out row"),
        pytest.param(
            {(11, 1): np.nan}, "each feature is constant in all 12 rows", id="a null held out"
        ),
        pytest.param(
            {(row, 2): 5.0 for row in range(12)} | {(3, 0): 1.0},
            "the target, 'y', is 5 in all 12 rows",
            id="the target",
        ),
        pytest.param(
            {(row, 2): 5.0 for row in range(11)} | {(3, 0): 1.0}, None, id="the target held out"
        ),
        pytest.param({(row, 2): 5.0 for row in range(12)}, "the target, 'y'", id="everything"),
    ],
)
def test_constant_features_and_a_constant_target_are_refused(change, message):
    """Ten rows of the statistics and two that are held out."""
    values = np.column_stack([np.full(12, 0.1), np.full(12, 7.0), np.arange(12.0)])
    for place, value in change.items():
        values[place] = value
    survey = survey_of(values[:10], values[10:])
    # the survey subtracts a typical row, so the mean of equal values is exact
    survey.mean[:] = np.where(np.ptp(values[:10], axis=0) == 0, values[0], survey.mean)
    dataset = SimpleNamespace(url="t", features=("a", "b"), target="y")
    if message is None:
        refuse_constant(survey, dataset)
    else:
        with pytest.raises(DataError, match=rf"^t: {message}"):
            refuse_constant(survey, dataset)


def test_one_row_is_refused_and_not_called_constant():
    with pytest.raises(DataError, match=r"^t: 1 row to train on: there is nothing to learn\. Add"):
        refuse_constant(survey_of(np.ones((1, 3)), np.ones((4, 3))), SimpleNamespace(url="t"))
