"""The torch engine beyond the contract (test_engine.py): options, and compiled steps."""

import numpy as np
import pytest
import torch

from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model import Shape
from streamtrain.training.torch import torch_engine
from streamtrain.training.torch.compiled_steps import STEPS_AT_ONCE
from streamtrain.training.torch.perceptron import ACTIVATIONS
from streamtrain.training.torch.torch_engine import PART_ROWS, TorchEngine
from tests.training.contract import make_rows
from tests.training.torch_engines import (
    LOSSES,
    OPTIMIZERS,
    assert_same,
    factory,
    make_engine,
    trained,
)

# --- options ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_equals_the_fused_engine_with_everything_on(optimizer, loss):
    """Schedule, warm-up and clipping at once, over 100 steps; tanh, whose gradient is smooth."""
    rows = make_rows(32 * 100 + 7)
    options = {
        **optimizer,
        **loss,
        "clip_norm": 0.05,
        "schedule": "cosine",
        "warmup_rows": 1000,
        "last_row": len(rows),
    }
    assert_same(
        trained(make_engine(**options), rows, [500, 1111]),
        trained(make_engine(engine=FusedEngine, **options), rows),
        rtol=1e-3,
        atol=2e-5,
    )


def test_bf16_is_near_float32_and_not_it():
    rows = make_rows(640)
    (plain, _), (low, _) = (
        trained(make_engine(), rows),
        trained(make_engine(precision="bf16"), rows),
    )
    assert 1e-5 < np.abs(plain - low).max() < 0.1
    assert low.dtype == np.float32


def test_threads_are_those_of_the_run_and_afterwards_the_process_s(monkeypatch):
    seen = []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(
        torch.nn.Linear,
        "forward",
        lambda self, x: (seen.append(torch.get_num_threads()), forward(self, x))[1],
    )
    before = torch.get_num_threads()
    engine = make_engine(factory("linear"), threads=before + 1)
    seen.clear()
    engine.advance(make_rows(64), 0, 64)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


# --- compiled ---


@pytest.mark.parametrize(
    ("batch_size", "optimizer", "calls"),
    [
        pytest.param(32, "nesterov", "several", id="several-steps-a-call"),
        pytest.param(200, "adamw", "one", id="one-step-a-call"),
        pytest.param(300, "adam", "parts", id="parts"),
        pytest.param(50, "adam", "clipped", id="clipped"),
    ],
)
def test_compiled_steps_are_the_eager_ones(traced, monkeypatch, batch_size, optimizer, calls):
    monkeypatch.setattr(torch_engine, "STEPS_AT_ONCE", 2)
    if calls == "parts":
        monkeypatch.setattr(torch_engine, "PART_ROWS", 128)
    rows = make_rows(batch_size * 20 + 11)
    options = {
        "batch_size": batch_size,
        **OPTIMIZERS[optimizer],
        "loss": "huber",
        "warmup_rows": 500,
    }
    options |= {"clip_norm": 0.1} if calls == "clipped" else {}
    compiled = make_engine(**options, compile="on")
    seconds = compiled.prepare_steps()
    assert seconds > 0 == compiled.prepare_steps()
    expected = {"several": (2, 0), "one": (1, 0), "parts": (0, 128), "clipped": (0, 50)}[calls]
    assert (compiled._steps_at_once, compiled._compiled_rows) == expected
    assert (compiled.parameters() == make_engine(**options).parameters()).all(), (
        "compiling takes no step"
    )
    assert_same(
        trained(compiled, rows, [batch_size // 2, 5 * batch_size]),
        trained(make_engine(**options), rows),
    )
    assert compiled.steps == 21


def test_a_compiler_that_is_wrong_does_not_train(traced, monkeypatch):
    right = torch_engine.compiled_steps

    def wrong(*args):
        steps = right(*args)
        return lambda parameters_RP, moments, rows, table: steps(
            parameters_RP, moments, rows * 1.1, table
        )

    monkeypatch.setattr(torch_engine, "compiled_steps", wrong)
    engine = make_engine(compile="on", batch_size=200)
    with pytest.warns(UserWarning, match="gives other numbers"):
        engine.prepare_steps()
    assert_same(
        trained(engine, make_rows(900)),
        trained(make_engine(batch_size=200), make_rows(900)),
        rtol=0,
        atol=0,
    )


def test_without_a_compiler_steps_stay_eager_and_a_sentence_says_so(monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("no working C++ compiler\nand more")

    monkeypatch.setattr(torch_engine, "compiled_steps", refuse)
    engine = make_engine(compile="on")
    with pytest.warns(
        UserWarning,
        match=(
            "could not be compiled .RuntimeError: no working C.. compiler., so it is taken"
            " operation by operation"
        ),
    ):
        result = trained(engine, make_rows(100))
    assert_same(result, trained(make_engine(), make_rows(100)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("batch_size", "last_row", "wanted"),
    [
        (32, 100_000, False),
        (32, 100_000_000, True),
        (65536, 1_000_000, False),
        (65536, 1_000_000_000, True),
        (32, None, False),
    ],
)
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
    # More steps per call take as many times longer to compile: see the next test.
    monkeypatch.setattr(torch_engine, "STEPS_AT_ONCE", 1)
    shape = Shape(widths=(4, 8, 8, 1), activation=activation)
    rows = make_rows(32 * 100 + 7)
    options = {"model": shape, **loss, **optimizer, "warmup_rows": 900}
    compiled = make_engine(**options, compile="on")
    compiled.prepare_steps()
    assert compiled._steps_at_once == 1
    assert_same(
        trained(compiled, rows), trained(make_engine(**options), rows), rtol=2e-3, atol=2e-4
    )


@pytest.mark.slow
def test_machine_code_of_a_factory_s_module_and_of_parts():
    for options, at_once in (
        ({"model": factory("normed")}, STEPS_AT_ONCE),
        ({"batch_size": 5000}, 0),
        ({"clip_norm": 0.1}, 0),
    ):
        compiled = make_engine(**options, compile="on")
        rows = make_rows(6 * 5000 if compiled.batch_size == 5000 else 100 * 32)
        assert_same(
            trained(compiled, rows), trained(make_engine(**options), rows), rtol=2e-3, atol=2e-4
        )
        assert compiled._steps_at_once == at_once
        assert at_once or compiled._compiled_rows == min(compiled.batch_size, PART_ROWS)
