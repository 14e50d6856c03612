"""A learner: the replicas of one batch size and trial, one per learning rate.

It consumes blocks and yields records. The engine takes the steps; the learner decides when to
evaluate: at row 0, at rows first_row · 2^(k/2), and at the end. An *edge* is a row at which the
learner's state may be saved; a learner that loads the state continues bit-identically.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from streamtrain.base.finite import finite_or_none
from streamtrain.errors import DataError
from streamtrain.records import Evaluation, Outcome, ReplicaEnded, UntilFlat
from streamtrain.training.batch_schedule import Stage, rows_to_edge
from streamtrain.training.checkpoint import nest, unnest
from streamtrain.training.engine import Engine
from streamtrain.training.until_flat import FlatStop, points_until_flat
from streamtrain.types import Json

#: A replica has diverged when its loss is not finite, or more than this many times the loss of the
#: best constant prediction.
DIVERGED_LOSS = 1e6

#: Steps of an epoch between the edges within blocks. A block holds many small minibatches, and the
#: run should not have to train on all of them before it can be saved or stopped.
STEPS_BETWEEN_EDGES = 4096

#: More evaluations than any number of rows has; see `evaluation_rows`.
_MOST_POINTS = 200


def evaluation_rows(first_row: int, last_row: int) -> Iterator[int]:
    """Yield the rows at which the held-out loss is measured.

    They are 0, first_row · 2^(k/2) rounded, and last_row, ascending and without repeats.

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


def is_divergent(loss: float, constant_loss: float = 1.0) -> bool:
    """Return True for a loss above `DIVERGED_LOSS` times the constant's, infinity and NaN included.

    The best constant has the loss 1, or far more where a held-out row is an outlier.
    """
    return not loss <= DIVERGED_LOSS * max(1.0, constant_loss)


