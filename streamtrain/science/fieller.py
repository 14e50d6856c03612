"""The ratio of two means, with Fieller's interval (Fieller 1954, J.

R. Statist. Soc. B 16:175; docs/science.md §2).
"""

from collections.abc import Sequence

import numpy as np

from streamtrain.science.estimate import estimate, t_quantile
from streamtrain.types import Record


def fieller(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray
) -> Record:
    """mean(numerators)/mean(denominators) of T independent replicates, both (T,), for a ratio known
    to be positive.

    The interval holds every R at which mean(numerators - R·denominators) does not differ from 0 by
    a t test, so it is exact for normal pairs, however they are correlated. `kind` is "fieller".
    Where the denominator is not significantly positive no upper end exists: `hi` is None, `kind` is
    "fieller lower bound", and `value` is None when the denominator's mean is not even positive.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if top.shape != bottom.shape or top.ndim != 1 or not top.size:
        raise ValueError(
            f"replicates must be two lines of the same length of at least 1; got shapes {top.shape}"
            f" and {bottom.shape}"
        )
    replicates = top.size
    a, b = top.mean(), bottom.mean()
    value = a / b if b > 0 else np.nan
    if replicates < 2:
        return estimate(value, n=replicates, kind="fieller")
    (aa, ab), (_, bb) = np.cov(top, bottom) / replicates * t_quantile(replicates - 1) ** 2
    # R is inside when (a - R b)² <= t² (s_aa - 2 R s_ab + R² s_bb): a quadratic in R.
    square, half, constant = b * b - bb, a * b - ab, a * a - aa
    root = np.sqrt(max(half * half - square * constant, 0.0))
    if b > 0 and square > 0:
        return estimate(
            value,
            max((half - root) / square, 0.0),
            (half + root) / square,
            n=replicates,
            kind="fieller",
        )
    # The set lies outside of its two roots, or is the whole line; its positive part begins at the
    # larger root.
    lower = (half - root) / square if square < 0 and constant > 0 else 0.0
    return estimate(value, max(lower, 0.0), n=replicates, kind="fieller lower bound")
