"""`st.Regressor`: scikit-learn's own checks, and paths beside arrays."""

import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sklearn = pytest.importorskip(
    "sklearn", reason="scikit-learn is not installed: pip install 'streamtrain[sklearn]'"
)

from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

import streamtrain as st
from streamtrain.config import make_config
from streamtrain.regressor import Regressor

ROWS = 4000


@pytest.fixture
def no_leaks():
    """Replaces the fixture of conftest.py, since scikit-learn's checks keep memory maps open."""


@parametrize_with_checks([st.Regressor(max_rows=3072, lr=0.02)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def linear():
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 3))
    return x, x @ [3.0, -2.0, 0.5] + 7 + 0.1 * random.normal(size=ROWS)


def test_an_array_is_learned_and_scored(linear):
    x, y = linear
    model = st.Regressor(hidden=(), random_state=0).fit(x[:3000], y[:3000])
    assert model.score(x[3000:], y[3000:]) > 0.99
    assert not hasattr(model, "feature_names_in_")


def test_a_path_gives_what_its_array_gives(linear, tmp_path):
    x, y = linear
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"b": x[:, 1], "y": y, "a": x[:, 0], "c": x[:, 2]}), path)
    flags = {"max_rows": 20_000, "random_state": 5}
    from_path = st.Regressor(target="y", features=["a", "b", "c"], **flags).fit(path)
    from_array = st.Regressor(**flags).fit(x, y)
    assert list(from_path.feature_names_in_) == ["a", "b", "c"]
    assert from_path.n_features_in_ == 3
    predictions = from_path.predict(path)
    np.testing.assert_allclose(predictions, from_array.predict(x), rtol=1e-5)
    unpickled = pickle.loads(pickle.dumps(from_path))
    np.testing.assert_allclose(unpickled.predict(path)[:5], predictions[:5])
    with pytest.raises(ValueError, match="without y"):
        st.Regressor().fit(str(path), y)
    # arrays have no column names to warn about; tables have, and they are checked
    for array in (x, x.tolist()):
        np.testing.assert_allclose(from_path.predict(array), predictions, rtol=1e-5)
    assert from_path.score(x, y) > 0.98
    table = pa.table(dict(zip("abc", x.T, strict=True)))
    np.testing.assert_allclose(from_path.predict(table), predictions, rtol=1e-5)
    with pytest.raises(ValueError, match="feature names"):
        from_path.predict(table.select(["b", "a", "c"]))
    with pytest.raises(ValueError, match="X has 2 features, but Regressor is expecting 3"):
        from_path.predict(x[:, :2])
    with pytest.raises(ValueError, match="contains NaN"):
        from_path.predict(np.full((2, 3), np.nan))
    from_table = st.Regressor(**flags).fit(table, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        from_table.predict(x)


def test_its_threads_are_limited_and_change_nothing(linear):
    x, y = linear
    config = Regressor(threads=3, readers=2)._config("data", is_array=True)
    assert (config.train.threads, config.fetch.readers) == (3, 2)
    one, several = (
        st.Regressor(max_rows=20_000, random_state=1, threads=n, readers=n).fit(x, y).predict(x)
        for n in (1, 3)
    )
    assert np.array_equal(one, several)
    with pytest.raises(ValueError, match="threads"):
        st.Regressor(threads=0).fit(x, y)


def test_its_defaults_are_those_of_train():
    config = Regressor()._config("data", is_array=True)
    assert config == make_config({"data": {"path": "data"}, "order": {"seed": config.order.seed}})


def test_it_trains_until_flat_from_a_path_and_from_an_array(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 2))
    y = np.sin(2 * x[:, 0]) + 0.3 * random.normal(size=2000)
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"x0": x[:, 0], "x1": x[:, 1], "y": y}), path)
    from_path = st.Regressor(random_state=1).fit(path)
    from_array = st.Regressor(random_state=1).fit(x, y)
    assert from_array.score(x, y) > 0.8
    np.testing.assert_allclose(from_path.predict(path), from_array.predict(x), rtol=1e-5)


def test_auto_grows_as_its_schedule_does(linear):
    X, y = linear
    auto = st.Regressor(batch_size="auto", max_rows=140_000, hidden=(4,), random_state=0).fit(X, y)
    constant = st.Regressor(batch_size=32, max_rows=140_000, hidden=(4,), random_state=0).fit(X, y)
    until_then = [
        st.Regressor(batch_size=size, max_rows=131_072, hidden=(4,), random_state=0).fit(X, y)
        for size in ("auto", 32)
    ]
    same = [np.array_equal(a.predict(X), b.predict(X)) for a, b in (until_then, (auto, constant))]
    assert same == [True, False]


def test_nan_is_the_mean_of_its_column_where_it_is_imputed(linear):
    """`on_null` was taken, and NaN refused all the same."""
    X, y = linear
    missing = np.random.default_rng(1).random(X.shape) < 0.1
    with_nan = np.where(missing, np.nan, X)
    filled = np.where(missing, np.nanmean(with_nan, axis=0), X)
    settings = {"epochs": 3, "batch_size": 16, "random_state": 0}
    imputed = Regressor(on_null="impute", **settings).fit(with_nan, y)
    plain = Regressor(**settings).fit(filled, y)
    expected = plain.predict(filled)
    np.testing.assert_allclose(imputed.predict(with_nan), expected, rtol=1e-3, atol=1e-3)
    dropping = Regressor(on_null="drop", **settings).fit(with_nan, y)
    assert dropping.score(X, y) > 0.5
    for model, values in (
        (plain, with_nan),
        (dropping, with_nan),
        (imputed, np.full_like(X, np.inf)),
    ):
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            model.predict(values)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        Regressor(**settings).fit(with_nan, y)


def test_it_works_in_a_pipeline_and_under_cross_validation(linear):
    x, y = linear
    scores = cross_val_score(
        make_pipeline(PolynomialFeatures(1), st.Regressor(max_rows=20_000, random_state=1)),
        x[:900],
        y[:900],
        cv=2,
    )
    assert min(scores) > 0.95


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"optimizer": "adan"}, "train.optimizer"),
        ({"hidden": (0,)}, "model.hidden"),
        ({"epochs": 1, "max_rows": 5}, "both set the length"),
        ({"lr": 1e30, "optimizer": "sgd"}, "diverged"),
    ],
)
def test_a_wrong_parameter_is_a_value_error_that_names_it(linear, flags, message):
    with pytest.raises(ValueError, match=message):
        st.Regressor(**flags).fit(*linear)


def test_streamtrain_itself_needs_no_scikit_learn():
    """Only the estimator needs it: everything else imports with scikit-learn blocked."""
    code = (
        "import sys; sys.modules['sklearn'] = None; import streamtrain as st, streamtrain.api;"
        " st.sweep; st.load_model; print(st.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == st.__version__
