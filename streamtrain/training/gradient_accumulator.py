"""Gradients summed by one's own hand: rows are added, the sum is taken out, and a sum that came
from elsewhere makes the step.

By way of an engine's own state, so it goes for every engine: `gradient` is the sum of the rows
carried, `counters` begins with how many there are (learners/engine.py).
"""

import numpy as np

from streamtrain.training.engine import Engine


class GradientAccumulator:
    """Around an engine whose minibatch is never full: made with a batch size beyond the rows that
    are ever added.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    def add(self, rows: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Add the gradients of a block's rows; returns the sums of ½r², float64 (replicas,)."""
        return self.engine.advance(rows, start, stop)

    def take(self) -> np.ndarray:
        """The sum of what was added since, float32 (replicas, P); it begins again at zero."""
        state = self.engine.state()
        summed_RP = _summed(state["gradient"])
        state["gradient"][:] = 0
        state["counters"][..., 0] = 0
        self.engine.load_state(state)
        return summed_RP

    def step(self, summed_RP: np.ndarray, rows: int) -> None:
        """Step with the mean of a sum over so many rows."""
        state = self.engine.state()
        gradient = state["gradient"]
        gradient[:] = 0
        (gradient[:, 0] if gradient.ndim == 3 else gradient)[:] = summed_RP
        state["counters"][..., 0] = rows
        self.engine.load_state(state)
        self.engine.finish_epoch()


def _summed(gradient: np.ndarray) -> np.ndarray:
    """(replicas, P) of an engine's sums, which may be gathered in several slots (replicas, slots,
    P); a copy, in the order of slots.
    """
    return gradient.sum(axis=1, dtype=np.float32) if gradient.ndim == 3 else gradient.copy()
