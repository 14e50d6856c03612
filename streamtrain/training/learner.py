"""A learner: the replicas of one batch size and trial, one for each learning rate.

It consumes blocks and yields Records.

The engine advances; the learner decides when to look: at row 0, at rows first_row · 2^(k/2), and at
the end. Its state, saved at any of the edges that `consume` stops at, goes on bit for bit.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from streamtrain.errors import DataError
from streamtrain.records import Evaluation, Outcome, ReplicaEnded
from streamtrain.training.engine import Engine
from streamtrain.types import Json

#: A replica whose loss is not finite, or this many times the best constant's, has diverged.
DIVERGED_LOSS = 1e6

#: A block is cut after so many steps of an epoch, so that small minibatches can be saved and
#: stopped within one.
STEPS_BETWEEN_EDGES = 4096


def evaluation_rows(first_row: int, last_row: int) -> Iterator[int]:
    """Rows at which the held-out loss is measured: 0, first_row · 2^(k/2) rounded, and last_row;
    ascending, no repeats.

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


def is_divergent(loss: float) -> bool:
    """Also where it is infinite or NaN."""
    return not loss <= DIVERGED_LOSS


class Learner:
    """Trains on blocks up to `last_row` rows; owned by one thread at a time.

    `holdout` is float32 (rows, features + 1) in model units, or None. `loss_scale` turns r² in
    model units into the reported `loss` (units of the target's variance); `target_sd` turns its
    root into the target's own units. `patience`: it is done after so many evaluations at which no
    replica had a smaller held-out loss than before. `keeps_best`: see `best_parameters`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        trial: int,
        first_row: int,
        last_row: int,
        holdout: np.ndarray | None,
        loss_scale: float,
        target_sd: float,
        patience: int | None = None,
        keeps_best: bool = False,
    ):
        self.engine, self.trial, self.rows = engine, trial, 0
        self.last_row, self._holdout, self._loss_scale, self._target_sd = (
            last_row,
            holdout,
            loss_scale,
            target_sd,
        )
        self._points = evaluation_rows(first_row, last_row)
        self._next_point, self._points_passed = next(self._points, None), 0
        replicas = len(engine.learning_rates)
        self._train_loss = np.zeros(replicas)
        self._train_rows, self._evaluated_at, self._epoch_rows = 0, (-1, -1), 0
        self._started = time.perf_counter()
        self._last_losses = np.zeros(replicas)
        self._patience = patience
        self._best_losses, self._since_best = (
            np.full(replicas, np.inf),
            np.zeros(replicas, dtype=np.int64),
        )
        #: The parameters at the smallest held-out loss, float32 (replicas, P); None when they are
        #: not kept.
        self.best_parameters = engine.parameters() if keeps_best and holdout is not None else None

    @property
    def done(self) -> bool:
        """True when the last row has been trained on, or patience is at its end."""
        return self.rows >= self.last_row or self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        return self._patience is not None and bool((self._since_best >= self._patience).all())

    def consume(
        self, rows: np.ndarray, *, ends_epoch: bool, first: int = 0
    ) -> Iterator[Evaluation | int]:
        """Train on the rows of a block from `first` on, in order, up to the last row; yields an
        evaluation Record for each replica when due.

        `ends_epoch`: this block is the epoch's last, so that a short minibatch at its end is a step
        of its own. Now and then, where a step has ended, it yields the row of the block that comes
        next: a `state` of that moment goes on with it as `first`.
        """
        start, edge_rows = first, STEPS_BETWEEN_EDGES * self.engine.batch_size
        yield from self._evaluate_if_due()
        while start < len(rows) and not self.done:
            stop = min(
                len(rows),
                start + self._next_point - self.rows,
                start + edge_rows - self._epoch_rows % edge_rows,
            )
            self._train_loss += self.engine.advance(rows, start, stop)
            self._train_rows += stop - start
            self._epoch_rows += stop - start
            self.rows += stop - start
            start = stop
            if ends_epoch and start == len(rows):
                self._finish_epoch()
            yield from self._evaluate_if_due()
            if start < len(rows) and self._epoch_rows % edge_rows == 0:
                yield start
        # the epoch's last window lost all its rows to the null policy
        if ends_epoch and not len(rows):
            self._finish_epoch()

    def take_over(self, rows: int, losses: np.ndarray) -> Iterator[Evaluation]:
        """Count rows that were trained on elsewhere, with the sums of their losses; the engine has
        the parameters after them already.

        One evaluation of each replica when a point was passed on the way, at the row reached.
        """
        self.rows += rows
        self._train_rows += rows
        self._train_loss += losses
        due = False
        while self._next_point is not None and self._next_point <= self.rows:
            self._pass_point()
            due = True
        if due:
            yield from self._evaluate()

    def finish(self) -> Iterator[Evaluation | ReplicaEnded]:
        """An evaluation at the row reached, unless there was one, and the outcome of each
        replica.
        """
        if self._evaluated_at != (self.rows, self.engine.steps):
            yield from self._evaluate()
        for lr, loss in zip(self.engine.learning_rates, self._last_losses, strict=True):
            diverged = is_divergent(loss)
            yield self._ended(
                lr,
                "diverged" if diverged else "finished",
                f"loss {loss:.3g} after {self.rows:,} rows" if diverged else self._early,
            )

    def failed(self, outcome: Outcome, reason: str) -> Iterator[ReplicaEnded]:
        """The outcome of each replica of a learner that cannot go on.

        `out_of_memory` or `failed`.
        """
        for lr in self.engine.learning_rates:
            yield self._ended(lr, outcome, reason)

    def state(self) -> tuple[Json, dict[str, np.ndarray]]:
        """All that changes, copied.

        JSON values, and arrays by name. Call it before or after a block, or where `consume` yields
        a row.
        """
        document = {
            "batch_size": self.engine.batch_size,
            "learning_rates": list(self.engine.learning_rates),
            "trial": self.trial,
            "rows": self.rows,
            "epoch_rows": self._epoch_rows,
            "train_rows": self._train_rows,
            "points_passed": self._points_passed,
            "evaluated_at": list(self._evaluated_at),
            "seconds": time.perf_counter() - self._started,
        }
        arrays = {name: array.copy() for name, array in self._changing().items()}
        return document, arrays | {
            f"engine/{name}": array for name, array in self.engine.state().items()
        }

    def load_state(self, document: Json, arrays: dict[str, np.ndarray]) -> None:
        """Go on from the `state` of a learner made alike.

        Raises DataError when it is that of another one.
        """
        own = {
            "batch_size": self.engine.batch_size,
            "learning_rates": list(self.engine.learning_rates),
            "trial": self.trial,
        }
        if any(document[name] != value for name, value in own.items()):
            raise DataError(
                f"a learner's state does not fit: { ({name: document[name] for name in own}) }, not"
                f" {own}. Begin the run again."
            )
        self.engine.load_state(
            {
                name.removeprefix("engine/"): array
                for name, array in arrays.items()
                if name.startswith("engine/")
            }
        )
        for name, array in self._changing().items():
            array[:] = arrays[name]
        self.rows, self._epoch_rows, self._train_rows = (
            document["rows"],
            document["epoch_rows"],
            document["train_rows"],
        )
        self._evaluated_at = tuple(document["evaluated_at"])
        while self._points_passed < document["points_passed"]:
            self._pass_point()
        self._started = time.perf_counter() - document["seconds"]

    def _changing(self) -> dict[str, np.ndarray]:
        best = {} if self.best_parameters is None else {"best_parameters": self.best_parameters}
        return {
            "train_loss": self._train_loss,
            "last_losses": self._last_losses,
            "best_losses": self._best_losses,
            "since_best": self._since_best,
            **best,
        }

    @property
    def _early(self) -> str:
        """Why it ended before its last row."""
        if self.rows >= self.last_row or not self._out_of_patience:
            return ""
        return f"stopped early: no smaller held-out loss in {self._patience} evaluations"

    def _finish_epoch(self) -> None:
        self.engine.finish_epoch()
        self._epoch_rows = 0

    def _evaluate_if_due(self) -> Iterator[Evaluation]:
        if self._next_point == self.rows:
            self._pass_point()
            yield from self._evaluate()

    def _pass_point(self) -> None:
        self._next_point = next(self._points, None)
        self._points_passed += 1

    def _evaluate(self) -> Iterator[Evaluation]:
        self._evaluated_at = (self.rows, self.engine.steps)
        train_losses = (
            self._train_loss / self._train_rows * self._loss_scale
            if self._train_rows
            else np.full_like(self._train_loss, np.nan)
        )
        with np.errstate(over="ignore", invalid="ignore"):
            losses = (
                self.engine.evaluate(self._holdout) * self._loss_scale
                if self._holdout is not None
                else None
            )
        if losses is not None:
            self._judge(losses)
        self._last_losses[:] = (
            losses
            if losses is not None
            else np.nan_to_num(2 * train_losses, nan=0.0 if not self._train_rows else np.inf)
        )
        for i, lr in enumerate(self.engine.learning_rates):
            loss = finite(losses[i]) if losses is not None else None
            yield Evaluation(
                trial=self.trial,
                batch_size=self.engine.batch_size,
                lr=lr,
                rows=self.rows,
                steps=self.engine.steps,
                holdout_loss=loss,
                holdout_rmse=None if loss is None else loss**0.5 * self._target_sd,
                train_loss=finite(train_losses[i]),
                seconds=time.perf_counter() - self._started,
            )
        self._train_loss[:] = 0
        self._train_rows = 0

    def _judge(self, losses: np.ndarray) -> None:
        """Count the evaluations since each replica's smallest held-out loss, and keep its
        parameters.
        """
        better = losses < self._best_losses
        self._best_losses[better] = losses[better]
        self._since_best[:] = np.where(better, 0, self._since_best + 1)
        if self.best_parameters is not None and better.any():
            self.best_parameters[better] = self.engine.parameters()[better]

    def _ended(self, lr: float, outcome: Outcome, reason: str) -> ReplicaEnded:
        return ReplicaEnded(
            trial=self.trial,
            batch_size=self.engine.batch_size,
            lr=lr,
            rows=self.rows,
            steps=self.engine.steps,
            outcome=outcome,
            reason=reason,
        )


def finite(value: float) -> float | None:
    """JSON has no NaN: None stands for a loss that is not finite."""
    return float(value) if np.isfinite(value) else None
