"""Shuffle quality: how informative a minibatch of the stream is, against independent rows.

One-way analysis of variance on gradients: between = B/(K-1) Σ|ḡ_k - ḡ|², within = mean over k of
1/(B-1) Σ|g_ik - ḡ_k|², F = between/within, ρ = (F-1)/(F-1+B). DEFF = 1 + (B-1)ρ is the design
effect of cluster sampling (Kish 1965, Survey Sampling, §5.4). It is 1 for independent rows, and a
minibatch of B rows is as informative as B/DEFF independent ones (docs/science.md §6).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamtrain.science.intervals import Estimate, jackknife
from streamtrain.science.scipy_functions import Vector

#: A design effect whose lower bound is above this means that figures reflect the shuffle rather
#: than the batch size: a choice of this project.
BAD_SHUFFLE_ABOVE = 1.1


def intraclass_correlation(
    means_KP: Vector,
    mean_squares_K: Vector,
    rows: int,
    clusters_K: ArrayLike | None = None,
) -> Estimate:
    """Return ρ of K minibatches of `rows` ≥ 2 rows, with a jackknife interval.

    `means_KP`: their mean gradients. `mean_squares_K`: the mean of |g_i|² in each. `clusters_K`:
    which minibatches were drawn together, such as the minibatches of one window; None: each
    separately. The jackknife leaves out one cluster at a time, and `n` counts clusters. It also
    removes the bias of few clusters: K minibatches from C clusters show (C-1)/C of what a cluster
    shares. ρ is at least -1/(B-1). Fewer than three clusters give no interval.
    """
    means, squares = np.asarray(means_KP, dtype=float), np.asarray(mean_squares_K, dtype=float)
    within_K = (squares - (means**2).sum(axis=1)) * rows / (rows - 1)
    centred_KP = means - means.mean(axis=0)
    labels = np.arange(len(means)) if clusters_K is None else np.asarray(clusters_K)
    names, cluster_K = np.unique(labels, return_inverse=True)
    num_clusters = len(names)
    sums_CP = _sum_by_cluster(centred_KP, cluster_K, num_clusters)
    squares_C = _sum_by_cluster((centred_KP**2).sum(axis=1), cluster_K, num_clusters)
    within_C = _sum_by_cluster(within_K, cluster_K, num_clusters)
    count_C = np.bincount(cluster_K)
    whole = _rho(
        np.array([len(means)]),
        centred_KP.sum(axis=0)[None],
        squares_C.sum()[None],
        within_C.sum()[None],
        rows,
    )
    if num_clusters < 3:
        return jackknife(float(whole[0]), ())
    without = _rho(
        len(means) - count_C,
        centred_KP.sum(axis=0) - sums_CP,
        squares_C.sum() - squares_C,
        within_C.sum() - within_C,
        rows,
    )
    # Efron and Tibshirani 1993, §10.6
    unbiased = num_clusters * whole[0] - (num_clusters - 1) * without.mean()
    return jackknife(float(np.clip(unbiased, -1 / (rows - 1), 1.0)), without)


def design_effect(rho: Estimate, batch_size: int) -> Estimate:
    """Return DEFF of minibatches of `batch_size` rows from ρ, which was measured at any size."""

    def effect(correlation: float | None) -> float | None:
        return None if correlation is None else max(1 + (batch_size - 1) * correlation, 0.0)

    return replace(rho, value=effect(rho.value), lo=effect(rho.lo), hi=effect(rho.hi))


def is_bad_shuffle(effect: Estimate) -> bool:
    """True when the lower bound of the design effect is above `BAD_SHUFFLE_ABOVE`."""
    return effect.lo is not None and effect.lo > BAD_SHUFFLE_ABOVE


def _sum_by_cluster(values_K: Vector, cluster_K: NDArray[np.intp], num_clusters: int) -> Vector:
    sums_C = np.zeros((num_clusters, *values_K.shape[1:]))
    np.add.at(sums_C, cluster_K, values_K)
    return sums_C


def _rho(
    count_C: NDArray[np.intp], sums_CP: Vector, squares_C: Vector, within_C: Vector, rows: int
) -> Vector:
    """ρ (C,) of C selections of minibatches.

    A selection is given by its number of minibatches, the sum of their means, the sum of the
    squares of these, and the sum of `within`.
    """
    between = rows / np.maximum(count_C - 1, 1) * (squares_C - (sums_CP**2).sum(axis=1) / count_C)
    within = within_C / count_C
    excess = between - np.maximum(within, 0.0)
    scale = np.maximum(excess + rows * np.maximum(within, 0.0), 0.0)
    return np.where(scale > 0, excess / np.where(scale > 0, scale, 1.0), 0.0)
