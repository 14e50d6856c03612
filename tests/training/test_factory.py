"""User-defined modules (--model module:factory) train as by hand, or are refused with a reason."""

import numpy as np
import pytest
import torch

from streamtrain.errors import ConfigError
from streamtrain.training.factory import Factory
from streamtrain.training.model import initial_parameters
from streamtrain.training.network import Network
from streamtrain.types import Standardization
from tests.training.contract import RATES, make_rows
from tests.training.torch_engines import factory, make_engine, trained


def by_hand(made: Factory, rows: np.ndarray, lr: float) -> torch.nn.Module:
    """Train one replica with plain torch: the module itself, torch.optim, autograd."""
    module = made.module()
    made.load_flat(module, initial_parameters(made, 0, 0))
    optimizer = torch.optim.Adam(
        [tensor for tensor in module.parameters() if tensor.requires_grad], lr=lr
    )
    for batch in torch.from_numpy(rows).split(32):
        optimizer.zero_grad()
        (0.5 * (module(batch[:, :-1]) - batch[:, -1:]) ** 2).mean().backward()
        optimizer.step()
    return module


@pytest.mark.parametrize(
    ("name", "stacks"),
    [
        ("linear", True),
        ("mlp", True),
        ("normed", True),
        ("frozen", True),
        ("Fourier", True),
        ("Tied", True),
        ("Looks", False),
    ],
)
def test_a_module_of_the_user_s_own_trains_as_by_hand(name, stacks):
    made, rows = factory(name).for_trial(0, 0), make_rows(32 * 50)
    assert made.stacks == stacks, "control flow that depends on values: replica by replica"
    engine = make_engine(made, average="off")
    parameters, _ = trained(engine, rows)
    for replica, lr in enumerate(RATES):
        module = by_hand(made, rows, lr)
        mine = made.module()
        made.load_flat(mine, parameters[replica])
        for key, value in module.state_dict().items():
            np.testing.assert_allclose(
                mine.state_dict()[key], value, rtol=1e-3, atol=2e-5, err_msg=key
            )
        with torch.no_grad():
            expected = (module(torch.from_numpy(rows[:, :-1]))[:, 0].numpy() - rows[:, -1]) ** 2
        np.testing.assert_allclose(engine.evaluate(rows)[replica], expected.mean(), rtol=1e-3)


def test_a_trial_is_a_start_and_constants_of_its_own():
    made = factory("Fourier")
    state = torch.random.get_rng_state()
    starts = [initial_parameters(made, 5, trial) for trial in (0, 0, 1)]
    waves = [made.for_trial(5, trial).module().waves for trial in (0, 0, 1)]
    assert (torch.random.get_rng_state() == state).all(), (
        "the state of torch's generator is preserved"
    )
    assert (starts[0] == starts[1]).all()
    assert (starts[0] != starts[2]).any()
    assert torch.equal(waves[0], waves[1])
    assert not torch.equal(waves[0], waves[2])
    plain = factory("mlp")
    assert plain.for_trial(5, 1) is plain, (
        "without constants, what was compiled is reused in every trial"
    )
    assert (initial_parameters(plain, 5, 0) != initial_parameters(plain, 5, 1)).any()
    assert made.num_parameters == 9
    assert made.has_constants


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("batchnorm", r"BatchNorm1d 1.*LayerNorm|failed on .* \(it holds BatchNorm1d 1\)"),
        ("dropout", "draws random numbers.*Dropout 1"),
        ("Mixes", "mixes rows.*what it computes"),
        ("Counts", "running statistics .buffer calls."),
        ("nothing", "returned NoneType"),
        ("wide", r"gives torch.float32 \(6, 2\) for 6 rows"),
        ("double", "weight is torch.float64"),
        ("still", "no trainable parameter"),
        ("broken", "raised KeyError: 'x'"),
        ("lineer", "no function 'lineer'. Did you mean linear"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_sentence(name, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        factory(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--model tests.training.modules:")


def test_a_module_goes_into_a_network_with_normalisation():
    made = factory("mlp")
    standard = Standardization(
        mean=np.array([1.0, 2, 3, 4, 5]), scale=np.array([1.0, 2, 0.5, 4, 0.1])
    )
    network = Network(made, standard, ("a", "b", "c", "d"), "y")
    network.load_flat(initial_parameters(made, 0, 0))
    x = make_rows(10)[:, :4]
    module = made.module()
    made.load_flat(module, initial_parameters(made, 0, 0))
    with torch.no_grad():
        expected = (
            module(
                torch.from_numpy(((x - standard.mean[:4]) * standard.scale[:4]).astype(np.float32))
            ).numpy()
            / 0.1
            + 5
        )
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), expected, rtol=1e-5)
