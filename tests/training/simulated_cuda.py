"""The fused engine on a GPU, in Numba's simulator; test_cuda_engine.py runs it in a process.

Numba chooses the simulator when it is imported, so these tests need `NUMBA_ENABLE_CUDASIM=1`.
Those that are not `slow` run by default; `make cudasim` runs all.
"""

import itertools
import time

import numpy as np
import pytest
from numba import cuda
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.kernel import BlockThread

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.kernels import cuda_layout, cuda_population, cuda_source, cuda_split
from streamtrain.kernels.activations import TANH
from streamtrain.kernels.cuda_layout import make_layout, parameter_places
from streamtrain.kernels.updates import ADAM
from streamtrain.training import cuda_engine, cuda_fit
from streamtrain.training.cuda_engine import CudaEngine
from streamtrain.training.fused_engine import FusedEngine, hyper_values
from streamtrain.training.model import Shape
from streamtrain.training.torch.perceptron import ACTIVATIONS
from streamtrain.training.torch.torch_engine import TorchEngine
from tests.training import contract
from tests.training.contract import RATES, make_rows
from tests.training.passes_at_once import check_passes_at_once
from tests.training.test_engine import LOSSES, OPTIMIZERS

assert cuda_source.SIMULATED

SMALL = Shape(widths=(4, 4, 1), activation="tanh")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Let the threads of a block compute while the simulator waits for them.

    It asks each, over and over, whether it is alive, and keeps Python's lock for 5 ms at a time.
    """
    is_alive = BlockThread.is_alive

    def ask(thread):
        time.sleep(0)
        return is_alive(thread)

    monkeypatch.setattr(BlockThread, "is_alive", ask)


SHALLOW = Shape(widths=(4, 1), activation="identity")


def make(kind=CudaEngine, shape=SMALL, batch_size=30, rates=RATES, last_row=100, **train):
    config = TrainConfig(device="cpu", compile="off", **train)
    return kind(shape, shape.initial_parameters(0, 0), batch_size, rates, config, last_row)


def check_equal(shape, batch_size, stops, **train) -> None:
    """Equal to the torch engine, cut at `stops` and with a short minibatch at the end."""
    rows = make_rows(1000)
    ours, theirs = (make(kind, shape, batch_size, **train) for kind in (CudaEngine, TorchEngine))
    start = ours.parameters()
    for begin, stop in itertools.pairwise([0, *stops]):
        losses = ours.advance(rows, begin, stop)
        np.testing.assert_allclose(losses, theirs.advance(rows, begin, stop), rtol=1e-5)
    state, expected = ours.state(), theirs.state()
    if state["gradient"].ndim == 3:
        state["gradient"] = state["gradient"].sum(axis=1)
    for engine in (ours, theirs):
        engine.finish_epoch()
    assert ours.steps == theirs.steps
    assert (state["counters"] == expected["counters"]).all()
    scale = np.abs(expected["gradient"]).max()
    np.testing.assert_allclose(state["gradient"], expected["gradient"], atol=2e-4 * scale)
    moved = np.abs(theirs.parameters() - start).max()
    for name in ("parameters", "model_parameters"):
        ours_RP, theirs_RP = getattr(ours, name)(), getattr(theirs, name)()
        assert np.abs(ours_RP - theirs_RP).max() < 2e-4 * moved, name
    np.testing.assert_allclose(ours.evaluate(rows[:70]), theirs.evaluate(rows[:70]), rtol=1e-5)


#: Every activation, loss, kind of optimizer and depth occurs, at B = 1, B below a patch, B above a
#: tile, and cut in the middle of a minibatch and at row 1.
QUICK = {
    "relu": ((8, 8), "relu", 7, (1, 24), {"optimizer": "adamw", "weight_decay": 0.2}),
    "tanh": ((3,), "tanh", 5, (11, 21), {"optimizer": "sgd", "momentum": 0.0}),
    "silu": ((5, 3, 7), "silu", 20, (1, 50), {"loss": "huber", "huber_delta": 0.4}),
    "gelu": ((4,), "gelu", 16, (33,), {"optimizer": "sgd", "nesterov": True, "clip_norm": 0.1}),
    "identity": ((4, 4, 4, 4), "identity", 18, (40,), {"warmup_rows": 30, "schedule": "cosine"}),
    "linear": ((), "relu", 1, (3, 6), {"weight_decay": 0.05, "average": "off"}),
    "tiles": ((4,), "relu", 70, (100,), {"clip_norm": 0.05}),
}


@pytest.mark.parametrize(
    ("hidden", "activation", "batch_size", "stops", "train"), QUICK.values(), ids=QUICK
)
def test_equals_the_torch_engine(hidden, activation, batch_size, stops, train):
    check_equal(Shape(widths=(4, *hidden, 1), activation=activation), batch_size, stops, **train)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (8, 8), (4, 5, 8)], ids=str)
def test_equals_the_torch_engine_in_every_combination(hidden, activation, loss, optimizer):
    shape = Shape(widths=(4, *hidden, 1), activation=activation)
    check_equal(shape, 9, (1, 22), **loss, **optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3, 32])
@pytest.mark.parametrize("batch_size", [1, 2, 63, 128, 129, 256, 300])
def test_equals_the_torch_engine_at_every_size(monkeypatch, batch_size, threads):
    monkeypatch.setattr(cuda_fit, "SIMULATED_THREADS", threads)
    stops = (1, 2 * batch_size + 5) if batch_size < 100 else (1, 250, 601)
    check_equal(Shape(widths=(4, 8, 12, 1), activation="gelu"), batch_size, stops)


@pytest.fixture
def split(monkeypatch):
    """Minibatches of 40 rows or more are shared by at most three blocks, in parts of 10 rows."""
    for name, value in {"SPLIT_FROM": 40, "PART_ROWS": 10, "MOST_SLOTS": 3}.items():
        monkeypatch.setattr(cuda_layout, name, value)
    compiled = (cuda_split.compile_gradient, cuda_split.compile_step)
    for each in compiled:
        each.cache_clear()
    yield
    for each in compiled:
        each.cache_clear()


#: Cut in the middle of a part and at row 1; slots see several parts; whole minibatches.
SPLIT = {
    "adamw": ((4,), "tanh", 40, (33, 95), {"optimizer": "adamw", "clip_norm": 0.1}),
    "sgd": ((), "relu", 70, (1, 170), {"optimizer": "sgd", "nesterov": True, "average": "off"}),
    "huber": ((5, 8), "silu", 41, (82,), {"loss": "huber", "huber_delta": 0.4}),
}


@pytest.mark.parametrize(
    ("hidden", "activation", "batch_size", "stops", "train"),
    [
        pytest.param(*case, id=name, marks=[] if name == "adamw" else pytest.mark.slow)
        for name, case in SPLIT.items()
    ],
)
def test_minibatches_shared_by_blocks_equal_the_torch_engine(
    split, hidden, activation, batch_size, stops, train
):
    shape = Shape(widths=(4, *hidden, 1), activation=activation)
    assert make(shape=shape, batch_size=batch_size).state()["gradient"].shape[1] == 3
    check_equal(shape, batch_size, stops, **train)


def test_slots_of_an_unfinished_minibatch_go_on_bit_by_bit(split):
    rows = make_rows(1000)
    engine, resumed = (make(batch_size=50, shape=SHALLOW) for _ in range(2))
    engine.advance(rows, 0, 37)
    resumed.load_state(engine.state())
    for trained in (engine, resumed):
        trained.advance(rows, 37, 61)
        trained.finish_epoch()
    assert engine.steps == resumed.steps == 2
    assert engine.parameters().tobytes() == resumed.parameters().tobytes()
    assert not engine.state()["gradient"].any()


def swap_in_state(engine, sum_RP, rows):
    """Do `CudaEngine._swap` through the whole state."""
    state = engine.state()
    replicas, parameters = state["parameters"].shape
    gradient_RSP = state["gradient"].reshape(replicas, -1, parameters)
    before_RP = gradient_RSP.sum(axis=1, dtype=np.float32)
    gradient_RSP[:] = 0
    gradient_RSP[:, 0] = sum_RP
    state["counters"][:, 0] = rows
    engine.load_state(state)
    return before_RP


@pytest.mark.parametrize("batch_size", [30, 50], ids=["one block", "three blocks"])
def test_gradient_sums_are_taken_and_set_as_through_the_state(split, batch_size):
    rows, engines = make_rows(1000), [make(batch_size=batch_size, shape=SHALLOW) for _ in range(2)]
    found = []
    for engine, swap in zip(engines, (CudaEngine._swap, swap_in_state), strict=True):
        engine.accumulate(rows, 0, 37)
        sum_RP = swap(engine, np.float32(0), 0)
        engine.accumulate(rows, 37, 45)  # is dropped
        swap(engine, 2 * sum_RP, 74)
        carried = engine.state()
        engine.finish_epoch()
        assert engine.steps == 1
        found.append([sum_RP, *carried.values(), *engine.state().values()])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*found, strict=True))


@pytest.mark.slow
def test_shared_by_blocks_it_keeps_the_whole_contract(split, monkeypatch):
    monkeypatch.setattr(cuda_layout, "SPLIT_FROM", 100)
    monkeypatch.setattr(cuda_layout, "PART_ROWS", 60)
    contract.check_engine(
        lambda batch_size, rates: make(batch_size=batch_size, rates=rates, last_row=None)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "loss", "optimizer"),
    [
        *((activation, "mse", "adam") for activation in ACTIVATIONS),
        *itertools.product(["tanh"], LOSSES, OPTIMIZERS),
    ],
)
def test_shared_by_blocks_in_every_way(split, activation, loss, optimizer):
    shape = Shape(widths=(4, 8, 4, 1), activation=activation)
    check_equal(shape, 64, (1, 143), **LOSSES[loss], **OPTIMIZERS[optimizer])


@pytest.mark.slow
def test_equals_the_fused_engine_as_on_a_gpu():
    """The layout of 4-32-32-1 at large minibatches, over several tiles."""
    rows, shape = make_rows(1100), Shape(widths=(4, 32, 32, 1), activation="relu")
    ours, theirs = (make(kind, shape, 512) for kind in (CudaEngine, FusedEngine))
    start = ours.parameters()
    for engine in (ours, theirs):
        engine.advance(rows, 0, 1100)
        engine.finish_epoch()
    moved = np.abs(theirs.parameters() - start).max()
    assert np.abs(ours.parameters() - theirs.parameters()).max() < 2e-4 * moved


def test_continues_bit_by_bit_from_a_state_in_the_middle_of_a_minibatch():
    contract.check_state(lambda batch_size, rates: make(batch_size=batch_size, rates=rates))


@pytest.mark.slow
def test_keeps_the_whole_contract():
    contract.check_engine(
        lambda batch_size, rates: make(batch_size=batch_size, rates=rates, last_row=None)
    )


@pytest.mark.parametrize(
    "grown", ["one block", pytest.param("three blocks", marks=pytest.mark.slow)]
)
def test_a_size_that_grows_and_its_state(request, grown):
    """A state taken after the change fits an engine on which the size was changed, too."""
    if grown == "three blocks":
        request.getfixturevalue("split")
    rows = make_rows(1000)
    engines = [make(kind, batch_size=4, beta2_per="step") for kind in (CudaEngine, TorchEngine)]
    for engine in engines:
        engine.advance(rows, 0, 8)
        engine.set_batch_size(70, 0.99)
        engine.advance(rows, 8, 90)
    ours, theirs = engines
    np.testing.assert_allclose(ours.parameters(), theirs.parameters(), rtol=1e-4, atol=1e-6)
    resumed = make(batch_size=4, beta2_per="step")
    resumed.set_batch_size(70, 0.99)
    resumed.load_state(ours.state())
    for engine in (ours, resumed):
        engine.finish_epoch()
    assert ours.steps == resumed.steps == theirs.steps + 1
    assert ours.parameters().tobytes() == resumed.parameters().tobytes()


# --- the kernel itself ---


def population(sizes, rates, stops):
    """Train replicas of unlike sizes in one launch per stop; return every array of the device."""
    widths = (4, 8, 4, 1)
    layout = make_layout(widths, False, 16, 2, 4, 32)
    kernel = cuda.jit(cuda_population.make_advance(layout, TANH, ADAM))
    places, replicas = parameter_places(layout, widths), len(sizes)
    parameters = np.zeros((replicas, layout.num_parameters), np.float32)
    parameters[:, places] = Shape(widths=widths, activation="tanh").initial_parameters(0, 0)
    arrays = [
        np.array(sizes),
        parameters,
        np.zeros_like(parameters),
        np.zeros((replicas, 2, layout.num_parameters), np.float32),
        parameters.copy(),
        np.zeros((replicas, 5), np.int64),
        np.zeros(replicas),
        np.array(rates),
        np.tile(hyper_values(TrainConfig(), None), (replicas, 1)),
    ]
    launch = kernel[replicas, 4, 0, 4 * layout.floats]
    losses = np.zeros(replicas)
    for begin, stop in itertools.pairwise([0, *stops]):
        launch(make_rows(200), begin, stop, *arrays, np.float32(0))
        losses += arrays[6]
    padding = np.delete(arrays[1], places, axis=1)
    assert not padding.any(), "the padding stays 0"
    return [*arrays, losses]


def test_a_replica_alone_is_itself_among_others_and_two_runs_are_equal():
    sizes, rates, stops = (5, 16, 9), (0.01, 0.003, 0.01), (13, 20)
    together, again = (population(sizes, rates, stops) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(together, again, strict=True))
    alone = population(sizes[1:2], rates[1:2], stops)
    assert all(a[1].tobytes() == b[0].tobytes() for a, b in zip(together, alone, strict=True))


def test_shared_memory_is_not_read_before_it_is_written(monkeypatch):
    """Poisoned with NaN, which any sum would show."""
    expected = population((7,), (0.01,), (9, 15))
    construct = kernelapi.FakeCUDAShared.__init__

    def poisoned(self, dynshared_size):
        construct(self, dynshared_size)
        self._dynshared[:] = -1
        assert np.isnan(self._dynshared.view(np.float32)).all()

    monkeypatch.setattr(kernelapi.FakeCUDAShared, "__init__", poisoned)
    found = population((7,), (0.01,), (9, 15))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(expected, found, strict=True))


def test_a_diverged_replica_stays_diverged():
    rows = make_rows(100).copy()
    rows[2] = np.nan
    engine = make(shape=Shape(widths=(4, 4, 1), activation="relu"), batch_size=8)
    assert np.isnan(engine.advance(rows, 0, 9)).all()
    assert np.isnan(engine.evaluate(make_rows(5))).all()


def test_evaluation_adds_chunk_by_chunk(monkeypatch):
    monkeypatch.setattr(cuda_population, "CHUNK_ROWS", 7)
    cuda_population.compile_evaluate.cache_clear()
    rows, engine, grids = make_rows(20), make(), []
    configure = cuda_engine.configure
    monkeypatch.setattr(
        cuda_engine, "configure", lambda *launch: grids.append(launch[1]) or configure(*launch)
    )
    in_chunks = engine.evaluate(rows)
    assert grids == [(3, len(RATES))], "the first dimension of a grid is the long one"
    np.testing.assert_allclose(in_chunks, make(TorchEngine).evaluate(rows), rtol=1e-5)
    assert (engine.evaluate(rows[:0]) == 0).all()
    cuda_population.compile_evaluate.cache_clear()


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ConfigError, match=r"at most 4 hidden layers, not 5. Use --engine torch"):
        make(shape=Shape(widths=(4, 2, 2, 2, 2, 2, 1), activation="relu"))
    with pytest.raises(ConfigError, match=r"17,\d+ parameters .* do not fit the 227 KiB"):
        make(shape=Shape(widths=(4, 128, 128, 1), activation="relu"))
    assert make(shape=Shape(widths=(4, 64, 64, 64, 1), activation="gelu")).steps == 0


def test_passes_at_once_have_the_records_of_passes_in_turn(tmp_path, monkeypatch):
    """Kernels follow each other here; everything else of the passes is side by side."""
    check_passes_at_once(tmp_path, monkeypatch, "cpu", passes=2, rows=160, sizes=(30, 64))
