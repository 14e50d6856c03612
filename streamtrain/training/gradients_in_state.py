"""Manual gradient accumulation: add rows, take the local gradient sum, step with a global one.

It uses the state of the engine, so it works with every engine: `gradient` is the sum over the rows
of the unfinished minibatch, and the first of `counters` is their number (training/engine.py).
"""

import numpy as np

from streamtrain.training.engine import Engine


class GradientAccumulator:
    """Accumulates the gradients of an engine that never takes a step on its own.

    The engine must be constructed with a batch size larger than the number of rows ever added
    between two steps.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    def add(self, rows: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Add the gradients of rows `[start, stop)`; return their sums of ½r², float64 (R,)."""
        return self.engine.advance(rows, start, stop)

    def take(self) -> np.ndarray:
        """Return the gradient sum since the last `take` or `step`, float32 (R, P), and reset it."""
        state = self.engine.state()
        summed_RP = _summed(state["gradient"])
        state["gradient"][:] = 0
        state["counters"][..., 0] = 0
        self.engine.load_state(state)
        return summed_RP

    def step(self, summed_RP: np.ndarray, rows: int) -> None:
        """Take a step with the mean of a gradient sum over `rows` rows."""
        state = self.engine.state()
        gradient = state["gradient"]
        gradient[:] = 0
        first_slot = gradient[:, 0] if gradient.ndim == 3 else gradient
        first_slot[:] = summed_RP
        state["counters"][..., 0] = rows
        self.engine.load_state(state)
        self.engine.finish_epoch()


def _summed(gradient: np.ndarray) -> np.ndarray:
    """Return a copy of an engine's gradient sum, (R, P); one in slots, (R, S, P), is added up."""
    return gradient.sum(axis=1, dtype=np.float32) if gradient.ndim == 3 else gradient.copy()
