"""The recommendation rule: which minibatch size, and why not the others.

docs/science.md §7, rules 1, 2, 3 and 7.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamtrain.science.intervals import BOOTSTRAP_FROM, Estimate, paired_ratio
from streamtrain.science.scipy_functions import t_quantile
from streamtrain.types import Status

#: A size is as good as the best if its 95 % upper bound for T(B)/T(best) is below this. The value
#: is a choice of this project.
EQUIVALENT_BELOW = 1.05

#: The 97.5 % quantile of the normal distribution times the standard error of a normal sample's
#: median, in standard errors of its mean.
_MEDIAN_QUANTILE = 1.96 * math.sqrt(math.pi / 2)

#: More trials than this are not advised, since few can afford them.
MOST_TRIALS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One cell as the rule sees it.

    `seconds`: the seconds to the target, by trial that reached it. `trials`: the number of trials,
    including those that missed it. `correlated`: the lower bound of the design effect of its
    minibatches is above 1.1, so that its figures reflect the shuffle rather than the size.
    """

    batch_size: int
    status: Status
    trials: int
    seconds: Mapping[int, float] = field(default_factory=dict[int, float])
    correlated: bool = False

    @property
    def eligible(self) -> bool:
        """True when every trial reached the target, and its rows are not correlated."""
        return (
            not self.correlated
            and self.status == "reached"
            and self.trials > 0
            and len(self.seconds) == self.trials
        )

    @property
    def median(self) -> float:
        """The median seconds to the target."""
        return float(np.median(list(self.seconds.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The smallest size that is as good as the best; None when no size is eligible.

    `best`: the size with the smallest median time. `equivalent`: the sizes as good as that.
    `ratios`: T(B)/T(best) of each eligible size, over the trials that both ran. `more_trials`: an
    estimate of the further trials that would make it conclusive; 0 when it is, None when there is
    no estimate.
    """

    batch_size: int | None
    best: int | None
    conclusive: bool
    equivalent: tuple[int, ...]
    ratios: Mapping[int, Estimate]
    more_trials: int | None


def recommend(cells: Sequence[Candidate]) -> Recommendation:
    """Apply the rule to the cells of a sweep; their order does not matter.

    Only eligible sizes are compared. The best has the smallest median time. The equivalence set
    holds the sizes whose 95 % upper bound for T(B)/T(best) is below 1.05, and its smallest member
    is recommended. Conclusive means that every eligible size outside the set has a lower bound
    above 1; a single trial is never conclusive.
    """
    eligible = sorted((cell for cell in cells if cell.eligible), key=lambda cell: cell.batch_size)
    if not eligible:
        return Recommendation(
            batch_size=None, best=None, conclusive=False, equivalent=(), ratios={}, more_trials=None
        )
    best = min(eligible, key=lambda cell: cell.median)
    ratios = {cell.batch_size: _ratio(cell, best) for cell in eligible}
    equivalent = tuple(
        size
        for size, ratio in ratios.items()
        if size == best.batch_size or _below(ratio.hi, EQUIVALENT_BELOW)
    )
    outside = [ratio for size, ratio in ratios.items() if size not in equivalent]
    conclusive = best.trials > 1 and all(ratio.lo is not None and ratio.lo > 1 for ratio in outside)
    return Recommendation(
        batch_size=min(equivalent),
        best=best.batch_size,
        conclusive=conclusive,
        equivalent=equivalent,
        ratios=ratios,
        more_trials=0 if conclusive else _more_trials(best, outside),
    )


def _ratio(cell: Candidate, best: Candidate) -> Estimate:
    # after an interruption, some sizes may have run fewer trials than others
    shared = sorted(set(cell.seconds) & set(best.seconds))
    if not shared:
        return Estimate(value=cell.median / best.median if best.median else 1.0)
    return paired_ratio(
        [cell.seconds[trial] for trial in shared], [best.seconds[trial] for trial in shared]
    )


def _below(bound: float | None, limit: float) -> bool:
    return bound is not None and bound < limit


def _more_trials(best: Candidate, outside: Sequence[Estimate]) -> int | None:
    """The further trials after which intervals as noisy as the present ones would exclude 1.

    None where there is no estimate.
    """
    needed = 0
    for ratio in outside:
        if ratio.lo is None or ratio.hi is None or ratio.value is None or ratio.value <= 1:
            return None
        if ratio.lo > 1:
            continue
        spread = math.log(ratio.hi / ratio.lo) / 2 / _reach(ratio.n)
        enough = (
            trials
            for trials in range(ratio.n + 1, MOST_TRIALS + 1)
            if spread * _reach(trials) < math.log(ratio.value)
        )
        needed = max(needed, next(enough, MOST_TRIALS + 1))
    return max(1, needed - best.trials) if 0 < needed <= MOST_TRIALS else None


def _reach(trials: int) -> float:
    """Half the width of an interval over `trials` trials, in standard deviations of one trial.

    Intervals are of a mean below ten trials, and of a median from there.
    """
    quantile = t_quantile(trials - 1) if trials < BOOTSTRAP_FROM else _MEDIAN_QUANTILE
    return quantile / math.sqrt(trials)
