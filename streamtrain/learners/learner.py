"""A learner: the replicas of one batch size and trial, one for each learning rate. It consumes blocks and yields Records.

The engine advances; the learner decides when to look: at row 0, at rows first_row · 2^(k/2), and at the end.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from streamtrain.learners.engine import Engine
from streamtrain.types import Record

#: A replica whose loss is not finite, or this many times the best constant's, has diverged.
DIVERGED_LOSS = 1e6


def evaluation_rows(first_row: int, last_row: int) -> Iterator[int]:
    """Rows at which the held-out loss is measured: 0, first_row · 2^(k/2) rounded, and last_row; ascending, no repeats.

    >>> list(evaluation_rows(16, 50))
    [0, 16, 23, 32, 45, 50]
    """
    yield 0
    for k in itertools.count():
        row = round(first_row * 2 ** (k / 2))
        if row >= last_row:
            break
        yield row
    if last_row:
        yield last_row


class Learner:
    """Trains on blocks up to `last_row` rows; owned by one thread at a time.

    `holdout` is float32 (rows, features + 1) in model units, or None. `loss_scale` turns r² in model units into the reported
    `loss` (units of the target's variance); `target_sd` turns its root into the target's own units.
    """

    def __init__(
        self, engine: Engine, *, trial: int, first_row: int, last_row: int, holdout: np.ndarray | None, loss_scale: float, target_sd: float
    ):
        self.engine, self.trial, self.rows = engine, trial, 0
        self.last_row, self._holdout, self._loss_scale, self._target_sd = last_row, holdout, loss_scale, target_sd
        self._points = evaluation_rows(first_row, last_row)
        self._next_point = next(self._points, None)
        self._train_loss = np.zeros(len(engine.learning_rates))
        self._train_rows, self._evaluated_at = 0, (-1, -1)
        self._started = time.perf_counter()
        self._last_losses = np.zeros(len(engine.learning_rates))

    @property
    def done(self) -> bool:
        """True when the last row has been trained on."""
        return self.rows >= self.last_row

    def consume(self, rows: np.ndarray, *, ends_epoch: bool) -> Iterator[Record]:
        """Train on the rows of a block, in order, up to the last row; yields an evaluation Record for each replica when due.

        `ends_epoch`: this block is the epoch's last, so that a short minibatch at its end is a step of its own.
        """
        start = 0
        yield from self._evaluate_if_due()
        while start < len(rows) and not self.done:
            stop = min(len(rows), start + self._next_point - self.rows)
            self._train_loss += self.engine.advance(rows, start, stop)
            self._train_rows += stop - start
            self.rows += stop - start
            start = stop
            if ends_epoch and start == len(rows):
                self.engine.finish_epoch()
            yield from self._evaluate_if_due()
        if ends_epoch and not len(rows):  # the epoch's last window lost all its rows to the null policy
            self.engine.finish_epoch()

    def finish(self) -> Iterator[Record]:
        """An evaluation at the row reached, unless there was one, and the outcome of each replica."""
        if self._evaluated_at != (self.rows, self.engine.steps):
            yield from self._evaluate()
        for lr, loss in zip(self.engine.learning_rates, self._last_losses, strict=True):
            diverged = not np.isfinite(loss) or loss > DIVERGED_LOSS
            yield {
                "event": "outcome", **self._place(lr), "outcome": "diverged" if diverged else "finished",
                "reason": f"loss {loss:.3g} after {self.rows:,} rows" if diverged else "",
            }  # fmt: skip

    def failed(self, outcome: str, reason: str) -> Iterator[Record]:
        """The outcome of each replica of a learner that cannot go on: `out_of_memory` or `failed`."""
        for lr in self.engine.learning_rates:
            yield {"event": "outcome", **self._place(lr), "outcome": outcome, "reason": reason}

    def _evaluate_if_due(self) -> Iterator[Record]:
        if self._next_point == self.rows:
            yield from self._evaluate()
            self._next_point = next(self._points, None)

    def _evaluate(self) -> Iterator[Record]:
        self._evaluated_at = (self.rows, self.engine.steps)
        train_losses = self._train_loss / self._train_rows * self._loss_scale if self._train_rows else np.full_like(self._train_loss, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            losses = self.engine.evaluate(self._holdout) * self._loss_scale if self._holdout is not None else None
        self._last_losses = losses if losses is not None else np.nan_to_num(2 * train_losses, nan=0.0 if not self._train_rows else np.inf)
        for i, lr in enumerate(self.engine.learning_rates):
            loss = finite(losses[i]) if losses is not None else None
            yield {
                "event": "evaluation", **self._place(lr), "holdout_loss": loss,
                "holdout_rmse": None if loss is None else loss**0.5 * self._target_sd,
                "train_loss": finite(train_losses[i]), "seconds": time.perf_counter() - self._started,
            }  # fmt: skip
        self._train_loss[:] = 0
        self._train_rows = 0

    def _place(self, lr: float) -> Record:
        return {"trial": self.trial, "batch_size": self.engine.batch_size, "lr": lr, "rows": self.rows, "steps": self.engine.steps}


def finite(value: float) -> float | None:
    """JSON has no NaN: None stands for a loss that is not finite."""
    return float(value) if np.isfinite(value) else None
