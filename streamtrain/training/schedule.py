"""The learning-rate schedule: a pure function of the row.

So the schedule is the same for every batch size and in both engines.

Legend of shape suffixes: S steps.
"""

import math

import numpy as np

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError


def rate_factors(
    starts_S: np.ndarray, stops_S: np.ndarray, warmup_rows: int, cosine_rows: int
) -> np.ndarray:
    """Return the factor on the learning rate for minibatches of rows `[start, stop)` of the run.

    It is the product of two factors. Warm-up: stop / warmup_rows, at most 1; no warm-up when
    `warmup_rows` is 0. Cosine decay: ½(1 + cos(π · start / cosine_rows)), and 0 beyond
    `cosine_rows`; no decay when that is 0. The result is float64 (S,). Kernels compute the same
    formula (kernels/updates.py: rate_factor).

    >>> rate_factors(np.array([0, 50]), np.array([50, 100]), 100, 0)
    array([0.5, 1. ])
    >>> rate_factors(np.array([50, 100]), np.array([100, 150]), 0, 100)
    array([0.5, 0. ])
    """
    factors_S = np.minimum(1.0, stops_S / warmup_rows) if warmup_rows else np.ones(len(stops_S))
    if cosine_rows:
        factors_S *= 0.5 * (1.0 + np.cos(math.pi * np.minimum(1.0, starts_S / cosine_rows)))
    return factors_S


def schedule_rows(train: TrainConfig, last_row: int | None) -> tuple[int, int]:
    """Return `(warmup_rows, cosine_rows)` for `rate_factors`.

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
