"""The torch engine beyond the contract (test_engines.py): options, compiled steps, modules of the user's own, a GPU's feed and graph."""

from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.learners import device_feed, graphs, torch_engine
from streamtrain.learners.device_feed import DeviceFeed, cuts
from streamtrain.learners.factory import Factory, load_factory
from streamtrain.learners.fused_engine import FusedEngine
from streamtrain.learners.graphs import ReplayedSteps
from streamtrain.learners.model import ACTIVATIONS, Network, Shape, initial_parameters
from streamtrain.learners.torch_engine import PART_ROWS, TorchEngine
from streamtrain.learners.whole_steps import STEPS_AT_ONCE
from streamtrain.types import Standard

RATES = (0.003, 0.01)
SHAPE = Shape(widths=(4, 8, 8, 1), activation="tanh")
OPTIMIZERS = {
    "adam": {"optimizer": "adam", "weight_decay": 0.01}, "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd"}, "nesterov": {"optimizer": "sgd", "nesterov": True, "weight_decay": 0.01},
}  # fmt: skip
LOSSES = {"mse": {"loss": "mse"}, "huber": {"loss": "huber", "huber_delta": 0.4}}
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def make_rows(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, 5)).astype(np.float32)
    rows[:, -1] = np.sin(rows[:, 0]) + rows[:, 1] * rows[:, 2] * 0.3
    return rows


def make_engine(model=SHAPE, batch_size=32, engine=TorchEngine, last_row=None, **train) -> TorchEngine:
    train = {"device": "cpu", "compile": "off", **train}
    return engine(model, initial_parameters(model, 0, 0), batch_size, RATES, TrainConfig(**train), last_row)


def trained(engine, rows, stops=()) -> tuple[np.ndarray, np.ndarray]:
    """(parameters, sum of losses) after the rows, cut at `stops`, and a short minibatch at their end."""
    places = [0, *stops, len(rows)]
    losses = sum(engine.advance(rows, start, stop) for start, stop in pairwise(places))
    engine.finish_epoch()
    return engine.parameters(), losses


def assert_same(one, other, rtol=1e-4, atol=2e-6) -> None:
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol)


# --- options ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_equals_the_fused_engine_with_everything_on(optimizer, loss):
    """Schedule, warm-up and clipping at once; tanh, whose gradient has no edges, over 100 steps."""
    rows = make_rows(32 * 100 + 7)
    options = {**optimizer, **loss, "clip_norm": 0.05, "schedule": "cosine", "warmup_rows": 1000, "last_row": len(rows)}
    assert_same(trained(make_engine(**options), rows, [500, 1111]), trained(make_engine(engine=FusedEngine, **options), rows), rtol=1e-3, atol=2e-5)


def test_bf16_is_near_float32_and_not_it():
    rows = make_rows(640)
    (plain, _), (low, _) = trained(make_engine(), rows), trained(make_engine(precision="bf16"), rows)
    assert 1e-5 < np.abs(plain - low).max() < 0.1
    assert low.dtype == np.float32


def test_threads_are_those_of_the_run_and_afterwards_the_process_s(monkeypatch):
    seen = []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: (seen.append(torch.get_num_threads()), forward(self, x))[1])
    before = torch.get_num_threads()
    engine = make_engine(factory("linear"), threads=before + 1)
    seen.clear()
    engine.advance(make_rows(64), 0, 64)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


# --- compiled ---


