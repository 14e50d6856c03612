"""User-defined modules (`--model module:factory`).

A factory is a function that constructs a torch module from the number of features:

```python
def factory(num_features):    # weights come from torch's generator, seeded for the trial
    return torch.nn.Sequential(torch.nn.Linear(num_features, 64), torch.nn.LayerNorm(64),
    torch.nn.ReLU(), torch.nn.Linear(64, 1))
```
The module maps float32 (rows, num_features) in model units to (rows, 1). Every row must be treated
independently and deterministically. Then a minibatch may be cut anywhere, all learning rates go
through the module as one batched product, and a run can be repeated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any

import numpy as np
import torch

from streamtrain.base.plugins import file_hash, import_function
from streamtrain.errors import ConfigError, first_line
from streamtrain.plan.order import WEIGHTS, make_key
from streamtrain.training.usual_torch import usual_torch
from streamtrain.types import Json

#: Rows of the check of a new module.
_PROBE_ROWS = 6

#: The generator and the default dtype belong to the process: one thread at a time sets them.
_LOCK = RLock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """A factory, and the trial whose constants it draws; interchangeable with `Shape`.

    Hashable; factories of the same fields are equal. The flat parameters are the module's trainable
    ones in the order of `named_parameters()`. Buffers and frozen parameters are constants of the
    trial.

    `values_a_row` is how many values a forward pass keeps per row. `stacks` says whether
    `torch.vmap` works on the module.
    """

    name: str
    function: Callable[[int], torch.nn.Module]
    sha256: str | None
    num_features: int
    num_parameters: int = 0
    values_per_row: int = 0
    stacks: bool = True
    has_constants: bool = True
    seed: int = 0
    trial: int = 0

    def for_trial(self, seed: int, trial: int) -> "Factory":
        """Return the same factory with the constants of a trial.

        A factory without constants is returned unchanged, so that what was compiled for it is
        reused.
        """
        if not self.has_constants:
            return self
        return replace(self, seed=seed, trial=trial)

    def module(self) -> torch.nn.Module:
        """Construct a new module with the constants of its trial, in evaluation mode.

        The caller's generators and settings of torch are preserved. Raises ConfigError when the
        factory raises, or does not return a module.
        """
        with _seeded(make_key(self.seed, self.trial, WEIGHTS)):
            try:
                module = self.function(self.num_features)
            except MemoryError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"--model {self.name} raised {type(error).__name__}: {first_line(error)}. Fix"
                    " the factory."
                ) from error
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(
                f"--model {self.name} returned {type(module).__name__}. Return a torch.nn.Module."
            )
        return module.cpu().eval()

    def initial_parameters(self, seed: int, trial: int) -> np.ndarray:
        """Return the initial trainable parameters of a trial: float32 (P,)."""
        module = replace(self, seed=seed, trial=trial).module()
        return torch.cat([tensor.detach().reshape(-1) for _, tensor in _trainable(module)]).numpy()

    def load_flat(self, module: torch.nn.Module, flat_P: np.ndarray) -> None:
        """Copy the parameters of one replica, (P,), into a module of this factory."""
        parameters = [tensor for _, tensor in _trainable(module)]
        flat = torch.from_numpy(np.array(flat_P, dtype=np.float32))
        pieces = flat.split([tensor.numel() for tensor in parameters])
        with torch.no_grad():
            for tensor, piece in zip(parameters, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    def stacked_forward(
        self, device: torch.device
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return a function of (flat parameters (R, P), x (B, D)) that gives (R, B, 1).

        It applies every replica to the same rows.
        """
        module = self.module().to(device)
        trainable = {name: tensor.shape for name, tensor in _trainable(module)}
        constants = {
            name: tensor.detach()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
            if name not in trainable
        }

        def forward(flat_P: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
            pieces = flat_P.split([shape.numel() for shape in trainable.values()])
            parameters = {
                name: piece.view(shape)
                for (name, shape), piece in zip(trainable.items(), pieces, strict=True)
            }
            return torch.func.functional_call(module, (parameters, constants), (x_BD,))

        def forward_in_turn(flat_RP: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
            return torch.stack([forward(flat_P, x_BD) for flat_P in flat_RP.unbind()])

        if self.stacks:
            return torch.func.vmap(forward, in_dims=(0, None))
        return forward_in_turn

    def to_json(self) -> Json:
        """Return the JSON form, for the run's record and the model's file."""
        return {
            "function": self.name,
            "sha256": self.sha256,
            "num_features": self.num_features,
            "seed": self.seed,
            "trial": self.trial,
        }


@usual_torch()
def load_factory(name: str, num_features: int) -> Factory:
    """Import `module:factory`, and check the module it constructs on a few rows.

    The import follows the rules of `--transform`. Raises ConfigError, with the reason, for a module
    that cannot be trained here.
    """
    function = import_function("--model", name)
    factory = Factory(
        name=name, function=function, sha256=file_hash(function), num_features=num_features
    )
    module = factory.module()
    trainable = _trainable(module)
    problems = [
        f"{label} is {tensor.dtype}" for label, tensor in trainable if tensor.dtype != torch.float32
    ]
    if not trainable:
        problems.append("its module has no trainable parameter")
    if problems:
        raise ConfigError(f"--model {name}: {problems[0]}. Give it float32 parameters.")
    num_tensors = sum(1 for _ in (*module.parameters(), *module.buffers()))
    factory = replace(
        factory,
        num_parameters=sum(tensor.numel() for _, tensor in trainable),
        values_per_row=_check_module(name, module, num_features),
        has_constants=len(trainable) < num_tensors,
    )
    return replace(factory, stacks=_can_stack(factory))


def _check_module(name: str, module: torch.nn.Module, num_features: int) -> int:
    """Raise ConfigError unless the module maps each row to one number independently.

    Returns how many values its submodules output per row.
    """
    x = _probe_rows(num_features, 2)
    counts: list[int] = []
    hooks = [
        submodule.register_forward_hook(lambda _module, _x, out: counts.append(_numel(out)))
        for submodule in module.modules()
        if _is_leaf(submodule)
    ]
    try:
        with _seeded(0), torch.no_grad():
            expected = module(x)
            values_per_row = sum(counts) // _PROBE_ROWS
            before = [buffer.clone() for buffer in module.buffers()]
            outputs = [
                module.train()(x),
                module.train()(x),
                torch.cat([module(half) for half in x.split(_PROBE_ROWS // 2)]),
            ]
            changed_buffers = [
                label
                for (label, buffer), old in zip(module.named_buffers(), before, strict=True)
                if not torch.equal(buffer, old)
            ]
    except MemoryError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        if suspects := _suspects(module):  # BatchNorm, for one, raises on a single row
            what += f" (it holds {suspects})"
        raise ConfigError(
            f"--model {name}: its module failed on {_PROBE_ROWS} rows of {num_features} features:"
            f" {what}."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        module.eval()
    _check_output(name, expected)
    same = all(torch.allclose(expected, output, rtol=1e-4, atol=1e-5) for output in outputs)
    if changed_buffers or not same:
        suspects = _suspects(module)
        if not suspects:
            suspects = f"buffer {changed_buffers[0]}" if changed_buffers else "what it computes"
        raise ConfigError(
            f"--model {name}: in training its module mixes rows, draws random numbers or keeps"
            f" running statistics ({suspects}); every row must be treated independently. Use"
            " LayerNorm in place of BatchNorm, weight decay in place of Dropout."
        )
    return max(values_per_row, num_features + 1)


def _probe_rows(num_features: int, limit: float) -> torch.Tensor:
    values = np.linspace(-limit, limit, _PROBE_ROWS * num_features, dtype=np.float32)
    return torch.from_numpy(values.reshape(num_features, _PROBE_ROWS).T.copy())


def _check_output(name: str, output: object) -> None:
    """Raise ConfigError unless a module's output is float32 (rows, 1)."""
    got = type(output).__name__
    if isinstance(output, torch.Tensor):
        if output.shape == (_PROBE_ROWS, 1) and output.dtype == torch.float32:
            return
        got = f"{output.dtype} {tuple(output.shape)}"
    raise ConfigError(
        f"--model {name}: its module gives {got} for {_PROBE_ROWS} rows. Give float32"
        f" ({_PROBE_ROWS}, 1): one number per row."
    )


def _can_stack(factory: Factory) -> bool:
    """Return True if `torch.vmap` works on the module, and gives the same numbers.

    Control flow that depends on values prevents it.
    """
    flat_2P = torch.from_numpy(factory.initial_parameters(0, 0)).expand(2, -1)
    x = _probe_rows(factory.num_features, 1)
    device = torch.device("cpu")
    try:
        with torch.no_grad():
            stacked = factory.stacked_forward(device)(flat_2P, x)
            apart = replace(factory, stacks=False).stacked_forward(device)(flat_2P, x)
    except RuntimeError:
        return False
    return torch.allclose(stacked, apart, rtol=1e-4, atol=1e-5)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let user code draw from generators of this seed, with float32 and the CPU as defaults.

    What the caller has set is restored. CUDA's generators are seeded only if CUDA is in use.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _LOCK, torch.random.fork_rng(devices=devices), usual_torch():
        torch.random.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _trainable(module: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad]


def _suspects(module: torch.nn.Module) -> str:
    """Return the submodules that are known to mix rows or to draw random numbers, by name."""
    labels = [(type(submodule).__name__, label) for label, submodule in module.named_modules()]
    return ", ".join(
        f"{kind} {label or 'itself'}"
        for kind, label in labels
        if "BatchNorm" in kind or "Dropout" in kind
    )


def _is_leaf(module: torch.nn.Module) -> bool:
    return next(module.children(), None) is None


def _numel(value: Any) -> int:
    return value.numel() if isinstance(value, torch.Tensor) else 0
