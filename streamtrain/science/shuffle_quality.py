"""Shuffle quality: how much less a minibatch of the stream tells than as many independent rows
(docs/science.md §6).

One-way analysis of variance on gradients: between = B/(K-1) Σ|ḡ_k - ḡ|², within = mean over k of
1/(B-1) Σ|g_ik - ḡ_k|²; F = between/within, ρ = (F-1)/(F-1+B), DEFF = 1 + (B-1)ρ: the design effect
of cluster sampling (Kish 1965, Survey Sampling, §5.4). DEFF is 1 for independent rows; a minibatch
of B rows is worth B/DEFF of them.
"""

from dataclasses import replace

import numpy as np

from streamtrain.science.intervals import Estimate, jackknife

#: A lower bound above this says that the statistics are of the shuffle, not of the batch size: a
#: choice of this project.
BAD_SHUFFLE_ABOVE = 1.1


def intraclass_correlation(
    means_KP: np.ndarray,
    mean_squares_K: np.ndarray,
    rows: int,
    clusters_K: np.ndarray | None = None,
) -> Estimate:
    """ρ of K minibatches of `rows` rows: their mean gradients (K, P), and the mean of |g_i|² in
    each (K,); `rows` ≥ 2.

    `clusters_K` (K,) names what was drawn independently, where that is not the minibatch itself:
    several minibatches of one window. The jackknife leaves out one cluster at a time; `n` counts
    clusters. It also takes away the bias of few clusters: of what C of them share, K minibatches
    show (C-1)/C. ρ is at least -1/(B-1).
    """
    means, squares = np.asarray(means_KP, dtype=float), np.asarray(mean_squares_K, dtype=float)
    within_K = (squares - (means**2).sum(axis=1)) * rows / (rows - 1)
    centred = means - means.mean(axis=0)
    names, cluster_K = np.unique(
        np.arange(len(means)) if clusters_K is None else np.asarray(clusters_K), return_inverse=True
    )
    sums_CP, squares_C, within_C = (
        np.zeros((len(names), *values.shape[1:])) for values in (centred, within_K, within_K)
    )
    for sums, values in (
        (sums_CP, centred),
        (squares_C, (centred**2).sum(axis=1)),
        (within_C, within_K),
    ):
        np.add.at(sums, cluster_K, values)
    count_C = np.bincount(cluster_K)
    whole = _rho(
        np.array([len(means)]),
        centred.sum(axis=0)[None],
        squares_C.sum()[None],
        within_C.sum()[None],
        rows,
    )
    if len(names) < 3:
        return jackknife(float(whole[0]), [])
    without = _rho(
        len(means) - count_C,
        centred.sum(axis=0) - sums_CP,
        squares_C.sum() - squares_C,
        within_C.sum() - within_C,
        rows,
    )
    # Efron and Tibshirani 1993, §10.6
    unbiased = len(names) * whole[0] - (len(names) - 1) * without.mean()
    return jackknife(float(np.clip(unbiased, -1 / (rows - 1), 1.0)), without)


def design_effect(rho: Estimate, batch_size: int) -> Estimate:
    """DEFF of minibatches of `batch_size` rows, value and interval, from ρ measured at any size."""

    def effect(correlation: float | None) -> float | None:
        return None if correlation is None else max(1 + (batch_size - 1) * correlation, 0.0)

    return replace(rho, value=effect(rho.value), lo=effect(rho.lo), hi=effect(rho.hi))


def is_bad_shuffle(deff: Estimate) -> bool:
    """True when the lower bound of DEFF exceeds 1.1."""
    return deff.lo is not None and deff.lo > BAD_SHUFFLE_ABOVE


def _rho(
    count_C: np.ndarray, sums_CP: np.ndarray, squares_C: np.ndarray, within_C: np.ndarray, rows: int
) -> np.ndarray:
    """ρ (C,) of C choices of minibatches, from how many they are, the sums of their means and of
    the means' squares, and of `within`.
    """
    between = rows / np.maximum(count_C - 1, 1) * (squares_C - (sums_CP**2).sum(axis=1) / count_C)
    within = within_C / count_C
    excess = between - np.maximum(within, 0.0)
    scale = np.maximum(excess + rows * np.maximum(within, 0.0), 0.0)
    return np.where(scale > 0, excess / np.where(scale > 0, scale, 1.0), 0.0)
