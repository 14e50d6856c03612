"""Training until the loss is flat: how far at most, where it is evaluated, when and why it ends.

It continues for an epoch or more, and then ends at the first evaluation at which the loss is flat
(science/flatness.py) or has diverged. All of it is a function of rows and losses, never of time.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from streamtrain.base.units import two_digits
from streamtrain.config import TrainConfig
from streamtrain.records import UntilFlat
from streamtrain.science.flatness import FLAT, fall_per_doubling, halfway, is_flat
from streamtrain.science.run_log import Curve
from streamtrain.types import Json

#: Training ends after this many rows or epochs, whichever come first, but not within the first
#: epoch. The default network takes 3 s for MOST_ROWS rows, and 4 s for MOST_EPOCHS tiny epochs.
MOST_ROWS = 2**23
MOST_EPOCHS = 2048

#: Nothing is decided within this many rows or epochs, whichever are fewer, nor within an epoch.
#: After few steps at a small learning rate, the loss improves slowly, but is not flat.
LEAST_ROWS = 2**18
LEAST_EPOCHS = 64

#: The first evaluation is after this part of the least rows, or after this many times the held-out
#: rows if that comes first. Earlier ones cannot end the training, and an evaluation of many
#: held-out rows costs more than the training before it.
FIRST_PART = 4
FIRST_HOLDOUTS = 4


def limits_until_flat(train: TrainConfig, epoch_rows: int, holdout_rows: int) -> UntilFlat | None:
    """Return the limits of training until flat; None where its length is fixed.

    It is fixed where a key sets it or needs to know it, and where no held-out rows can judge it.
    """
    if train.has_length or not holdout_rows or not epoch_rows:
        return None
    least_rows = max(epoch_rows, min(LEAST_ROWS, LEAST_EPOCHS * epoch_rows))
    return UntilFlat(
        first_row=min(least_rows // FIRST_PART, FIRST_HOLDOUTS * holdout_rows),
        least_rows=least_rows,
        most_rows=max(epoch_rows, min(MOST_ROWS, MOST_EPOCHS * epoch_rows)),
        fall=FLAT,
    )


def points_until_flat(points: Iterator[int], limits: UntilFlat) -> Iterator[int]:
    """Yield row 0, the points from `first_row` on, half of the least rows, and the least rows.

    >>> limits = UntilFlat(first_row=25, least_rows=100, most_rows=200, fall=0.01)
    >>> list(points_until_flat(iter([0, 16, 23, 32, 45, 64, 91, 128, 181, 200]), limits))
    [0, 32, 45, 50, 64, 91, 100, 128, 181, 200]
    """
    added = [halfway(limits.least_rows), limits.least_rows]
    for point in points:
        if 0 < point < limits.first_row:
            continue
        while added and added[0] <= point:
            if added[0] < point:
                yield added[0]
            added.pop(0)
        yield point


class FlatStop:
    """Decides at each evaluation of a learner whether its training ends there; used by one thread.

    `fall`: what the last doubling of the rows improved the loss by, relatively; None where that is
    not known.
    """

    def __init__(self, limits: UntilFlat, batch_size: int, lrs: Sequence[float], trial: int):
        self.limits = limits
        self._curves = [Curve(batch_size=batch_size, lr=lr, trial=trial) for lr in lrs]
        self._judge()

    def add(self, rows: int, steps: int, losses_R: np.ndarray) -> None:
        """Take the held-out losses of an evaluation, and decide; later ones change nothing."""
        if self.ends:
            return
        for curve, loss in zip(self._curves, losses_R.tolist(), strict=True):
            curve.rows.append(rows)
            curve.steps.append(steps)
            curve.holdout_loss.append(loss if math.isfinite(loss) else math.nan)
        self._judge()

    @property
    def reason(self) -> str:
        """Why training ended, once it has; "" where it diverged."""
        percent = f"{two_digits(100 * (self.fall or 0.0))} %"
        if is_flat(self.fall):
            return f"flat: the last doubling of rows improved the loss by {percent}"
        if self.ends:
            return ""
        limit = f"not flat at the limit of {self.limits.most_rows:,} rows"
        if self.fall is None:
            return f"{limit}: no loss below that at row 0 was held"
        return (
            f"{limit}: the last doubling of rows improved the loss by {percent};"
            " --max-rows sets another length"
        )

    def state(self) -> Json:
        """Return everything that changes, as JSON values."""
        curves = [
            [None if math.isnan(loss) else loss for loss in curve.holdout_loss]
            for curve in self._curves
        ]
        rows, steps = self._curves[0].rows, self._curves[0].steps
        return {"rows": list(rows), "steps": list(steps), "losses": curves}

    def load_state(self, document: Json) -> None:
        """Continue from a `state`."""
        for curve, losses in zip(self._curves, document["losses"], strict=True):
            curve.rows, curve.steps = list(document["rows"]), list(document["steps"])
            curve.holdout_loss = [math.nan if loss is None else loss for loss in losses]
        self._judge()

    def _judge(self) -> None:
        rows = self._curves[0].rows
        self.fall = fall_per_doubling(self._curves)
        diverged = all(not math.isfinite(curve.holdout_loss[-1]) for curve in self._curves if rows)
        self.ends = (
            bool(rows) and rows[-1] >= self.limits.least_rows and (is_flat(self.fall) or diverged)
        )