class Learner:
    """Trains one engine on blocks, up to `last_row` rows; used by one thread at a time.

    `holdout` is float32 (rows, features + 1) in model units, or None. `loss_scale` turns r² in
    model units into the reported `loss`, whose unit is the target's variance; `target_sd` turns the
    root of that loss into the target's own units. With `patience`, the learner is done after that
    many consecutive evaluations, and that many times `first_row` rows, in which no replica improved
    on its smallest held-out loss. Evaluations before the next step do not count. With `until_flat`,
    it is done when its loss is flat; with `ends_when_flat` off, another copy of it decides that
    from its `state`. `keeps_best`: keep `best_parameters`. `stages`: later sizes of minibatches, by
    ascending rows; records name the learner by its first one.
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
        until_flat: UntilFlat | None = None,
        ends_when_flat: bool = True,
        keeps_best: bool = False,
        stages: tuple[Stage, ...] = (),
    ):
        replicas = len(engine.learning_rates)
        self.engine = engine
        self.batch_size = engine.batch_size
        self._stages = stages
        self._stages_begun = 0
        self.trial = trial
        self.rows = 0
        self.last_row = last_row
        self._holdout = holdout
        self._loss_scale = loss_scale
        self._target_sd = target_sd
        self._patience = patience
        self._patience_rows = 0 if patience is None else patience * first_row
        self._started = time.perf_counter()
        #: rows since the epoch began, or since the minibatch size changed in it
        self._epoch_rows = 0
        self._flat_stop = None
        self._ends_when_flat = ends_when_flat
        self._points = evaluation_rows(first_row, last_row)
        if until_flat is not None and holdout is not None:
            self._flat_stop = FlatStop(until_flat, engine.batch_size, engine.learning_rates, trial)
            self._points = points_until_flat(self._points, until_flat)
        self._next_point = next(self._points, None)
        self._points_passed = 0
        #: (rows, steps) of the latest evaluation
        self._evaluated_at = (-1, -1)
        # sums over the training rows since the latest evaluation
        self._train_loss = np.zeros(replicas)
        self._train_rows = 0
        self._last_losses = np.zeros(replicas)
        self._best_losses = np.full(replicas, np.inf)
        self._since_best = np.zeros(replicas, dtype=np.int64)
        self._best_rows = np.zeros(replicas, dtype=np.int64)
        #: `model_parameters` at the smallest held-out loss, float32 (R, P); None if not kept.
        self.best_parameters = (
            engine.model_parameters() if keeps_best and holdout is not None else None
        )

    @property
    def done(self) -> bool:
        """True at the last row, when patience has run out, or when the loss is flat."""
        return self.rows >= self.last_row or self._out_of_patience or self._is_flat

    @property
    def _out_of_patience(self) -> bool:
        if self._patience is None:
            return False
        waited = self._evaluated_at[0] - self._best_rows >= self._patience_rows
        return bool((waited & (self._since_best >= self._patience)).all())

    @property
    def _is_flat(self) -> bool:
        return self._ends_when_flat and self._flat_stop is not None and self._flat_stop.ends

    @property
    def rows_to_decision(self) -> int | None:
        """Rows until the next evaluation that may end the training; None where none can."""
        judged = self._flat_stop is not None or self._patience is not None
        return self._rows_to_point() if judged and self._next_point is not None else None

    @property
    def rows_to_save(self) -> int:
        """Rows until the next edge within a block: every few steps, and where the size changes."""
        edge_rows = STEPS_BETWEEN_EDGES * self.engine.batch_size
        to_save = edge_rows - self._epoch_rows % edge_rows
        if self._stages_begun == len(self._stages):
            return to_save
        row, size = self._stages[self._stages_begun].first_row, self.engine.batch_size
        return min(to_save, rows_to_edge(row, self.rows, self._epoch_rows % size, size))

    def consume(
        self, rows: np.ndarray, *, ends_epoch: bool, first: int = 0, last: int | None = None
    ) -> Iterator[Evaluation]:
        """Train on rows `[first, last)` of a block, up to the learner's last row.

        `last`: None means all of the block. Yields an evaluation of each replica whenever one is
        due. `ends_epoch`: this block is the last of its epoch, so a short minibatch at its end
        becomes a separate step.
        """
        start, end = first, len(rows) if last is None else last
        yield from self._evaluate_if_due()
        while start < end and not self.done:
            stop = start + min(end - start, self._rows_to_point(), self.rows_to_save)
            self._train_loss += self.engine.advance(rows, start, stop)
            self._train_rows += stop - start
            self._epoch_rows += stop - start
            self.rows += stop - start
            start = stop
            if ends_epoch and start == len(rows):
                self._finish_epoch()
            self._begin_stages()
            yield from self._evaluate_if_due()
        # The null policy dropped every row of the epoch's last window.
        if ends_epoch and not len(rows):
            self._finish_epoch()
            self._begin_stages()

    def count_remote_rows(self, rows: int, losses: np.ndarray) -> Iterator[Evaluation]:
        """Count rows that were trained on elsewhere, with the sums of their losses, float64 (R,).

        The engine must already have the parameters after these rows. Yields one evaluation of each
        replica, at the row reached, if these rows passed at least one evaluation point.
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
        """Yield a last evaluation, unless one was made at this row, and then all outcomes."""
        if self._evaluated_at != (self.rows, self.engine.steps):
            yield from self._evaluate()
        constant_loss = self._constant_loss()
        for lr, loss in zip(self.engine.learning_rates, self._last_losses, strict=True):
            if is_divergent(loss, constant_loss):
                yield self._ended(lr, "diverged", f"loss {loss:.3g} after {self.rows:,} rows")
            else:
                yield self._ended(lr, "finished", self._reason_of_end)

    def _constant_loss(self) -> float:
        """The loss of always predicting the mean of the rows that the loss is judged on."""
        if self._holdout is None:
            return 1.0
        return float(np.var(self._holdout[:, -1], dtype=np.float64)) * self._loss_scale

    def report_failure(self, outcome: Outcome, reason: str) -> Iterator[ReplicaEnded]:
        """Yield `outcome` for each replica of a learner that failed or ran out of memory."""
        for lr in self.engine.learning_rates:
            yield self._ended(lr, outcome, reason)

    def state(self) -> tuple[Json, dict[str, np.ndarray]]:
        """Return copies of everything that changes: JSON values, and arrays by name.

        Call it between two calls of `consume`.
        """
        document = {
            "batch_size": self.batch_size,
            "stages_begun": self._stages_begun,
            "learning_rates": list(self.engine.learning_rates),
            "trial": self.trial,
            "rows": self.rows,
            "epoch_rows": self._epoch_rows,
            "train_rows": self._train_rows,
            "points_passed": self._points_passed,
            "evaluated_at": list(self._evaluated_at),
            "flat_stop": None if self._flat_stop is None else self._flat_stop.state(),
            "seconds": time.perf_counter() - self._started,
        }
        arrays = {name: array.copy() for name, array in self._state_arrays().items()}
        return document, arrays | nest("engine", self.engine.state())

    def load_state(self, document: Json, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a `state`.

        Raises DataError when it is not the state of a learner of the same batch size, learning
        rates and trial.
        """
        expected = {
            "batch_size": self.batch_size,
            "learning_rates": list(self.engine.learning_rates),
            "trial": self.trial,
        }
        saved = {name: document[name] for name in expected}
        if saved != expected:
            raise DataError(
                f"a learner's state does not fit: {saved}, not {expected}. Start the run again."
            )
        self._stages_begun = document["stages_begun"]
        if self._stages_begun:
            self._set_size(self._stages[self._stages_begun - 1])
        self.engine.load_state(unnest("engine", arrays))
        for name, array in self._state_arrays().items():
            array[:] = arrays.get(name, 0)  # older states have no `best_rows`
        self.rows = document["rows"]
        self._epoch_rows = document["epoch_rows"]
        self._train_rows = document["train_rows"]
        rows, steps = document["evaluated_at"]
        self._evaluated_at = (rows, steps)
        if self._flat_stop is not None:
            self._flat_stop.load_state(document["flat_stop"])
        if not 0 <= document["points_passed"] < _MOST_POINTS:
            raise ValueError(f"{document['points_passed']} evaluations")
        while self._points_passed < document["points_passed"]:
            self._pass_point()
        self._started = time.perf_counter() - document["seconds"]

    def _state_arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            "train_loss": self._train_loss,
            "last_losses": self._last_losses,
            "best_losses": self._best_losses,
            "since_best": self._since_best,
            "best_rows": self._best_rows,
        }
        if self.best_parameters is not None:
            arrays["best_parameters"] = self.best_parameters
        return arrays

    @property
    def _reason_of_end(self) -> str:
        """Why the learner ended before its last row, or where it ended until flat; else ""."""
        if self._flat_stop is not None:
            return self._flat_stop.reason
        if self.rows >= self.last_row or not self._out_of_patience:
            return ""
        return f"stopped early: no smaller held-out loss in {self._patience} evaluations"

    def _finish_epoch(self) -> None:
        self.engine.finish_epoch()
        self._epoch_rows = 0

    def _begin_stages(self) -> None:
        """Change the minibatch size if that is due and no minibatch is partly filled."""
        if self._epoch_rows % self.engine.batch_size:
            return
        while self._stages_begun < len(self._stages):
            stage = self._stages[self._stages_begun]
            if self.rows < stage.first_row:
                return
            self._set_size(stage)
            self._stages_begun += 1
            self._epoch_rows = 0

    def _set_size(self, stage: Stage) -> None:
        self.engine.set_batch_size(stage.batch_size, stage.beta2)

    def _rows_to_point(self) -> int:
        """Rows until the next evaluation, which exists because the last row has one."""
        assert self._next_point is not None
        return self._next_point - self.rows

    def _evaluate_if_due(self) -> Iterator[Evaluation]:
        if self._next_point == self.rows:
            self._pass_point()
            yield from self._evaluate()

    def _pass_point(self) -> None:
        self._next_point = next(self._points, None)
        self._points_passed += 1

    def _evaluate(self) -> Iterator[Evaluation]:
        has_stepped = self.engine.steps > self._evaluated_at[1]
        self._evaluated_at = (self.rows, self.engine.steps)
        train_losses = np.full_like(self._train_loss, np.nan)
        if self._train_rows:
            train_losses = self._train_loss / self._train_rows * self._loss_scale
        losses = None
        if self._holdout is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                losses = self.engine.evaluate(self._holdout) * self._loss_scale
            self._keep_best(losses, has_stepped=has_stepped)
            self._last_losses[:] = losses
            if self._flat_stop is not None:
                self._flat_stop.add(self.rows, self.engine.steps, losses)
        else:
            # Without rows held out, the training loss decides whether a replica has diverged.
            unknown = np.inf if self._train_rows else 0.0
            self._last_losses[:] = np.nan_to_num(2 * train_losses, nan=unknown)
        for i, lr in enumerate(self.engine.learning_rates):
            loss = None if losses is None else finite_or_none(losses[i])
            yield Evaluation(
                trial=self.trial,
                batch_size=self.batch_size,
                lr=lr,
                rows=self.rows,
                steps=self.engine.steps,
                holdout_loss=loss,
                holdout_rmse=None if loss is None else loss**0.5 * self._target_sd,
                train_loss=finite_or_none(train_losses[i]),
                seconds=time.perf_counter() - self._started,
            )
        self._train_loss[:] = 0
        self._train_rows = 0

    def _keep_best(self, losses: np.ndarray, *, has_stepped: bool) -> None:
        """Keep the parameters of replicas that improved; count evaluations since the others did."""
        better = losses < self._best_losses
        self._best_losses[better] = losses[better]
        self._best_rows[better] = self.rows
        self._since_best[:] = np.where(better, 0, self._since_best + has_stepped)
        if self.best_parameters is not None and better.any():
            self.best_parameters[better] = self.engine.model_parameters()[better]

    def _ended(self, lr: float, outcome: Outcome, reason: str) -> ReplicaEnded:
        return ReplicaEnded(
            trial=self.trial,
            batch_size=self.batch_size,
            lr=lr,
            rows=self.rows,
            steps=self.engine.steps,
            outcome=outcome,
            reason=reason,
            fall_per_doubling=None if self._flat_stop is None else self._flat_stop.fall,
        )
