"""Times of which some were not seen to the end: a trial that missed its target says only "longer
than this".
"""

from collections.abc import Collection

import numpy as np


def kaplan_meier_median(reached: Collection[float], censored: Collection[float]) -> float | None:
    """The smallest time by which half of the trials are there (Kaplan and Meier 1958, J.

    Am. Stat. Assoc. 53:457, §2).

    `reached`: times of those that arrived; `censored`: how long the others were watched, infinity
    for one that never can. The share still on its way is Π(1 - arrivals/at risk); None where it
    stays above a half. Without censored ones it is the (lower) median.

    >>> kaplan_meier_median([3.0, 1.0, 2.0], [9.0, 9.0]), kaplan_meier_median([1.0], [9.0, 9.0])
    (3.0, None)
    """
    times, away = (
        np.sort(np.asarray(list(reached), dtype=float)),
        np.asarray(list(censored), dtype=float),
    )
    share = 1.0
    for time in np.unique(times):
        at_risk = np.count_nonzero(times >= time) + np.count_nonzero(away >= time)
        share *= 1 - np.count_nonzero(times == time) / at_risk
        if share <= 0.5 + 1e-12:
            return float(time)
    return None
