"""The learning-rate schedule: a pure function of the row.

So the schedule is the same for every batch size and in both engines.
"""

import math

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError


def rate_factor(start: int, stop: int, warmup_rows: int, cosine_rows: int) -> float:
    """Return the factor on the learning rate for the minibatch of rows `[start, stop)` of the run.

    It is the product of two factors. Warm-up: stop / warmup_rows, at most 1; no warm-up when
    `warmup_rows` is 0. Cosine decay: ½(1 + cos(π · start / cosine_rows)), and 0 beyond
    `cosine_rows`; no decay when that is 0. The kernel computes the same formula
    (kernels/updates.py: rate_factor).

    >>> rate_factor(0, 50, 100, 0), rate_factor(50, 100, 0, 100), rate_factor(100, 150, 100, 100)
    (0.5, 0.5, 0.0)
    """
    warmup = 1.0 if stop >= warmup_rows else stop / warmup_rows
    if cosine_rows == 0:
        return warmup
    return warmup * 0.5 * (1.0 + math.cos(math.pi * min(1.0, start / cosine_rows)))


def schedule_rows(train: TrainConfig, last_row: int | None) -> tuple[int, int]:
    """Return `(warmup_rows, cosine_rows)` for `rate_factor`.

    `last_row` is where the run ends, None when only a time limit ends it. Raises ConfigError for a
    cosine schedule without a last row.
    """
    if train.schedule == "constant":
        return train.warmup_rows, 0
    if last_row is None:
        raise ConfigError(
            "train.schedule cosine needs to know the run's last row; give --epochs or --max-rows"
            " with --max-time."
        )
    return train.warmup_rows, last_row
