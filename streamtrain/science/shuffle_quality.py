"""Shuffle quality: how much less a minibatch of the stream tells than as many independent rows (SCIENCE.md §6).

One-way analysis of variance on gradients: between = B/(K-1) Σ|ḡ_k - ḡ|², within = mean over k of 1/(B-1) Σ|g_ik - ḡ_k|²;
F = between/within, ρ = (F-1)/(F-1+B), DEFF = 1 + (B-1)ρ: the design effect of cluster sampling (Kish 1965, Survey Sampling, §5.4).
DEFF is 1 for independent rows; a minibatch of B rows is worth B/DEFF of them.
"""

import numpy as np

from streamtrain.science.estimate import jackknife
from streamtrain.types import Record

#: A lower bound above this says that the statistics are of the shuffle, not of the batch size: a choice of this project.
BAD_SHUFFLE_ABOVE = 1.1


def intraclass_correlation(means_KP: np.ndarray, mean_squares_K: np.ndarray, rows: int, clusters_K: np.ndarray | None = None) -> Record:
    """ρ of K minibatches of `rows` rows: their mean gradients (K, P), and the mean of |g_i|² in each (K,); `rows` ≥ 2.

    `clusters_K` (K,) names what was drawn independently, where that is not the minibatch itself: several minibatches of one window.
    The jackknife leaves out one cluster at a time; `n` counts clusters. ρ is at least -1/(B-1).
    """
    means, squares = np.asarray(means_KP, dtype=float), np.asarray(mean_squares_K, dtype=float)
    within_K = (squares - (means**2).sum(axis=1)) * rows / (rows - 1)
    clusters = np.arange(len(means)) if clusters_K is None else np.asarray(clusters_K)
    whole = _rho(means, within_K, rows)
    names = np.unique(clusters)
    kept = [clusters != name for name in names] if len(names) > 2 else []
    return jackknife(whole, [_rho(means[keep], within_K[keep], rows) for keep in kept])


def design_effect(rho: Record, batch_size: int) -> Record:
    """DEFF of minibatches of `batch_size` rows, value and interval, from ρ measured at any size."""
    ends = {end: None if rho[end] is None else max(1 + (batch_size - 1) * rho[end], 0.0) for end in ("value", "lo", "hi")}
    return {**rho, **ends}


def is_bad_shuffle(deff: Record) -> bool:
    """True when the lower bound of DEFF exceeds 1.1."""
    return deff["lo"] is not None and deff["lo"] > BAD_SHUFFLE_ABOVE


def _rho(means: np.ndarray, within_K: np.ndarray, rows: int) -> float:
    between = rows / (len(means) - 1) * ((means - means.mean(axis=0)) ** 2).sum()
    within = within_K.mean()
    if within <= 0:
        return 1.0 if between > 0 else 0.0
    excess = between / within - 1
    return float(excess / (excess + rows))
