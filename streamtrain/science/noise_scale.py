"""The gradient noise scale: how many rows a minibatch needs before its gradient is more signal than
noise.

McCandlish et al. 2018 (arXiv 1812.06162), §2.2 and appendix A.1: E|G_B|² = |G|² + tr Σ/B, B_simple
= tr Σ/|G|² and B_noise = tr(HΣ)/(GᵀHG). Numerator and denominator are estimated without bias in
each of T replicates at frozen weights; the scale is the ratio of their averages (never the average
of ratios) with Fieller's interval.

Legend: T replicates, K micro-batches of b rows, P parameters. Gradients are means over their rows.
For Adam give gradients multiplied by `adam_scale`, so that both are measured in the coordinates in
which Adam steps. Caveat: near the floor of SGD, B_simple ≈ 2B·tr C/(η·tr C²): it reports the run's
own η/B.

The √m law: the standard deviation of a minibatch gradient falls as m^-½ (Goodfellow et al. 2016,
Deep Learning, §8.1.3).

A slope shallower than -½ means that the rows of a minibatch are correlated: a bad shuffle.
"""

from collections.abc import Callable

import numpy as np

from streamtrain.science.intervals import Estimate, estimate, fieller, jackknife


def variance_and_signal(gradients_KP: np.ndarray, rows: int = 1) -> tuple[float, float]:
    """Unbiased (tr Σ, |G|²) from K independent micro-batches of `rows` rows each; `rows` = 1 has
    least variance.

    tr Σ = b/(K-1) Σ|g_k - ḡ|²; |G|² = |ḡ|² - tr Σ/(Kb). Of several batches at once: gradients (...,
    K, P) give arrays (...).
    """
    g = np.asarray(gradients_KP, dtype=float)
    micro = g.shape[-2]
    mean = g.mean(axis=-2, keepdims=True)
    trace = rows / (micro - 1) * ((g - mean) ** 2).sum(axis=(-2, -1))
    return trace, (mean**2).sum(axis=(-2, -1)) - trace / (micro * rows)


def variance_and_signal_from_norms(
    mean_gradient_P: np.ndarray, squared_norms_N: np.ndarray
) -> tuple[float, float]:
    """The same from the mean gradient of N rows and each row's |g_i|² (N,): no per-example gradient
    is ever held.
    """
    rows = squared_norms_N.shape[-1]
    square = (np.asarray(mean_gradient_P, dtype=float) ** 2).sum(axis=-1)
    trace = (np.mean(squared_norms_N, axis=-1, dtype=float) - square) * rows / (rows - 1)
    return trace, square - trace / rows


def weighted_variance_and_signal(
    gradients_KP: np.ndarray, hvp: Callable[[np.ndarray], np.ndarray], rows: int = 1
) -> tuple[float, float]:
    """Unbiased (tr HΣ, GᵀHG) from K independent micro-batches; `hvp` maps (K, P) to its rows times
    H, from other rows than these.

    tr HΣ = b/(K-1) Σ(g_k - ḡ)ᵀH(g_k - ḡ); GᵀHG = the mean of g_jᵀHg_k over j ≠ k. K products with
    H, and none of P².
    """
    g = np.asarray(gradients_KP, dtype=float)
    micro = len(g)
    curved = np.asarray(hvp(g), dtype=float)
    own, total = np.einsum("kp,kp->", g, curved), g.sum(axis=0) @ curved.sum(axis=0)
    return rows / (micro - 1) * (own - total / micro), (total - own) / (micro * (micro - 1))


def noise_scale(variances_T: np.ndarray, signals_T: np.ndarray) -> Estimate:
    """B_simple or B_noise, in rows, from T replicates of its unbiased parts.

    `hi` is None where only "at least `lo`" can be said.
    """
    return fieller(variances_T, signals_T)


def block_bootstrap(
    variances_S: np.ndarray, signals_S: np.ndarray, *, block: int, resamples: int = 2000
) -> Estimate:
    """The noise scale over S steps of training, whose neighbours are not independent: circular
    blocks of `block` steps.

    Politis and Romano 1992; percentile interval with a fixed seed. `n` counts the blocks, not the
    steps.
    """
    top, bottom = np.asarray(variances_S, dtype=float), np.asarray(signals_S, dtype=float)
    steps = top.size
    blocks = -(-steps // block)
    starts = np.random.default_rng(0).integers(0, steps, (resamples, blocks, 1))
    draw = ((starts + np.arange(block)) % steps).reshape(resamples, -1)[:, :steps]
    a, b = top[draw].mean(axis=1), bottom[draw].mean(axis=1)
    ratios = np.where(b > 0, a / np.where(b > 0, b, 1.0), np.inf)
    lo, hi = np.percentile(ratios, [2.5, 97.5], method="inverted_cdf")
    mean = bottom.mean()
    value = top.mean() / mean if mean > 0 else np.nan
    return estimate(value, lo, hi, n=blocks, kind="block bootstrap")


def adam_scale(second_moment_P: np.ndarray, epsilon: float = 1e-8) -> np.ndarray:
    """What a gradient is multiplied by before it is measured under Adam: 1/(√v̂ + ε)."""
    return 1.0 / (np.sqrt(second_moment_P) + epsilon)


def group_variances(gradients_GP: np.ndarray, levels: int) -> np.ndarray:
    """(levels + 1,): unbiased tr Var of the mean gradient of 1, 2, 4 … 2^levels neighbouring
    groups, G ≥ 2^(levels + 1) groups.

    `gradients_GP`: mean gradients of groups of equal size, in the order in which the stream
    delivers their rows.
    """
    g, result = np.asarray(gradients_GP, dtype=float), []
    for _ in range(levels + 1):
        result.append(((g - g.mean(axis=0)) ** 2).sum() / (len(g) - 1))
        even = len(g) // 2 * 2
        g = (g[0:even:2] + g[1:even:2]) / 2
    return np.array(result)


def sqrt_m_slope(sizes_M: np.ndarray, variances_TM: np.ndarray) -> Estimate:
    """The log-log slope of the gradient's standard deviation against m, over T independent sets of
    rows; -½ for independent rows.

    `variances_TM`: tr Var of the m-row gradient in each set. Variances are averaged before the
    logarithm, whose bias would else pass for a slope; the interval is a jackknife over the sets.
    """
    log_m, variances = (
        np.log(np.asarray(sizes_M, dtype=float)),
        np.asarray(variances_TM, dtype=float),
    )
    centred = log_m - log_m.mean()

    def slope(mean_M: np.ndarray) -> np.ndarray:
        return 0.5 * np.log(mean_M) @ centred / (centred @ centred)

    total, sets = variances.sum(axis=0), len(variances)
    without = slope((total - variances) / (sets - 1)) if sets > 1 else []
    return jackknife(float(slope(total / sets)), without)
