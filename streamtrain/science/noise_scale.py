"""The gradient noise scale: how many rows a minibatch needs for more signal than noise.

McCandlish et al. 2018 (arXiv 1812.06162), §2.2 and appendix A.1: E|G_B|² = |G|² + tr Σ/B, B_simple
= tr Σ/|G|² and B_noise = tr(HΣ)/(GᵀHG). Numerator and denominator are estimated without bias in
each of T replicates at frozen weights. The scale is the ratio of their averages (never the average
of ratios) with Fieller's interval.

Near the smallest loss that SGD reaches, B_simple ≈ 2B·tr C/(η·tr C²): it then reports the run's own
η/B rather than a property of the data.

The √m law is measured here too: the standard deviation of a minibatch gradient falls as m^-½
(Goodfellow et al. 2016, Deep Learning, §8.1.3). A slope shallower than -½ means that the rows of a
minibatch are correlated, which is the result of a bad shuffle.

Legend: T replicates, K micro-batches of b rows, P parameters, G groups. Gradients are means over
their rows. For Adam pass gradients multiplied by `adam_scale`, so that they are measured in the
coordinates in which Adam steps.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamtrain.science.intervals import Estimate, fieller, jackknife
from streamtrain.science.scipy_functions import Vector

#: One value per batch of gradients: a number for one batch, an array for several.
PerBatch = np.float64 | Vector


def variance_and_signal(gradients_KP: Vector, rows: int = 1) -> tuple[PerBatch, PerBatch]:
    """Return unbiased (tr Σ, |G|²) from K ≥ 2 independent micro-batches of `rows` rows each.

    tr Σ = b/(K-1) Σ|g_k - ḡ|² and |G|² = |ḡ|² - tr Σ/(Kb). One row per micro-batch gives the least
    variance. Gradients (..., K, P) of several batches give arrays (...).
    """
    g = np.asarray(gradients_KP, dtype=float)
    micro = g.shape[-2]
    mean = g.mean(axis=-2, keepdims=True)
    trace = rows / (micro - 1) * ((g - mean) ** 2).sum(axis=(-2, -1))
    return trace, (mean**2).sum(axis=(-2, -1)) - trace / (micro * rows)


def variance_and_signal_from_norms(
    mean_gradient_P: Vector, squared_norms_N: Vector
) -> tuple[PerBatch, PerBatch]:
    """Return unbiased (tr Σ, |G|²) from the mean gradient of N rows and each row's |g_i|², (N,).

    No per-row gradient has to be kept in memory.
    """
    rows = squared_norms_N.shape[-1]
    square = (np.asarray(mean_gradient_P, dtype=float) ** 2).sum(axis=-1)
    trace = (np.mean(squared_norms_N, axis=-1, dtype=float) - square) * rows / (rows - 1)
    return trace, square - trace / rows


def weighted_variance_and_signal(
    gradients_KP: Vector, hvp: Callable[[Vector], Vector], rows: int = 1
) -> tuple[float, float]:
    """Return unbiased (tr HΣ, GᵀHG) from K ≥ 2 independent micro-batches of `rows` rows each.

    `hvp` multiplies each of the K vectors of (K, P) by H. H must come from other rows than the
    gradients. tr HΣ = b/(K-1) Σ(g_k - ḡ)ᵀH(g_k - ḡ); GᵀHG is the mean of g_jᵀHg_k over j ≠ k. It
    takes K products with H and no P x P matrix.
    """
    g = np.asarray(gradients_KP, dtype=float)
    micro = len(g)
    curved = np.asarray(hvp(g), dtype=float)
    same, total = np.einsum("kp,kp->", g, curved), g.sum(axis=0) @ curved.sum(axis=0)
    return rows / (micro - 1) * (same - total / micro), (total - same) / (micro * (micro - 1))


def noise_scale(variances_T: Vector, signals_T: Vector) -> Estimate:
    """Return B_simple or B_noise, in rows, from T replicates of its unbiased parts.

    `hi` is None where only "at least `lo`" can be said.
    """
    return fieller(variances_T, signals_T)


def adam_scale(second_moment_P: Vector, epsilon: float = 1e-8) -> Vector:
    """Return 1/(√v̂ + ε), the factor for gradients that are measured under Adam."""
    return 1.0 / (np.sqrt(second_moment_P) + epsilon)


def group_variances(gradients_GP: Vector, levels: int) -> Vector:
    """Return unbiased tr Var of the mean gradient of 1, 2, 4 … 2^levels neighbouring groups.

    `gradients_GP`: mean gradients of G ≥ 2^(levels + 1) groups of equal size, in the order in which
    the stream delivers their rows. The result is (levels + 1,).
    """
    g = np.asarray(gradients_GP, dtype=float)
    variances: list[float] = []
    for _ in range(levels + 1):
        variances.append(((g - g.mean(axis=0)) ** 2).sum() / (len(g) - 1))
        even = len(g) // 2 * 2
        g = (g[0:even:2] + g[1:even:2]) / 2
    return np.array(variances)


def sqrt_m_slope(sizes_M: ArrayLike, variances_TM: ArrayLike) -> Estimate:
    """Return the slope of log standard deviation against log m, from T sets of rows.

    It is -½ for independent rows. The sets must be independent. `variances_TM`: tr Var of the
    gradient of m rows in each set. Variances are averaged before the logarithm is taken, since
    its bias would otherwise look like a slope. The interval is a jackknife over the sets.
    """
    log_m = np.log(np.asarray(sizes_M, dtype=float))
    variances: NDArray[np.float64] = np.asarray(variances_TM, dtype=float)
    centred = log_m - log_m.mean()

    def slope(mean_M: Vector) -> Vector:
        return 0.5 * np.log(mean_M) @ centred / (centred @ centred)

    total, sets = variances.sum(axis=0), len(variances)
    without = slope((total - variances) / (sets - 1)) if sets > 1 else ()
    return jackknife(float(slope(total / sets)), without)
