"""Properties of the fused engine: threads and cuts, widths and sizes, gradients."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.runtime import _nrt_python, rtsys

from streamtrain.config import TrainConfig
from streamtrain.kernels.products import MAX_WEIGHTS
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.fused_engine import FusedEngine, gradient_slots, one_blas_thread
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.torch.perceptron import views
from streamtrain.training.torch.torch_engine import TorchEngine

RATES = (0.003, 0.01, 0.02)
ROWS = np.random.default_rng(1).standard_normal((9000, 5)).astype(np.float32)


def make(
    widths=(4, 8, 8, 1), batch_size=32, rates=RATES, activation="relu", kind=FusedEngine, **train
):
    shape = Shape(widths=widths, activation=activation)
    return kind(
        shape,
        initial_parameters(shape, 0, 0),
        batch_size,
        rates,
        TrainConfig(device="cpu", **train),
    )


@pytest.fixture(scope="module")
def pools():
    with one_blas_thread(), ComputePool(1) as one, ComputePool(2) as two, ComputePool(4) as four:
        yield one, two, four


@pytest.mark.parametrize("batch_size", [1, 32, 2047, 2048, 3100, 4096, 8999, 20_000])
def test_threads_never_change_a_result(pools, batch_size):
    """Parameters, moments, the gradient sum and losses are bit-identical.

    Calls end within minibatches and within parts.
    """
    states, losses = [], []
    for pool in (None, *pools):
        engine = make(batch_size=batch_size)
        engine.cores = pool or engine.cores
        losses.append(
            [
                engine.advance(ROWS, start, stop).tobytes()
                for start, stop in [(0, 2500), (2500, 2500), (2500, 2503), (2503, 9000)]
            ]
        )
        losses[-1].append(engine.evaluate(ROWS).tobytes())
        states.append({name: array.tobytes() for name, array in engine.state().items()})
        engine.finish_epoch()
        states[-1]["finished"] = engine.parameters().tobytes()
        assert engine.steps == -(-9000 // batch_size)
    assert states[1:] == states[:-1]
    assert losses[1:] == losses[:-1]


cuts = st.lists(st.integers(0, 3000), max_size=6).map(lambda inner: sorted({0, 3000, *inner}))


@settings(max_examples=25, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 40), max_size=4),
    features=st.integers(1, 6),
    batch_size=st.integers(1, 3500),
    cuts=cuts,
    activation=st.sampled_from(["relu", "tanh", "silu", "gelu", "identity"]),
    loss=st.sampled_from(["mse", "huber"]),
)
def test_any_shape_size_and_cut_equals_the_torch_engine(
    hidden, features, batch_size, cuts, activation, loss
):
    rows = np.random.default_rng(len(cuts)).standard_normal((3000, features + 1)).astype(np.float32)
    # Plain SGD at a small learning rate does not amplify rounding, so the tolerance can be small.
    fused, eager = (
        make(
            (features, *hidden, 1),
            max(batch_size, 20),
            (1e-3,),
            activation,
            kind,
            optimizer="sgd",
            momentum=0,
            loss=loss,
        )
        for kind in (FusedEngine, TorchEngine)
    )
    for start, stop in pairwise(cuts):
        np.testing.assert_allclose(
            fused.advance(rows, start, stop), eager.advance(rows, start, stop), rtol=1e-4
        )
    assert fused.steps == eager.steps == 3000 // max(batch_size, 20)
    np.testing.assert_allclose(fused.parameters(), eager.parameters(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widths", [(4, 160, 120, 1), (200, 90, 3, 1)], ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh", "silu", "gelu", "identity"])
def test_layers_too_large_for_registers_go_through_blas(widths, activation):
    """The large layer is a hidden one or the first; the last tile is not full."""
    assert max(inputs * outputs for inputs, outputs in pairwise(widths)) > MAX_WEIGHTS
    rows = np.random.default_rng(0).standard_normal((700, widths[0] + 1)).astype(np.float32)
    with one_blas_thread():
        fused, eager = (
            make(widths, 300, (0.1,), activation, kind, optimizer="sgd", momentum=0)
            for kind in (FusedEngine, TorchEngine)
        )
        start = fused.parameters()
        for engine in (fused, eager):
            engine.advance(rows, 0, 700)
            engine.finish_epoch()
        moved = np.abs(eager.parameters() - start).max()
        assert moved > 1e-3
        np.testing.assert_allclose(
            fused.parameters(), eager.parameters(), rtol=0, atol=1e-4 * moved
        )
        np.testing.assert_allclose(fused.evaluate(rows), eager.evaluate(rows), rtol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "parameters", "slots"),
    [
        pytest.param(2047, 1249, 1, id="small minibatch"),
        pytest.param(4100, 1249, 4, id="four slots"),
        pytest.param(10**6, 1249, 16, id="large"),
        pytest.param(10**6, 2**16, 4, id="large gradient"),
        pytest.param(10**6, 10**7, 2, id="huge gradient"),
    ],
)
def test_slots_are_a_function_of_the_run(batch_size, parameters, slots):
    assert gradient_slots(batch_size, parameters) == slots


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("widths", [(4, 1), (4, 7, 1), (4, 8, 5, 1), (4, 160, 120, 1)], ids=str)
def test_gradients_are_those_of_autograd(widths, loss):
    engine = make(widths, activation="silu", loss=loss, huber_delta=0.5)
    engine.advance(ROWS, 0, 640)  # replicas differ
    rows, shape = ROWS[:300], Shape(widths=widths, activation="silu")
    engine.accumulate(rows, 0, len(rows))
    means = engine.take_gradient_sum() / len(rows)
    for replica, parameters in enumerate(engine.parameters()):
        flat = torch.from_numpy(parameters).double()

        def row_loss(flat, row):
            values = row[None, :-1]
            *hidden, (weight, bias) = views(flat[None], shape)
            for hidden_weight, hidden_bias in hidden:
                values = torch.nn.functional.silu(values @ hidden_weight[0] + hidden_bias[0])
            outputs = (values @ weight[0] + bias[0])[0]
            if loss == "mse":
                return 0.5 * (outputs - row[-1:]).square()[0]
            return torch.nn.functional.huber_loss(outputs, row[-1:], delta=0.5)

        gradients = torch.func.vmap(torch.func.grad(row_loss), (None, 0))(
            flat, torch.from_numpy(rows).double()
        )
        np.testing.assert_allclose(means[replica], gradients.mean(dim=0), rtol=1e-3, atol=1e-5)


def test_a_step_allocates_nothing():
    """2,000 steps in one call allocate as much as two, counted by Python and by Numba."""
    _nrt_python.memsys_enable_stats()
    for batch_size, short, long in [(4, 8, 8000), (2048, 2048, 9000)]:
        engine = make(batch_size=batch_size, rates=(0.01,))
        peaks, allocations = {short: [], long: []}, set()
        engine.advance(ROWS, 0, 8)
        # The minimum of five: Python counts the allocations of all threads of the process, those
        # of other tests included.
        for rows in (short, long) * 5:
            before = rtsys.get_allocation_stats().alloc
            tracemalloc.start()
            engine.advance(ROWS, 0, rows)
            peaks[rows].append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            allocations.add(rtsys.get_allocation_stats().alloc - before)
        assert len(allocations) == 1
        assert min(peaks[long]) <= min(peaks[short]) + 1000


@pytest.mark.parametrize(
    "train", [{}, {"optimizer": "adamw"}, {"optimizer": "sgd"}], ids=["adam", "adamw", "momentum"]
)
def test_moments_of_dead_units_end_at_zero(train):
    """Moments that only decay would become denormal, and steps several times slower."""
    engine = make(batch_size=1, rates=(1e-6,), beta2=0.9, beta2_per="step", **train)
    state = engine.state()
    state["parameters"][
        :, 4 * 8 : 5 * 8
    ] = -1e3  # the first layer's biases: no row activates a unit
    used = 1 if train.get("optimizer") == "sgd" else 2
    state["moments"][:, :used] = 1e-3
    engine.load_state(state)
    engine.advance(ROWS, 0, 2000)
    moments = engine.state()["moments"]
    assert (moments[:, :, : 4 * 8] == 0).all()
    assert (moments[:, 0, -1] != 0).all()
    assert (np.abs(moments[moments != 0]) >= np.finfo(np.float32).tiny).all()


def test_a_diverged_replica_says_so_and_ends(pools):
    """NaN passes through every activation, and threads that share the minibatch still end."""
    for activation in ("relu", "tanh", "silu", "gelu", "identity"):
        engine = make(batch_size=4096, rates=(0.01, 1e30), activation=activation, optimizer="sgd")
        engine.cores = pools[1]
        with np.errstate(all="ignore"):
            losses = engine.advance(ROWS, 0, 9000)
        assert np.isfinite(losses[0])
        assert not np.isfinite(losses[1])
        assert not np.isfinite(engine.evaluate(ROWS)[1])
