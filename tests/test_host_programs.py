"""The Python API inside other programs: notebooks, process pools, trainers, studies.

pytest-xdist runs this suite itself (`make test`).
"""

import asyncio
import itertools
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tblib.pickling_support
import torch
from torch.utils.data import DataLoader

import streamtrain as st
from streamtrain import errors
from streamtrain.api import TrainResult
from streamtrain.stream.read_timeout import ReadTimeout
from tests.stream.conftest import id_rows, row_ids

ROWS = 600
QUICK = {"max_rows": 512, "hidden": 4, "report": False, "memory": "256MiB"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = id_rows(ROWS)
    columns = {f"c{k}": rows[:, k] for k in range(5)}
    pq.write_table(pa.table(columns), folder / "part.parquet", row_group_size=100)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, st.train(data, out=folder, **QUICK)


def open_stream(data: Path, **flags) -> st.Stream:
    return st.open_stream(data, batch_size=64, window_rows=200, span_rows=100, **flags)


def ids(batches) -> list[int]:
    return [i for x, _ in batches for i in row_ids(x).tolist()]


def whole_epochs(data: Path, count: int) -> list[list[int]]:
    stream = open_stream(data)
    return [ids(stream) for _ in range(count)]


def test_in_the_running_event_loop_of_a_notebook(data, tmp_path):
    async def cell():
        model = st.train(data, out=tmp_path / "run", **QUICK)
        return model.predict(id_rows(3)[:, :4]), ids(open_stream(data))

    predictions, delivered = asyncio.run(cell())
    assert np.isfinite(predictions).all()
    assert sorted(delivered) == list(range(ROWS))


def test_on_another_thread_than_the_main_one(data, tmp_path):
    """Where no signal handler can be set: web servers, and studies with `n_jobs`."""
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(st.train, data, out=tmp_path / str(seed), seed=seed, **QUICK)
            for seed in range(3)
        ]
        models = [run.result() for run in runs]
    alone = st.train(data, out=tmp_path / "alone", seed=1, **QUICK)
    x = id_rows(10)[:, :4]
    assert np.array_equal(models[1].predict(x), alone.predict(x))
    assert not np.array_equal(models[0].predict(x), models[1].predict(x))


def fit_and_predict(seed: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(200, 2))
    return st.Regressor(hidden=4, max_rows=256, random_state=seed).fit(x, x[:, 0]).predict(x[:5])


def test_a_function_that_names_the_package_is_pickled_by_value():
    """As Dask and joblib send the functions of a notebook; the package itself goes by name."""
    names = {"st": st, "np": np, "__name__": "__main__"}
    exec("def rows(folder): return sum(len(x) for x, _ in st.open_stream(folder))", names)
    sent = pickle.loads(cloudpickle.dumps(names["rows"]))
    assert sent.__globals__["st"] is st
    assert pickle.loads(cloudpickle.dumps(st)) is st


def test_joblibs_processes_take_a_function_that_names_the_package():
    names = {"st": st, "__name__": "__main__"}
    exec("def error(number): return st.ConfigError(st.__version__)", names)
    jobs = (joblib.delayed(names["error"])(number) for number in range(2))
    errors = joblib.Parallel(n_jobs=2, backend="loky")(jobs)
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    assert [str(error) for error in errors] == [st.__version__] * 2


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_joblib_fits_what_one_process_fits(backend):
    names = {"st": st, "np": np, "__name__": "__main__"}  # as in a notebook: sent by value
    exec(
        "def fit(seed):\n"
        "    x = np.random.default_rng(0).normal(size=(200, 2))\n"
        "    model = st.Regressor(hidden=4, max_rows=256, random_state=seed)\n"
        "    return model.fit(x, x[:, 0]).predict(x[:5])",
        names,
    )
    jobs = (joblib.delayed(names["fit"])(seed) for seed in range(3))
    results = joblib.Parallel(n_jobs=2, backend=backend)(jobs)
    if backend == "loky":
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    for seed, result in enumerate(results):
        assert np.array_equal(result, fit_and_predict(seed))


def test_a_trainer_that_counts_minibatches(data):
    """Lightning stops at `len(loader)` and never meets StopIteration."""
    loader = DataLoader(open_stream(data), batch_size=None)
    epochs = []
    for _ in range(3):
        iterator = iter(loader)
        epochs.append(ids(next(iterator) for _ in range(len(loader))))
    assert epochs == whole_epochs(data, 3)


def test_a_trainer_that_reads_one_minibatch_ahead(data):
    """As accelerate does to know the last minibatch; it names the epoch before each."""
    stream = open_stream(data)
    loader = DataLoader(stream, batch_size=None)
    epochs = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        iterator, delivered = iter(loader), []
        ahead = next(iterator)
        while ahead is not None:
            current, ahead = ahead, next(iterator, None)
            delivered.append(current)
        epochs.append(ids(delivered))
    assert epochs == whole_epochs(data, 3)


def test_a_trainer_that_stops_early_and_saves_the_loader(data):
    """A checkpoint has the state of the Stream; after a restart the epoch goes on."""
    stream = open_stream(data)
    delivered = ids(itertools.islice(DataLoader(stream, batch_size=None), 4))
    saved = json.dumps(stream.state_dict())
    again = open_stream(data)
    again.load_state_dict(json.loads(saved))
    again.set_epoch(again.epoch)
    first, second = whole_epochs(data, 2)
    count = again.receipt().count
    assert ids(DataLoader(again, batch_size=None)) == first[count:]
    assert delivered == first[:count]
    assert ids(DataLoader(again, batch_size=None)) == second


def test_a_study_whose_trials_fail_goes_on(data, tmp_path):
    """A trial of Optuna is a call; what it raises must be an Exception, with its reason."""

    def objective(lr: float) -> float:
        out = tmp_path / f"{lr}"
        model = st.train(data, out=out, lr=lr, optimizer="sgd", **QUICK)
        return float(np.square(model.predict(id_rows(ROWS)[:, :4])).mean())

    assert np.isfinite(objective(1e-3))
    with pytest.raises(ValueError, match="lr"):
        objective(-1.0)
    assert threading.active_count() < 20


def test_results_and_models_are_pickled(data, trained, tmp_path):
    folder, model = trained
    result = st.sweep(
        data, out=tmp_path / "sweep", batch_sizes=[64], lr_rule="fixed", lr=0.01, trials=1, **QUICK
    )
    for copy in (pickle.loads(pickle.dumps(result)), pickle.loads(cloudpickle.dumps(result))):
        assert copy == result
        assert copy.batch_size == result.batch_size
        assert repr(copy) == repr(result)
    x = id_rows(20)[:, :4]
    whole = TrainResult(out=folder, summary={}, trained=model)
    sent = pickle.loads(pickle.dumps(whole))
    assert sent.out == folder
    assert np.array_equal(sent.model.predict(x), model.predict(x))
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert np.array_equal(again.predict(x), model.predict(x))


@pytest.mark.parametrize(
    "kind",
    [
        errors.StreamTrainError,
        errors.ConfigError,
        errors.DataError,
        errors.StoreError,
        errors.ResourceError,
        errors.CheckFailed,
        ReadTimeout,
    ],
)
def test_errors_are_pickled(kind):
    """Process pools send them; one that cannot be unpickled breaks the pool.

    Dask sends them by tblib, which constructs them in its own way.
    """
    tblib.pickling_support.install(kind)
    error = kind("part-0000.parquet: column 'x', row 7")
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), str(sent)) == (kind, str(error))
