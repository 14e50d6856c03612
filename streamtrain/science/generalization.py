"""The generalisation gap: loss on rows held out, less loss on rows trained on."""

import numpy as np
from scipy.special import stdtrit

from streamtrain.science.estimate import estimate
from streamtrain.types import Record


def generalization_gap(train_losses_N: np.ndarray, holdout_losses_M: np.ndarray) -> Record:
    """mean(hold-out) - mean(training) of per-row losses of one model, with Welch's interval (Welch
    1947, Biometrika 34:28).

    The interval is of the rows drawn, not of training: for that compare the gaps of several trials.
    `n`: rows of the smaller set.
    """
    train, held = np.asarray(train_losses_N, dtype=float), np.asarray(holdout_losses_M, dtype=float)
    gap, n = held.mean() - train.mean(), min(train.size, held.size)
    if n < 2:
        return estimate(gap, n=n, kind="welch")
    parts = np.array([sample.var(ddof=1) / sample.size for sample in (train, held)])
    total = parts.sum()
    degrees = (
        total**2 / (parts**2 / (np.array([train.size, held.size]) - 1)).sum() if total > 0 else 1.0
    )
    reach = float(stdtrit(degrees, 0.975)) * total**0.5
    return estimate(gap, gap - reach, gap + reach, n=n, kind="welch")
