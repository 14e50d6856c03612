"""The survey: the statistics of the spread spans, with and without held-out rows."""

import numpy as np
import pytest

from streamtrain.config import make_config
from streamtrain.storage.dataset import open_shards
from streamtrain.stream.open_source import open_source
from streamtrain.stream.source import Source
from streamtrain.stream.survey import (
    Survey,
    baselines,
    correlations,
    linear_model,
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
    np.testing.assert_allclose(linear_model(survey, correlations(survey))[1:], expected, rtol=1e-6)


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


def test_the_features_of_a_linear_model_without_error_are_named():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(400, 4)).astype(np.float32).astype(np.float64)
    names = ("hour", "casual", "registered", "count")
    rows[:, 3] = rows[:, 1] + 20 * rows[:, 2]
    found = baselines(survey_of(rows[:300], rows[300:]), rows[300:], names)
    assert found.exact_features == ("casual", "registered")
    assert baselines(survey_of(rows, rows[:0]), None, names).exact_features == found.exact_features
    rows[:, 3] += 1e-3 * rng.normal(size=400)
    assert not baselines(survey_of(rows[:300], rows[300:]), rows[300:], names).exact_features


@pytest.mark.parametrize(("noise", "named"), [(0.02, ("tax",)), (0.05, ())])
def test_a_feature_that_nearly_is_the_target_is_named(noise, named):
    """Of the target's variance, noise leaves 0.04 % and 0.25 %; 0.1 % is the limit."""
    rows = np.random.default_rng(4).normal(size=(4000, 3))
    rows[:, 2] = 5 - 3 * rows[:, 1]
    rows[:, 1] += noise * np.random.default_rng(5).normal(size=4000)
    found = baselines(survey_of(rows, rows[:0]), None, ("rooms", "tax", "price"))
    assert found.near_features == named


def test_correlations_are_made_once_for_all_that_needs_them(monkeypatch):
    """The columns are correlated, one is constant, and the numbers are NumPy's, bit for bit."""
    rows = made_rows(400, 1)
    rows = np.column_stack([rows[:, 0], rows[:, 0] + rows[:, 1], np.full(400, 7.0), rows[:, -1]])
    survey = survey_of(rows, rows[:0])
    made = []
    monkeypatch.setattr(
        "streamtrain.stream.survey.correlations", lambda one: made.append(one) or correlations(one)
    )
    found = baselines(survey, None, ("a", "b", "constant", "y"))
    assert made == [survey]
    sd = np.sqrt(np.diag(survey.comoment) / 400)
    sd[2] = 1.0
    matrix = survey.comoment / np.outer(sd, sd) / 400
    eigenvalues = np.linalg.eigvalsh(matrix[:3, :3])
    assert found.feature_eigenvalues == tuple(np.maximum(eigenvalues, 0.0).tolist())
    slopes = np.linalg.pinv(matrix[:3, :3], rcond=1e-12, hermitian=True) @ matrix[:3, 3]
    residual = np.append(-slopes * sd[3] / sd[:3], 1.0)
    error = residual @ survey.comoment @ residual / 400
    assert found.best_linear_loss.value == error / (survey.comoment[3, 3] / 400)
