"""The contract of engines: how learners take steps."""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from streamtrain.errors import DataError

#: Adam's epsilon, the same as torch's.
ADAM_EPSILON = 1e-8

#: Rows per forward pass on the CPU where torch computes it. A larger minibatch is taken in parts,
#: so that activations stay in the cache.
PART_ROWS = 4_096

#: Where `counters` of an engine's state have the rows of the minibatch that is not full, the steps
#: taken, and the rows of these steps.
CARRIED, STEPS, ROWS_IN_STEPS = 0, 1, 2


class Engine(Protocol):
    """Trains R models (replicas) in lock-step on the same minibatches, one per learning rate.

    A block is float32 (rows, features + 1) in model units, target last. Not thread-safe: an engine
    is used by one learner.

    Engines are constructed with `(shape, parameters_P, batch_size, learning_rates, train,
    last_row)`. Every replica starts from `parameters_P`. The learning-rate schedule ends at
    `last_row`; it is None when only a time limit ends the run, and a cosine schedule then raises
    ConfigError.

    Attributes:
        batch_size: rows per minibatch.
        learning_rates: one per replica, in the order of the replicas axis of every array.
    """

    batch_size: int
    learning_rates: tuple[float, ...]

    @property
    def steps(self) -> int:
        """The number of steps taken so far, short minibatches included."""
        ...

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Take every step whose minibatch ends in rows `[start, stop)` of a block.

        The rows left over are kept as a gradient sum, which the next call continues.

        Returns the sum of ½r² over these rows, each taken at the parameters in use when the row was
        reached: float64 (R,).
        """
        ...

    def finish_epoch(self) -> None:
        """Take a step with the mean over the rows of a partly filled minibatch, if there is one."""
        ...

    def set_batch_size(self, batch_size: int, beta2: float) -> None:
        """Take minibatches of another size from here on; everything else carries over.

        `beta2`: of a step of that size (`TrainConfig.at`). Raises ValueError when a minibatch is
        partly filled. A state taken after this call fits an engine on which it was called too.
        """
        ...

    def parameters(self) -> np.ndarray:
        """Return a copy of the parameters that training continues from: float32 (R, P)."""
        ...

    def model_parameters(self) -> np.ndarray:
        """Return a copy of what is judged and delivered: float32 (R, P).

        It is the average of the parameters over the last rows (averaging.py), or, with `average`
        off, the parameters.
        """
        ...

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean of r² over rows at `model_parameters`: float64 (R,).

        A partly filled minibatch neither affects the result nor is affected. Rows that are passed
        again must not have changed: an engine on a GPU keeps its copy.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of everything that changes.

        That is parameters, moments, average, gradient sum and counters, with names and shapes of
        the engine. An engine constructed with the same arguments and loaded with this state
        continues bit-identically.
        """
        ...

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state()`.

        Raises DataError when it is not the state of an engine constructed with the same arguments.
        """
        ...


class AccumulatingEngine(Engine, Protocol):
    """An engine that can also take a step with gradients that several engines have summed.

    Between two steps either `advance` is called or these methods, never both.
    """

    def accumulate(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Add the gradients of rows `[start, stop)` of a block, and take no step.

        Returns the sum of ½r² over these rows: float64 (R,).
        """
        ...

    def take_gradient_sum(self) -> np.ndarray:
        """Return the sum of the gradients since the last call, float32 (R, P), and reset it."""
        ...

    def apply_gradient_sum(self, sum_RP: np.ndarray, rows: int) -> None:
        """Take a step with the mean gradient of `rows` rows, whose sum is `sum_RP`.

        Gradients that were accumulated and not taken are dropped.
        """
        ...


def further_steps(steps: int, further: float, old_beta2: float, beta2: float) -> float:
    """Return the steps to add to `steps` in the bias correction of Adam's second moment.

    What is left of its initial zeros is the product of the beta2 of all steps. After a change of
    beta2 that is beta2^(steps + the result). `further`: the result for the beta2 before.

    >>> round(further_steps(100, 0.0, 0.99**0.5, 0.99), 9)
    -50.0
    """
    if not steps or not 0 < beta2 < 1 or not 0 < old_beta2 < 1:
        return 0.0
    return (steps + further) * math.log(old_beta2) / math.log(beta2) - steps


def require_whole_minibatch(carried: int) -> None:
    """Raise ValueError when rows of a minibatch are carried, so that its size cannot change."""
    if carried:
        raise ValueError(
            f"the minibatch size changes between minibatches; {carried} rows are in one"
        )


def check_state(state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Raise DataError unless `state` has the names, shapes and types of the `expected` one."""
    for name in [*expected, *(state.keys() - expected.keys())]:
        theirs, ours = _describe(state.get(name)), _describe(expected.get(name))
        if theirs != ours:
            raise DataError(
                f"the engine's state does not fit: {name} is {theirs}, not {ours}. Resume with the"
                " options that the run was saved with."
            )


def _describe(array: np.ndarray | None) -> str:
    return "none" if array is None else f"{array.dtype} {array.shape}"
