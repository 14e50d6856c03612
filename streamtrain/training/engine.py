"""The contract of engines: how learners take steps."""

from typing import Protocol

import numpy as np

from streamtrain.errors import DataError


class Engine(Protocol):
    """Trains `replicas` models in lock-step on the same minibatches, one learning rate each.

    A block is float32 (rows, features + 1), target last, in model units. Not thread-safe: one
    learner owns an engine. Made by `(shape, parameters_P, batch_size, learning_rates, train,
    last_row)`: every replica begins at `parameters_P`, and `last_row` is where the learning-rate
    schedule ends, None when only a clock ends the run (a cosine is then a ConfigError).
    """

    batch_size: int
    learning_rates: tuple[float, ...]
    steps: int

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Take every minibatch that ends in `[start, stop)`; carry the rest as a gradient sum into
        the next call.

        Returns the sum over these rows of ½r², at the parameters each row met: float64 (replicas,).
        """
        ...

    def finish_epoch(self) -> None:
        """Take a short minibatch, if one is carried, as a step of its own: the mean over its
        rows.
        """
        ...

    def parameters(self) -> np.ndarray:
        """A copy of the parameters: float32 (replicas, P)."""
        ...

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """Mean of r² over these rows with the present parameters: float64 (replicas,); a carried
        minibatch has no part in it.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Copies of all that changes: parameters, moments, the carried gradient, counters.

        Names and shapes are the engine's own.

        Another engine made alike, after `load_state`, gives bit for bit what this one would have
        given.
        """
        ...

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()`. Raises DataError when it is not one of an engine made alike."""
        ...


def check_state(state: dict[str, np.ndarray], own: dict[str, np.ndarray]) -> None:
    """Raises DataError unless `state` has the names, shapes and types of an engine's `own`."""
    for name in [*own, *(state.keys() - own.keys())]:
        theirs, ours = (
            f"{array.dtype} {array.shape}" if array is not None else "none"
            for array in (state.get(name), own.get(name))
        )
        if theirs != ours:
            raise DataError(
                f"the engine's state does not fit: {name} is {theirs}, not {ours}. Resume with the"
                " options it was saved under."
            )
