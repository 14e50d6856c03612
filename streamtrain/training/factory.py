"""Modules of the user's own: `--model module:factory`, a function that makes a torch module from
the number of features.

```python
def factory(num_features):    # weights come from torch's generator, seeded for the trial
    return torch.nn.Sequential(torch.nn.Linear(num_features, 64), torch.nn.LayerNorm(64),
    torch.nn.ReLU(), torch.nn.Linear(64, 1))
```
The module takes float32 (rows, num_features) in model units and gives (rows, 1), each row by
itself and without chance: then a minibatch may be cut anywhere, all learning rates go through it as
one batched product, and a run can be repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from streamtrain.base.plugins import file_hash, import_function
from streamtrain.errors import ConfigError, first_line
from streamtrain.plan.order import WEIGHTS, make_key
from streamtrain.types import Json

#: Rows that a new module is tried on.
_PROBE_ROWS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """A factory, and the trial whose constants it draws; the contract of `Shape`
    (learners/model.py). Hashable; equal when alike.

    The flat parameters are the module's trainable ones in the order of `named_parameters()`.
    Buffers and frozen parameters are constants of the trial. `values_a_row`: numbers that a forward
    pass keeps for each row. `stacks`: vmap can go through it.
    """

    name: str
    function: Callable[[int], torch.nn.Module]
    sha256: str | None
    num_features: int
    num_parameters: int = 0
    values_a_row: int = 0
    stacks: bool = True
    has_constants: bool = True
    seed: int = 0
    trial: int = 0

    def of_trial(self, seed: int, trial: int) -> "Factory":
        """The same factory with a trial's constants; itself, when it has none, so that what was
        compiled for it is used again.
        """
        return replace(self, seed=seed, trial=trial) if self.has_constants else self

    def module(self) -> torch.nn.Module:
        """A new module with the constants of its trial, in evaluation mode.

        Torch's generator is left as it was found.

        Raises ConfigError for what the factory raises or returns wrongly.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_key(self.seed, self.trial, WEIGHTS))
            try:
                module = self.function(self.num_features)
            except MemoryError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"--model {self.name} raised {type(error).__name__}: {first_line(error)}. Mend"
                    " the factory."
                ) from error
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(
                f"--model {self.name} returned {type(module).__name__}. Return a torch.nn.Module."
            )
        return module.cpu().eval()

    def initial_parameters(self, seed: int, trial: int) -> np.ndarray:
        """The trainable parameters of a trial's new module: float32 (P,)."""
        module = replace(self, seed=seed, trial=trial).module()
        return torch.cat([tensor.detach().reshape(-1) for _, tensor in _trainable(module)]).numpy()

    def load_flat(self, module: torch.nn.Module, flat_P: np.ndarray) -> None:
        """Give a module of this factory the parameters of one replica."""
        parameters = [tensor for _, tensor in _trainable(module)]
        parts = torch.from_numpy(np.array(flat_P, dtype=np.float32)).split(
            [tensor.numel() for tensor in parameters]
        )
        with torch.no_grad():
            for tensor, part in zip(parameters, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def stacked_forward(
        self, device: torch.device
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """A function of (flat parameters (R, P), x (B, D)) that gives (R, B, 1): every replica on
        the same rows.
        """
        module = self.module().to(device)
        trainable = {name: tensor.shape for name, tensor in _trainable(module)}
        constants = {
            name: tensor.detach()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
            if name not in trainable
        }

        def one(flat_P: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
            parts = flat_P.split([shape.numel() for shape in trainable.values()])
            own = {
                name: part.view(shape)
                for (name, shape), part in zip(trainable.items(), parts, strict=True)
            }
            return torch.func.functional_call(module, (own, constants), (x_BD,))

        if self.stacks:
            return torch.func.vmap(one, in_dims=(0, None))
        return lambda flat_RP, x_BD: torch.stack([one(flat_P, x_BD) for flat_P in flat_RP.unbind()])

    def to_json(self) -> Json:
        """What a run's record and a model's file say of it."""
        return {
            "function": self.name,
            "sha256": self.sha256,
            "num_features": self.num_features,
            "seed": self.seed,
            "trial": self.trial,
        }


def load_factory(name: str, num_features: int) -> Factory:
    """Import `module:factory` by the rule of `--transform`, make a module and try it on a few rows.

    Raises ConfigError for a module that cannot be trained here, naming what stands in the way.
    """
    function = import_function("--model", name)
    factory = Factory(
        name=name, function=function, sha256=file_hash(function), num_features=num_features
    )
    module = factory.module()
    trainable = _trainable(module)
    odd = [
        f"{name} is {tensor.dtype}" for name, tensor in trainable if tensor.dtype != torch.float32
    ]
    if odd or not trainable:
        raise ConfigError(
            f"--model {name}: {odd[0] if odd else 'its module has no trainable parameter'}. Give it"
            " float32 parameters."
        )
    values = _try(name, module, num_features)
    factory = replace(
        factory,
        num_parameters=sum(tensor.numel() for _, tensor in trainable),
        values_a_row=values,
        has_constants=len(trainable) < sum(1 for _ in (*module.parameters(), *module.buffers())),
    )
    return replace(factory, stacks=_can_stack(factory))


def _try(name: str, module: torch.nn.Module, num_features: int) -> int:
    """Refuse a module that does not map each row to one number by itself; returns the values its
    submodules give for a row.
    """
    x = (
        torch.linspace(-2, 2, _PROBE_ROWS * num_features)
        .reshape(num_features, _PROBE_ROWS)
        .T.contiguous()
    )
    counted: list[int] = []
    hooks = [
        part.register_forward_hook(lambda _part, _x, out: counted.append(_numel(out)))
        for part in module.modules()
        if _is_leaf(part)
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            plain = module(x)
            values = sum(counted) // _PROBE_ROWS
            before = [buffer.clone() for buffer in module.buffers()]
            again = [
                module.train()(x),
                module.train()(x),
                torch.cat([module(part) for part in x.split(_PROBE_ROWS // 2)]),
            ]
            moved = [
                label
                for (label, buffer), old in zip(module.named_buffers(), before, strict=True)
                if not torch.equal(buffer, old)
            ]
    except MemoryError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        if moving := _suspects(module):  # BatchNorm, for one, refuses a single row
            what += f" (it holds {moving})"
        raise ConfigError(
            f"--model {name}: its module failed on {_PROBE_ROWS} rows of {num_features} features:"
            f" {what}."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        module.eval()
    if (
        not isinstance(plain, torch.Tensor)
        or plain.shape != (_PROBE_ROWS, 1)
        or plain.dtype != torch.float32
    ):
        got = (
            f"{plain.dtype} {tuple(plain.shape)}"
            if isinstance(plain, torch.Tensor)
            else type(plain).__name__
        )
        raise ConfigError(
            f"--model {name}: its module gives {got} for {_PROBE_ROWS} rows. Give float32"
            f" ({_PROBE_ROWS}, 1): a number a row."
        )
    if moved or not all(torch.allclose(plain, other, rtol=1e-4, atol=1e-5) for other in again):
        suspects = _suspects(module) or (f"buffer {moved[0]}" if moved else "what it computes")
        raise ConfigError(
            f"--model {name}: in training its module mixes rows, draws random numbers or keeps"
            f" running statistics ({suspects}); every row must be taken by itself. Use LayerNorm in"
            " place of BatchNorm, weight decay in place of Dropout."
        )
    return max(values, num_features + 1)


def _can_stack(factory: Factory) -> bool:
    """Whether vmap goes through the module (control flow that looks at values stops it) and gives
    the same numbers.
    """
    flat_2P = torch.from_numpy(factory.initial_parameters(0, 0)).expand(2, -1)
    x = torch.linspace(-1, 1, _PROBE_ROWS * factory.num_features).reshape(_PROBE_ROWS, -1)
    device = torch.device("cpu")
    try:
        with torch.no_grad():
            stacked = factory.stacked_forward(device)(flat_2P, x)
            apart = replace(factory, stacks=False).stacked_forward(device)(flat_2P, x)
    except RuntimeError:
        return False
    return torch.allclose(stacked, apart, rtol=1e-4, atol=1e-5)


def _trainable(module: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad]


def _suspects(module: torch.nn.Module) -> str:
    """The parts known for it, by name."""
    known = [(type(part).__name__, label or "itself") for label, part in module.named_modules()]
    return ", ".join(
        f"{kind} {label}" for kind, label in known if "BatchNorm" in kind or "Dropout" in kind
    )


def _is_leaf(module: torch.nn.Module) -> bool:
    return next(module.children(), None) is None


def _numel(value: Any) -> int:
    return value.numel() if isinstance(value, torch.Tensor) else 0
