"""The √m law: the standard deviation of a minibatch gradient falls as m^-½ (Goodfellow et al. 2016,
Deep Learning, §8.1.3).

A slope shallower than -½ means that the rows of a minibatch are correlated: a bad shuffle.
"""

import numpy as np

from streamtrain.science.estimate import jackknife
from streamtrain.types import Record


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


def sqrt_m_slope(sizes_M: np.ndarray, variances_TM: np.ndarray) -> Record:
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
