"""The survey: the statistics of the spread spans, with and without held-out rows."""

from types import SimpleNamespace

import numpy as np
import pytest

from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.stream.open_source import open_source
from streamtrain.stream.source import Source
from streamtrain.stream.survey import (
    Survey,
    baselines,
    far_value,
    linear_model,
    refuse_constant,
    take_survey,
)
from tests.stream.conftest import id_rows

CONFIG = make_config({"order": {"span_rows": 64, "window_rows": 128}, "eval": {"eval_rows": 1}})


def open_with_holdout(path) -> Source:
    return open_source(open_shards(str(path)), CONFIG, holdout=0.2)


def held_out(source: Source) -> np.ndarray:
    """The ids of the held-out rows, ascending."""
    return np.concatenate(
        [
            source.spans[span].first_id + positions
            for span, positions in sorted(source.holdout.positions.items())
        ]
    )


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_held_out_rows_have_no_say_in_the_statistics(write_data, format):
    """They are a million here, so that one of them would show."""
    layout, rows = [[64, 64, 10], [64, 64]], id_rows(266).astype(np.float64)
    ids = held_out(open_with_holdout(write_data(layout, format=format)))
    assert len(ids) == 53
    rows[ids] = 1e6
    folder = write_data(layout, format=format, rows=rows.astype(np.float32))
    source = open_with_holdout(folder)
    assert np.array_equal(held_out(source), ids)
    survey, training = take_survey(source), np.delete(rows, ids, axis=0)
    assert survey.count == len(training) == 213
    assert (survey.holdout == 1e6).all()
    assert len(survey.holdout) == 53
    assert np.array_equal(survey.holdout_ids, ids)
    np.testing.assert_allclose(survey.mean, training.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(survey.sd, training.std(axis=0), rtol=1e-12)
    covariance = np.cov(training.T, bias=True)
    np.testing.assert_allclose(survey.comoment / survey.count, covariance, rtol=1e-9, atol=1e-9)
    # the first column is constant
    design = np.column_stack([training[:, 1:-1], np.ones(len(training))])
    expected = np.linalg.lstsq(design, training[:, -1], rcond=None)[0]
    np.testing.assert_allclose(linear_model(survey)[1:], expected, rtol=1e-6)


def survey_of(rows, holdout):
    centered = rows - rows.mean(axis=0)
    return Survey(
        count=len(rows), mean=rows.mean(axis=0), comoment=centered.T @ centered, holdout=holdout
    )


def made_rows(count, seed, heavy=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2))
    if heavy:
        x[:, 1] = rng.lognormal(sigma=1.0, size=count)
    y = 2 * x[:, 0] + x[:, 1] + rng.normal(size=count)
    return np.column_stack([x, y])


def test_a_row_that_makes_the_loss_is_named_with_its_column_and_value():
    holdout = made_rows(1000, seed=1)
    holdout[123, 1] = 9831.3
    found = baselines(
        survey_of(made_rows(4000, seed=2), holdout),
        holdout,
        ("temp", "rain", "y"),
        lambda index: ("metro.csv", 1000 + index),
    )
    outlier = found.outlier
    assert (outlier.file, outlier.row) == ("metro.csv", 1123)
    assert (outlier.column, outlier.value) == ("rain", 9831.3)
    errors = (holdout[:, -1] - (2 * holdout[:, 0] + holdout[:, 1])) ** 2
    assert outlier.share == pytest.approx(errors[123] / errors.sum(), rel=1e-3)
    assert outlier.deviations == pytest.approx(
        9831.3 / np.delete(holdout[:, 1], 123).std(), rel=1e-3
    )


def test_a_column_that_is_constant_elsewhere_has_no_deviation_to_count_in():
    holdout = made_rows(1000, seed=1)
    holdout[:, 1] = 0.0
    holdout[7, 1] = 500.0
    outlier = baselines(
        survey_of(made_rows(4000, seed=2), holdout), holdout, ("temp", "rain", "y")
    ).outlier
    assert (outlier.column, outlier.value, outlier.deviations) == ("rain", 500.0, None)


@pytest.mark.parametrize("rows", [51, 400])
def test_an_outlier_among_few_rows_is_named(rows):
    holdout = made_rows(rows, seed=1)
    holdout[7, -1] = 1e12
    survey = survey_of(made_rows(4000, seed=2), holdout)
    outlier = baselines(survey, holdout, ("temp", "rain", "y")).outlier
    assert (outlier.column, outlier.value) == ("y", 1e12)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("rows", [1, 60, 200, 1000])
def test_ordinary_rows_have_no_outlier(heavy, rows):
    for seed in range(20):
        holdout = made_rows(rows, seed=2 * seed, heavy=heavy)
        survey = survey_of(made_rows(4000, seed=2 * seed + 1, heavy=heavy), holdout)
        assert baselines(survey, holdout, ("temp", "rain", "y")).outlier is None


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
    assert f"makes {share:.0%} of the column's variance" in text


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


def test_one_row_is_not_called_constant():
    refuse_constant(survey_of(np.ones((1, 3)), np.ones((0, 3))), SimpleNamespace())
