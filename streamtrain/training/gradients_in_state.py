"""Two verbs of `AccumulatingEngine` for an engine whose sums are laid out for its device."""

from abc import ABC, abstractmethod

import numpy as np

from streamtrain.training.engine import CARRIED


class GradientsInState(ABC):
    """Takes and sets an engine's gradient sum through its state, where it has its usual layout."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`."""

    @abstractmethod
    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`."""

    @abstractmethod
    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""

    def take_gradient_sum(self) -> np.ndarray:
        """See `AccumulatingEngine.take_gradient_sum`."""
        return self._swap(np.float32(0), 0)

    def apply_gradient_sum(self, sum_RP: np.ndarray, rows: int) -> None:
        """See `AccumulatingEngine.apply_gradient_sum`."""
        self._swap(sum_RP, rows)
        self.finish_epoch()

    def _swap(self, sum_RP: np.ndarray | np.float32, rows: int) -> np.ndarray:
        """Set the gradient sum and its rows; return the sum before."""
        state = self.state()
        replicas, parameters = state["parameters"].shape
        # one sum per replica, or several slots
        gradient_RSP = state["gradient"].reshape(replicas, -1, parameters)
        before_RP = gradient_RSP.sum(axis=1, dtype=np.float32)
        gradient_RSP[:] = 0
        gradient_RSP[:, 0] = sum_RP
        state["counters"][:, CARRIED] = rows
        self.load_state(state)
        return before_RP