@pytest.fixture
def traced(monkeypatch):
    """The compiler's front half: everything but the machine code, which costs ten seconds and more (see the slow tests)."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize(("batch_size", "optimizer", "calls"), [
    pytest.param(32, "nesterov", "several", id="several-steps-a-call"), pytest.param(200, "adamw", "one", id="one-step-a-call"),
    pytest.param(300, "adam", "parts", id="parts"), pytest.param(50, "adam", "clipped", id="clipped"),
])  # fmt: skip
def test_compiled_steps_are_the_eager_ones(traced, monkeypatch, batch_size, optimizer, calls):
    monkeypatch.setattr(torch_engine, "STEPS_AT_ONCE", 2)
    if calls == "parts":
        monkeypatch.setattr(torch_engine, "PART_ROWS", 128)
    rows = make_rows(batch_size * 20 + 11)
    options = {"batch_size": batch_size, **OPTIMIZERS[optimizer], "loss": "huber", "warmup_rows": 500}
    options |= {"clip_norm": 0.1} if calls == "clipped" else {}
    compiled = make_engine(**options, compile="on")
    seconds = compiled.prepare_steps()
    assert seconds > 0 == compiled.prepare_steps()
    expected = {"several": (2, 0), "one": (1, 0), "parts": (0, 128), "clipped": (0, 50)}[calls]
    assert (compiled._steps_at_once, compiled._compiled_rows) == expected
    assert (compiled.parameters() == make_engine(**options).parameters()).all(), "compiling takes no step"
    assert_same(trained(compiled, rows, [batch_size // 2, 5 * batch_size]), trained(make_engine(**options), rows))
    assert compiled.steps == 21


def test_a_compiler_that_is_wrong_does_not_train(traced, monkeypatch):
    right = torch_engine.compiled_steps

    def wrong(*args):
        steps = right(*args)
        return lambda parameters_RP, moments, rows, table: steps(parameters_RP, moments, rows * 1.1, table)

    monkeypatch.setattr(torch_engine, "compiled_steps", wrong)
    engine = make_engine(compile="on", batch_size=200)
    with pytest.warns(UserWarning, match="gives other numbers"):
        engine.prepare_steps()
    assert_same(trained(engine, make_rows(900)), trained(make_engine(batch_size=200), make_rows(900)), rtol=0, atol=0)


def test_without_a_compiler_steps_stay_eager_and_a_sentence_says_so(monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("no working C++ compiler\nand more")

    monkeypatch.setattr(torch_engine, "compiled_steps", refuse)
    engine = make_engine(compile="on")
    with pytest.warns(UserWarning, match="could not be compiled .RuntimeError: no working C.. compiler., so it is taken operation by operation"):
        result = trained(engine, make_rows(100))
    assert_same(result, trained(make_engine(), make_rows(100)), rtol=0, atol=0)


@pytest.mark.parametrize(("batch_size", "last_row", "wanted"), [
    (32, 100_000, False), (32, 100_000_000, True), (65536, 1_000_000, False), (65536, 1_000_000_000, True), (32, None, False),
])  # fmt: skip
def test_auto_compiles_what_a_long_run_wins_back(monkeypatch, batch_size, last_row, wanted):
    asked = []
    monkeypatch.setattr(TorchEngine, "_compile", lambda self: asked.append(self))
    make_engine(batch_size=batch_size, last_row=last_row, compile="auto").prepare_steps()
    assert bool(asked) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_machine_code_equals_eager(monkeypatch, activation, loss, optimizer):
    monkeypatch.setattr(torch_engine, "STEPS_AT_ONCE", 1)  # several take as many times longer to compile: see the next test
    shape = Shape(widths=(4, 8, 8, 1), activation=activation)
    rows = make_rows(32 * 100 + 7)
    options = {"model": shape, **loss, **optimizer, "warmup_rows": 900}
    compiled = make_engine(**options, compile="on")
    compiled.prepare_steps()
    assert compiled._steps_at_once == 1
    assert_same(trained(compiled, rows), trained(make_engine(**options), rows), rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_machine_code_of_a_factory_s_module_and_of_parts():
    for options, at_once in (({"model": factory("normed")}, STEPS_AT_ONCE), ({"batch_size": 5000}, 0), ({"clip_norm": 0.1}, 0)):
        compiled = make_engine(**options, compile="on")
        rows = make_rows(6 * 5000 if compiled.batch_size == 5000 else 100 * 32)
        assert_same(trained(compiled, rows), trained(make_engine(**options), rows), rtol=2e-3, atol=2e-4)
        assert compiled._steps_at_once == at_once and (at_once or compiled._compiled_rows == min(compiled.batch_size, PART_ROWS))


# --- modules of the user's own ---

MODULES = '''
import torch
from torch import nn

def linear(n): return nn.Linear(n, 1)
def mlp(n): return nn.Sequential(nn.Linear(n, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
def normed(n): return nn.Sequential(nn.Linear(n, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Linear(8, 1))
def frozen(n):
    first = nn.Linear(n, 8).requires_grad_(False)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(8, 1))

class Fourier(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.register_buffer("waves", torch.randn(n, 8))
        self.out = nn.Linear(8, 1)
    def forward(self, x): return self.out(torch.sin(x @ self.waves))
class Tied(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.first, self.back = nn.Linear(n, n), nn.Linear(n, n)
        self.back.weight = self.first.weight
        self.out = nn.Linear(n, 1)
    def forward(self, x): return self.out(self.back(torch.tanh(self.first(x))))
class Looks(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.out = nn.Linear(n, 1)
    def forward(self, x): return self.out(x) * (1.0 if self.out.weight.sum() > -1e9 else 2.0)

def batchnorm(n): return nn.Sequential(nn.Linear(n, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
def dropout(n): return nn.Sequential(nn.Linear(n, 4), nn.Dropout(), nn.Linear(4, 1))
class Mixes(Looks):
    def forward(self, x): return self.out(x - x.mean(dim=0))
class Counts(Looks):
    def __init__(self, n):
        super().__init__(n)
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, x):
        self.calls += 1
        return self.out(x)
def nothing(n): return None
def wide(n): return nn.Linear(n, 2)
def double(n): return nn.Linear(n, 1).double()
def still(n): return nn.Identity()
def broken(n): raise KeyError("x")
'''  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "modules_of_mine.py").write_text(MODULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


def factory(name: str) -> Factory:
    return load_factory(f"modules_of_mine:{name}", 4)


def by_hand(made: Factory, rows: np.ndarray, lr: float) -> torch.nn.Module:
    """One replica the plain way: the module itself, torch.optim, autograd."""
    module = made.module()
    made.load_flat(module, initial_parameters(made, 0, 0))
    optimizer = torch.optim.Adam([tensor for tensor in module.parameters() if tensor.requires_grad], lr=lr)
    for batch in torch.from_numpy(rows).split(32):
        optimizer.zero_grad()
        (0.5 * (module(batch[:, :-1]) - batch[:, -1:]) ** 2).mean().backward()
        optimizer.step()
    return module


@pytest.mark.parametrize(("name", "stacks"), [
    ("linear", True), ("mlp", True), ("normed", True), ("frozen", True), ("Fourier", True), ("Tied", True), ("Looks", False),
])  # fmt: skip
def test_a_module_of_the_user_s_own_trains_as_by_hand(name, stacks):
    made, rows = factory(name).of_trial(0, 0), make_rows(32 * 50)
    assert made.stacks == stacks, "control flow that looks at values goes replica by replica"
    engine = make_engine(made)
    parameters, _ = trained(engine, rows)
    for replica, lr in enumerate(RATES):
        module = by_hand(made, rows, lr)
        mine = made.module()
        made.load_flat(mine, parameters[replica])
        for key, value in module.state_dict().items():
            np.testing.assert_allclose(mine.state_dict()[key], value, rtol=1e-3, atol=2e-5, err_msg=key)
        with torch.no_grad():
            expected = (module(torch.from_numpy(rows[:, :-1]))[:, 0].numpy() - rows[:, -1]) ** 2
        np.testing.assert_allclose(engine.evaluate(rows)[replica], expected.mean(), rtol=1e-3)


def test_a_trial_is_a_start_and_constants_of_its_own():
    made = factory("Fourier")
    state = torch.random.get_rng_state()
    starts = [initial_parameters(made, 5, trial) for trial in (0, 0, 1)]
    waves = [made.of_trial(5, trial).module().waves for trial in (0, 0, 1)]
    assert (torch.random.get_rng_state() == state).all(), "the process's generator is left alone"
    assert (starts[0] == starts[1]).all() and (starts[0] != starts[2]).any()
    assert torch.equal(waves[0], waves[1]) and not torch.equal(waves[0], waves[2])
    plain = factory("mlp")
    assert plain.of_trial(5, 1) is plain, "without constants what was compiled serves every trial"
    assert (initial_parameters(plain, 5, 0) != initial_parameters(plain, 5, 1)).any()
    assert made.num_parameters == 9 and made.has_constants


@pytest.mark.parametrize(("name", "sentence"), [
    ("batchnorm", r"BatchNorm1d 1.*LayerNorm|failed on .* \(it holds BatchNorm1d 1\)"), ("dropout", "draws random numbers.*Dropout 1"),
    ("Mixes", "mixes rows.*what it computes"), ("Counts", "running statistics .buffer calls."), ("nothing", "returned NoneType"),
    ("wide", r"gives torch.float32 \(6, 2\) for 6 rows"), ("double", "weight is torch.float64"), ("still", "no trainable parameter"),
    ("broken", "raised KeyError: 'x'"), ("lineer", "no function 'lineer'. Did you mean linear"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_with_a_sentence(name, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        factory(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--model modules_of_mine:")


def test_a_module_goes_into_a_network_with_normalisation():
    made = factory("mlp")
    standard = Standard(mean=np.array([1.0, 2, 3, 4, 5]), scale=np.array([1.0, 2, 0.5, 4, 0.1]))
    network = Network(made, standard, ("a", "b", "c", "d"), "y")
    network.load_flat(initial_parameters(made, 0, 0))
    x = make_rows(10)[:, :4]
    module = made.module()
    made.load_flat(module, initial_parameters(made, 0, 0))
    with torch.no_grad():
        expected = module(torch.from_numpy(((x - standard.mean[:4]) * standard.scale[:4]).astype(np.float32))).numpy() / 0.1 + 5
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), expected, rtol=1e-5)


# --- the way to a GPU ---


@given(st.integers(0, 50), st.integers(0, 500), st.integers(1, 60), st.integers(1, 80), st.data())
def test_cuts_are_whole_minibatches_where_a_slot_holds_one(start, count, batch_size, slot_rows, data):
    carried = data.draw(st.integers(0, batch_size - 1))
    pieces = list(cuts(start, start + count, carried, batch_size, slot_rows))
    assert [row for piece in pieces for row in range(*piece)] == list(range(start, start + count))
    assert all(0 < stop - begin <= slot_rows for begin, stop in pieces)
    if batch_size <= slot_rows:
        aligned = [(carried + stop - start) % batch_size == 0 for _, stop in pieces[:-1]]
        assert all(aligned[1:]) and (not aligned or aligned[0] or batch_size - carried > slot_rows)


@pytest.fixture
def pretended(monkeypatch):
    """CUDA's streams, events and graphs, each with nothing to do, so that the arithmetic around them can run here.

    A graph replays by calling what was captured; it shows neither streams nor lifetimes: those need a GPU.
    """
    stream = SimpleNamespace(wait_event=lambda _e: None, wait_stream=lambda _s: None, cuda_stream=0)

    class Graph:
        def replay(self):
            self.captured()

    @contextmanager
    def graph(captured, capture_error_mode):
        assert capture_error_mode == "thread_local"
        with monkeypatch.context() as patch:  # a capture runs nothing
            patch.setattr(ReplayedSteps, "_one", lambda self: setattr(captured, "captured", partial(one, self)))
            yield

    one = ReplayedSteps._one
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, pin_memory=False, **options: empty(*args, **options))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _self, _stream: None)
    for name, value in {
        "Stream": lambda *_: stream, "current_stream": lambda *_: stream, "stream": lambda _s: nullcontext(), "CUDAGraph": Graph, "graph": graph,
        "Event": lambda: SimpleNamespace(synchronize=lambda: None, record=lambda _s: None),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(graphs, "can_launch", lambda: False)
    monkeypatch.setattr(device_feed, "SLOT_ROWS", 256)


@pytest.mark.parametrize("batch_size", [32, 100, 300])
def test_feed_and_replay_take_the_same_steps(pretended, monkeypatch, batch_size):
    """Over many slots, with cuts in mid-minibatch, and minibatches larger than a slot."""
    monkeypatch.setattr(torch_engine, "TABLE_STEPS", 4)
    rows = make_rows(3000)
    options = {"batch_size": batch_size, **OPTIMIZERS["adamw"], "schedule": "cosine", "last_row": 3000}
    engine = make_engine(**options, compile="auto")
    engine._feed = DeviceFeed(torch.device("cpu"), 5, batch_size)
    engine.prepare_steps()
    assert (engine._replayed is not None) == (batch_size <= 256)
    assert (engine.parameters() == make_engine(**options).parameters()).all(), "warming up and capturing take no step"
    assert_same(trained(engine, rows, [1, 40, 1500]), trained(make_engine(**options), rows))
    assert engine.steps == -(-3000 // batch_size)


@pytest.mark.parametrize("batch_size", [pytest.param(size, marks=needs_gpu) for size in (32, 1000, 200_000)])
@pytest.mark.parametrize("compile", ["auto", "off"])
def test_on_a_gpu_as_on_the_cpu(batch_size, compile):
    rows = make_rows(500_000)
    options = {"batch_size": batch_size, **OPTIMIZERS["adam"]}
    on_gpu = make_engine(**options, device="cuda", compile=compile)
    on_gpu.prepare_steps()
    assert (on_gpu._replayed is not None) == (compile == "auto" and batch_size < 200_000)
    rows = rows[: 100 * batch_size]
    assert_same(trained(on_gpu, rows, [17, 5000]), trained(make_engine(**options), rows), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_slot_is_not_written_over_while_it_is_used():
    """Slow work on each slot, and a feed that is a ring ahead of it: every sum must still be that of its own rows."""
    rows = make_rows(40_000)
    feed = DeviceFeed(torch.device("cuda"), 5, 1000)
    feed.slot_rows = 1000
    sums = []
    for part in feed(rows, 0, len(rows), 0):
        torch.cuda._sleep(2_000_000)
        sums.append(part.sum(dtype=torch.float64))
    np.testing.assert_allclose([float(value) for value in sums], rows.reshape(40, -1).sum(axis=1, dtype=np.float64), rtol=1e-6)
