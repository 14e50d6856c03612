"""The contract of engines: how learners take steps."""

from typing import Protocol

import numpy as np


class Engine(Protocol):
    """Trains `replicas` models in lock-step on the same minibatches, one learning rate each.

    A block is float32 (rows, features + 1), target last, in model units. Not thread-safe: one learner owns an engine.
    """

    batch_size: int
    learning_rates: tuple[float, ...]
    steps: int

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Take every minibatch that ends in `[start, stop)`; carry the rest as a gradient sum into the next call.

        Returns the sum over these rows of ½r², at the parameters each row met: float64 (replicas,).
        """
        ...

    def finish_epoch(self) -> None:
        """Take a short minibatch, if one is carried, as a step of its own: the mean over its rows."""
        ...

    def parameters(self) -> np.ndarray:
        """A copy of the parameters: float32 (replicas, P)."""
        ...

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """Mean of r² over these rows with the present parameters: float64 (replicas,); a carried minibatch has no part in it."""
        ...
