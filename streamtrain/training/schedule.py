"""The learning rate over a run: a pure function of rows, so every batch size meets the same
schedule, and both engines agree.
"""

import math

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError


def rate_factor(begin: int, end: int, warmup_rows: int, cosine_rows: int) -> float:
    """What a step multiplies the learning rate by, for the minibatch of rows `[begin, end)` of the
    run.

    Warm-up: end / warmup_rows, at most 1; 0 rows: none. Cosine: ½(1 + cos(π · begin /
    cosine_rows)), 0 beyond; 0 rows: constant. The kernel has the same formula (kernels/updates.py:
    rate_factor).

    >>> rate_factor(0, 50, 100, 0), rate_factor(50, 100, 0, 100), rate_factor(100, 150, 100, 100)
    (0.5, 0.5, 0.0)
    """
    warmth = 1.0 if end >= warmup_rows else end / warmup_rows
    return (
        warmth
        if cosine_rows == 0
        else warmth * 0.5 * (1.0 + math.cos(math.pi * min(1.0, begin / cosine_rows)))
    )


def schedule_rows(train: TrainConfig, last_row: int | None) -> tuple[int, int]:
    """(warmup_rows, cosine_rows) for `rate_factor`.

    `last_row`: where the run ends, None when only a clock ends it.

    Raises ConfigError for a cosine without an end.
    """
    if train.schedule == "constant":
        return train.warmup_rows, 0
    if last_row is None:
        raise ConfigError(
            "train.schedule cosine needs to know the run's last row; give --epochs or --max-rows"
            " beside --max-time."
        )
    return train.warmup_rows, last_row
