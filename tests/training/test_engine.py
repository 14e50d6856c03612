"""Every engine satisfies the contract, and equals a plain torch loop on the same rows."""

import itertools
import math
from contextlib import contextmanager, nullcontext
from functools import cache

import numpy as np
import pytest
import torch

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError, DataError
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine_choice import choose_engine
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.network import Network
from streamtrain.training.torch import torch_engine
from streamtrain.training.torch.device_feed import DeviceFeed
from streamtrain.training.torch.perceptron import ACTIVATIONS
from streamtrain.training.torch.torch_engine import TorchEngine
from streamtrain.types import Standardization
from tests.training.contract import RATES, check_engine, make_rows
from tests.training.torch_engines import factory

#: The largest difference to float64 after 100 steps, as a fraction of the change of the parameters.
ROUNDING = 1e-4


#: Options of optimizers by name; each is tested with every activation and loss.
OPTIMIZERS = {
    "adam": {},
    "adam-decay": {"weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.99},
    "sgd": {"optimizer": "sgd", "momentum": 0.0},
    "momentum": {"optimizer": "sgd"},
    "nesterov": {"optimizer": "sgd", "nesterov": True},
    "sgd-decay": {"optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.05},
    "clip": {"clip_norm": 0.2},
    "warm-up": {"warmup_rows": 1700},
    "cosine": {"schedule": "cosine"},
    "all": {
        "optimizer": "sgd",
        "nesterov": True,
        "weight_decay": 0.01,
        "clip_norm": 0.5,
        "warmup_rows": 700,
        "schedule": "cosine",
    },
}
LOSSES = {"mse": {}, "huber": {"loss": "huber", "huber_delta": 0.4}}
STEPS = 100


@cache
def plain_torch(shape: Shape, train: TrainConfig, lr: float, count: int) -> np.ndarray:
    """Train on `make_rows(count)` by the loop of a torch tutorial; return the flat parameters.

    Minibatches of 32, in float64, with nn.Linear, torch.optim, autograd and a schedule.
    """
    network = Network(shape, Standardization.identity(shape.widths[0] + 1), ("a",), "y")
    network.load_flat(initial_parameters(shape, 0, 0))
    model = network.layers.double()
    if train.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=lr,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.decay,
        )
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
        optimizer = kind(
            model.parameters(), lr=lr, betas=(train.beta1, train.beta2), weight_decay=train.decay
        )
    for begin in range(0, count, 32):
        end = min(begin + 32, count)
        batch = torch.from_numpy(make_rows(count)[begin:end].astype(np.float64))
        warmup = min(1.0, end / train.warmup_rows) if train.warmup_rows else 1.0
        decay = math.cos(math.pi / 2 * begin / count) ** 2 if train.schedule == "cosine" else 1.0
        optimizer.param_groups[0]["lr"] = lr * warmup * decay
        optimizer.zero_grad()
        outputs = model(batch[:, :-1])
        if train.loss == "huber":
            loss = torch.nn.functional.huber_loss(outputs, batch[:, -1:], delta=train.huber_delta)
        else:
            loss = 0.5 * torch.nn.functional.mse_loss(outputs, batch[:, -1:])
        loss.backward()
        if train.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        optimizer.step()
    pieces: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            pieces += [module.weight.detach().T.reshape(-1), module.bias.detach()]
    return torch.cat(pieces).numpy()


@contextmanager
def two_threads(_request):
    with ComputePool(2) as pool:
        yield lambda engine: setattr(engine, "cores", pool)


@contextmanager
def replayed(request):
    """On the stand-in for a GPU: from a ring of pinned slots, by a graph."""
    request.getfixturevalue("pretended")
    yield lambda engine: setattr(
        engine, "_feed", DeviceFeed(torch.device("cpu"), 5, engine.batch_size)
    )


@contextmanager
def traced(request):
    request.getfixturevalue("traced")
    request.getfixturevalue("monkeypatch").setattr(torch_engine, "STEPS_AT_ONCE", 2)
    yield lambda engine: None


#: Ways in which an engine takes steps → the engine, its options, and how it is set up.
WAYS = {
    "fused": (FusedEngine, {}, None),
    "fused on two threads": (FusedEngine, {}, two_threads),
    "torch": (TorchEngine, {"compile": "off"}, None),
    "torch compiled": (TorchEngine, {"compile": "on"}, traced),
    "torch replayed": (TorchEngine, {}, replayed),
}


#: Tracing takes 8 s, and the default run compares compiled steps with the eager ones
#: (test_torch_engine.py).
_SLOW = {"torch compiled": pytest.mark.slow}


@pytest.mark.parametrize(
    ("kind", "options", "way"),
    [pytest.param(*way, id=name, marks=_SLOW.get(name, ())) for name, way in WAYS.items()],
)
def test_every_engine_keeps_the_contract(request, kind, options, way):
    shape = Shape(widths=(4, 8, 8, 1), activation="tanh")
    with nullcontext(lambda engine: None) if way is None else way(request) as set_up:

        def make(batch_size, learning_rates):
            engine = kind(
                shape,
                initial_parameters(shape, 0, 0),
                batch_size,
                learning_rates,
                TrainConfig(device="cpu", **options),
            )
            set_up(engine)
            return engine

        check_engine(make)


def check_equals_torch(make_engine, shape: Shape, train: dict) -> None:
    rows = make_rows(32 * STEPS + 7)
    engine = make_engine(shape, last_row=len(rows), **train)
    before = engine.parameters()
    engine.advance(rows, 0, len(rows))
    engine.finish_epoch()
    assert engine.steps == STEPS + 1, "the short minibatch at the end gets a step of its own"
    expected = plain_torch(shape, TrainConfig(**train), RATES[1], len(rows))
    moved = np.abs(expected - before[1]).max()
    error = np.abs(engine.parameters()[1] - expected).max() / moved
    assert error < ROUNDING, f"{error:.1e} of the change of the parameters"
    assert moved > 0.01, f"{error:.1e} of the change of the parameters"


@pytest.mark.parametrize(
    ("activation", "loss", "optimizer"),
    [
        *((activation, loss, "adam") for activation in ACTIVATIONS for loss in LOSSES),
        *(("tanh", "huber", name) for name in OPTIMIZERS),
    ],
)
def test_equals_a_plain_torch_loop(make_engine, activation, loss, optimizer):
    check_equals_torch(
        make_engine,
        Shape(widths=(4, 8, 8, 1), activation=activation),
        LOSSES[loss] | OPTIMIZERS[optimizer],
    )


@pytest.mark.parametrize("make_engine", [FusedEngine], ids=["fused"], indirect=True)
@pytest.mark.parametrize(
    ("activation", "loss", "optimizer"),
    [
        # Every second one, which has every pair of two of the three; the others are slow.
        pytest.param(*names, marks=pytest.mark.slow if sum(places) % 2 else ())
        for places, names in zip(
            itertools.product(*(range(len(kinds)) for kinds in (ACTIVATIONS, LOSSES, OPTIMIZERS))),
            itertools.product(ACTIVATIONS, LOSSES, OPTIMIZERS),
            strict=True,
        )
    ],
)
def test_the_kernel_equals_torch_in_every_combination(make_engine, activation, loss, optimizer):
    check_equals_torch(
        make_engine,
        Shape(widths=(4, 8, 8, 1), activation=activation),
        LOSSES[loss] | OPTIMIZERS[optimizer],
    )


def test_a_beta2_near_one_is_itself(make_engine):
    """At a batch size of 1 it is 1 - 1e-6, which is not representable in float32.

    With the nearest float32, the second moment would decay 2 % too fast.
    """
    steps, beta2 = 16, TrainConfig().at(1).beta2
    engine = make_engine(Shape(widths=(4, 64, 1), activation="relu"), batch_size=1, beta2=beta2)
    state = engine.state()
    state["parameters"][:] = 0
    state["moments"][:, 1] = before = (
        np.random.default_rng(0).uniform(0.5, 2.0, state["moments"][:, 1].shape).astype(np.float32)
    )
    engine.load_state(state)
    engine.advance(np.zeros((steps, 5), dtype=np.float32), 0, steps)  # without a gradient
    remaining = (engine.state()["moments"][:, 1].astype(np.float64) / before).mean()
    assert remaining == pytest.approx(beta2**steps, abs=0.003 * steps * (1 - beta2))


@pytest.mark.parametrize("hidden", [(), (1,), (33,), (5, 3, 7), (4, 4, 4, 4)], ids=str)
def test_equals_torch_at_any_depth(make_engine, hidden):
    check_equals_torch(make_engine, Shape(widths=(4, *hidden, 1), activation="silu"), {})


def test_without_averages_the_weights_in_training_are_judged_and_are_the_same(make_engine):
    rows = make_rows(1000)
    on, off = make_engine(), make_engine(average="off")
    for engine in (on, off):
        engine.advance(rows, 0, 1000)
        engine.finish_epoch()
    assert on.parameters().tobytes() == off.parameters().tobytes()
    assert off.model_parameters().tobytes() == off.parameters().tobytes()
    assert "average" not in off.state()
    on.load_state({**on.state(), "average": on.parameters()})
    assert on.evaluate(rows).tobytes() == off.evaluate(rows).tobytes()
    with pytest.raises(DataError, match="average is none"):
        on.load_state(off.state())


@pytest.mark.parametrize(
    ("train", "model", "engine", "why"),
    [
        pytest.param({}, None, "fused", "the faster one for perceptrons on the CPU", id="auto"),
        pytest.param(
            {"precision": "bf16"},
            None,
            "torch",
            "train.precision bf16 is for the torch engine",
            id="auto and bf16",
        ),
        pytest.param(
            {"compile": "on", "precision": "bf16"},
            "mlp",
            "torch",
            "--model tests.training.modules:mlp and train.precision bf16 and train.compile on is"
            " for the torch engine",
            id="auto and a module",
        ),
        pytest.param({"engine": "torch"}, None, "torch", "asked for", id="torch"),
        pytest.param({"engine": "fused"}, None, "fused", "asked for", id="fused"),
    ],
)
def test_auto_picks_an_engine_and_says_why(train, model, engine, why):
    assert choose_engine(
        TrainConfig(**train),
        factory(model) if model else Shape(widths=(4, 8, 1), activation="relu"),
    ) == (engine, why)


@pytest.mark.parametrize(
    ("train", "engine", "why"),
    [
        pytest.param(
            {},
            "fused",
            "the faster one for perceptrons on the CPU (--device cuda trains on the GPU)",
            id="auto",
        ),
        pytest.param(
            {"precision": "bf16"},
            "torch",
            "train.precision bf16 is for the torch engine, on cuda",
            id="bf16",
        ),
        pytest.param({"engine": "torch"}, "torch", "asked for, on cuda", id="torch"),
        pytest.param({"engine": "fused"}, "fused", "asked for", id="fused"),
        pytest.param({"engine": "torch", "device": "cpu"}, "torch", "asked for", id="cpu"),
        pytest.param(
            {"device": "cuda"},
            "torch",
            "the default on cuda (--engine fused trains perceptrons there, too)",
            id="cuda",
        ),
    ],
)
def test_where_there_is_a_gpu_auto_takes_it_for_the_torch_engine(monkeypatch, train, engine, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("streamtrain.training.torch.device_feed.open_device", torch.device)
    assert choose_engine(TrainConfig(**train), Shape(widths=(4, 8, 1), activation="relu")) == (
        engine,
        why,
    )


@pytest.mark.parametrize(
    ("train", "says"),
    [
        pytest.param(
            {"engine": "fused", "precision": "bf16"},
            "perceptrons .* in float32 .*bf16 is for --engine torch",
            id="bf16",
        ),
        pytest.param(
            {"engine": "fused", "compile": "on"},
            "train.compile on is for --engine torch",
            id="compile",
        ),
        pytest.param(
            {"precision": "tf32"}, "tf32 needs a GPU.*Use float32, or --device cuda", id="tf32"
        ),
        pytest.param(
            {"device": "cuda:99"},
            "train.device 'cuda:99' cannot be used here.*--device cpu",
            id="device",
        ),
    ],
)
def test_what_no_engine_can_do_is_refused(train, says):
    with pytest.raises(ConfigError, match=says):
        choose_engine(TrainConfig(**train), Shape(widths=(4, 8, 1), activation="relu"))


def test_cosine_needs_an_end(make_engine):
    with pytest.raises(ConfigError, match="needs to know the run's last row"):
        make_engine(schedule="cosine")
