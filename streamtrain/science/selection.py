"""Decide between minibatch sizes after any number of paired trials, with a bound on the regret.

Each trial (one seed) runs every size on the same rows from the same weights, so sizes are compared
within trials (common random numbers). The results are looked at after 3, 5, 8 … trials. At each
look, sizes that are certainly slower are dropped, and the sweep stops if the chosen size is
certainly at most `within` slower than the best. The variance is pooled over sizes, with trials as
blocks, because log times minus their size and trial means have nearly the same variance at every
size. A pair that varies more is judged by its own variance. The bound is corrected for the number
of comparisons (Bonferroni). It needs no correction for the looks: in whole simulated sweeps with
six looks, it is false in at most 5 % (tests/science/test_selection.py).

Hsu 1984 (Annals of Statistics 12(3), multiple comparisons with the best); Kim and Nelson 2001 (ACM
TOMACS 11(3), sequential selection with common random numbers). docs/science.md §13.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamtrain.science.intervals import Estimate
from streamtrain.science.scipy_functions import Vector, chi_squared_tail, t_quantile

#: The numbers of trials after which a sweep looks at its results.
LOOKS = (3, 5, 8, 12, 20, 30)

#: How much slower than the best a size may be, where a run does not say: `sweep.within`.
DEFAULT_WITHIN = 0.2

#: More trials than this are not advised, since few can afford them.
MOST_TRIALS = LOOKS[-1]

#: Variances are taken as unlike when Bartlett's test rejects equal ones at this level, and the
#: largest is more than `UNLIKE_RATIO` times the smallest.
UNLIKE_LEVEL, UNLIKE_RATIO = 0.01, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One minibatch size with the log seconds to the target of each trial.

    Attributes:
        batch_size: Rows per minibatch.
        log_seconds: Natural logarithm of the seconds, by trial that reached the target.
        censored: Lower bound of the log seconds, by trial that missed it.
    """

    batch_size: int
    log_seconds: Mapping[int, float] = field(default_factory=dict[int, float])
    censored: Mapping[int, float] = field(default_factory=dict[int, float])

    @property
    def values(self) -> dict[int, float]:
        """The log seconds, or their lower bound, by trial."""
        return {**self.censored, **self.log_seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen size, and how much slower each could be than the best.

    Ratios are relative: 0.12 is 12 % slower. All bounds of a sweep hold together with 95 %
    confidence.

    Attributes:
        batch_size: The chosen size; None where no size reached the target in half of its trials.
        reached: Whether it reached the target in every trial; if not, it is never settled.
        settled: Whether the bound of the regret is at most `within`.
        regret: How much slower the chosen size is than the best tried: `hi` is the bound; None with
            a single trial.
        slower_by: Each size against the chosen one. `hi` is None where a trial missed the target.
        equivalent: Sizes that are certainly at most `within` slower than the best, and the chosen.
        dropped: Sizes that are certainly slower than the chosen one.
        more_trials: Estimate of the further trials that would settle it, if means and variances
            stay as they are; 0 when it is settled, None where 30 in total would not.
        pooled: Whether one variance was used for all sizes.
        sd: Standard deviation of log seconds within a trial; None where it is not known.
    """

    batch_size: int | None
    reached: bool
    settled: bool
    regret: Estimate
    slower_by: Mapping[int, Estimate]
    equivalent: tuple[int, ...]
    dropped: tuple[int, ...]
    more_trials: int | None
    pooled: bool
    sd: float | None


@dataclass(frozen=True, slots=True)
class _Pair:
    """How a size differs from the chosen one in log time: the mean, and its error.

    `variance` is of one trial's difference; None where one trial cannot tell. `degrees` are those
    of the t quantile, `count` the trials that both ran, `timing` the variance that all trials
    share.
    """

    mean: float
    variance: float | None
    degrees: int
    count: int
    timing: float

    def margin(self, level: float, count: int | None = None) -> float | None:
        """Return the one-sided margin of the mean, after `count` trials of the same variance."""
        if self.variance is None:
            return None
        trials = self.count if count is None else count
        degrees = round(self.degrees * (trials - 1) / max(1, self.count - 1))
        return t_quantile(degrees, level) * math.sqrt(self.variance / trials + self.timing)


#: What is selected where no size ran.
_NO_CHOICE = Selection(
    batch_size=None,
    reached=False,
    settled=False,
    regret=Estimate(value=None),
    slower_by={},
    equivalent=(),
    dropped=(),
    more_trials=None,
    pooled=True,
    sd=None,
)


def next_look(trials_done: int) -> int | None:
    """Return the number of trials after which to look next; None after the last look.

    >>> next_look(0), next_look(3), next_look(30)
    (3, 5, None)
    """
    return next((look for look in LOOKS if look > trials_done), None)


def select(
    contenders: Sequence[Contender],
    *,
    within: float,
    alpha: float = 0.05,
    timing_variance: float = 0.0,
) -> Selection:
    """Return the choice among `contenders`; their order does not matter.

    The smallest mean log time is chosen among the sizes that reached the target in every trial, or
    else in at least half. A missed trial counts with its lower bound: that can only make another
    size look closer, so bounds stay valid. Sizes with missed trials are left out of the variance.

    Args:
        contenders: Every size that was tried, dropped ones with the trials they ran.
        within: The largest regret that counts as settled: 0.2 is 20 %.
        alpha: Probability that any bound is false.
        timing_variance: Variance of a size's mean log seconds per row, which is common to all of
            its trials.
    """
    ran = sorted((c for c in contenders if c.values), key=lambda c: c.batch_size)
    chosen = _choose(ran)
    if chosen is None:
        return _NO_CHOICE
    residuals, degrees = _residuals([c for c in ran if not c.censored])
    squares = sum(float(values @ values) for values in residuals)
    variance = squares / degrees if degrees > 0 else None
    pooled = not _are_unlike(residuals, degrees)
    level = 1 - alpha / max(1, len(ran) - 1)
    slower_by = {chosen.batch_size: Estimate(value=0.0, lo=0.0, hi=0.0, n=len(chosen.values))}
    pairs: list[_Pair] = []
    for other in ran:
        if other is not chosen:
            pair = _pair(other, chosen, variance if pooled else None, degrees, timing_variance)
            pairs.append(pair)
            slower_by[other.batch_size] = _relative(pair, level, bounded=not other.censored)
    slower_by = dict(sorted(slower_by.items()))
    regret = _regret(pairs, level, len(chosen.values))
    settled = regret.hi is not None and regret.hi <= within and not chosen.censored
    return Selection(
        batch_size=chosen.batch_size,
        reached=not chosen.censored,
        settled=settled,
        regret=regret,
        slower_by=slower_by,
        equivalent=tuple(
            size
            for size, ratio in slower_by.items()
            if size == chosen.batch_size
            or (regret.hi is not None and ratio.hi is not None and ratio.hi <= within)
        ),
        dropped=tuple(
            size for size, ratio in slower_by.items() if ratio.lo is not None and ratio.lo > 0
        ),
        more_trials=0 if settled else _more_trials(chosen, pairs, level, math.log1p(within)),
        pooled=pooled,
        sd=None if variance is None else math.sqrt(variance),
    )


def _regret(pairs: Sequence[_Pair], level: float, trials: int) -> Estimate:
    """Return how much slower than the best size the chosen one can be, at most.

    Its upper end is None where a pair has no margin.
    """
    bounds = [None if (m := pair.margin(level)) is None else m - pair.mean for pair in pairs]
    known = [bound for bound in bounds if bound is not None]
    highest = math.expm1(max(0.0, *known)) if known else 0.0
    upper = highest if len(known) == len(bounds) else None
    return Estimate(value=0.0, lo=0.0, hi=upper, n=trials)


def _pair(
    other: Contender, chosen: Contender, pooled: float | None, degrees: int, timing: float
) -> _Pair:
    """Compare two sizes by the pooled variance, or by their own where that is larger.

    Without a pooled variance by their own alone.
    """
    differences = _differences(other, chosen)
    count = len(differences)
    mean = float(differences.mean()) if count else math.nan
    own = float(differences.var(ddof=1)) if count > 1 else None
    if pooled is not None and count:
        variance, freedom = max(2 * pooled, own or 0.0), degrees
    else:
        variance, freedom = own, count - 1
    return _Pair(mean, variance, freedom, count, 2 * timing)


def _more_trials(
    chosen: Contender, pairs: Sequence[_Pair], level: float, wish: float
) -> int | None:
    """Return the further trials after which every margin would be at most `wish`."""
    done = len(chosen.values)
    if chosen.censored or any(pair.variance is None for pair in pairs):
        return None
    # a dropped size ran fewer trials, and runs no more
    running = [pair for pair in pairs if pair.count == done]
    for total in range(done + 1, MOST_TRIALS + 1):
        margins = [(pair.margin(level, total) or 0.0) - pair.mean for pair in running]
        if all(margin <= wish for margin in margins):
            return total - done
    return None


def _choose(ran: Sequence[Contender]) -> Contender | None:
    """The fastest of the sizes that reached the target in all trials, or else in at least half."""
    complete = [c for c in ran if not c.censored]
    often = [c for c in ran if len(c.log_seconds) >= len(c.censored)]
    # a size that was dropped ran fewer trials: those that ran the most come first
    return min(
        complete or often,
        key=lambda c: (-len(c.values), float(np.mean(list(c.values.values())))),
        default=None,
    )


def _differences(one: Contender, other: Contender) -> Vector:
    """The log ratios of the trials that both ran."""
    a, b = one.values, other.values
    return np.array([a[trial] - b[trial] for trial in sorted(a.keys() & b.keys())])


def _residuals(complete: Sequence[Contender]) -> tuple[list[Vector], int]:
    """Return each size's residuals in a two-way fit, size + trial, and their degrees of freedom.

    The fit is by least squares, since dropped sizes ran fewer trials.
    """
    trials = sorted({trial for c in complete for trial in c.log_seconds})
    if len(complete) < 2 or len(trials) < 2:
        return [], 0
    cells = [
        (row, trials.index(trial), value)
        for row, c in enumerate(complete)
        for trial, value in sorted(c.log_seconds.items())
    ]
    sizes = np.array([cell[0] for cell in cells])
    design = np.zeros((len(cells), len(complete) + len(trials)))
    design[np.arange(len(cells)), sizes] = 1
    design[np.arange(len(cells)), len(complete) + np.array([cell[1] for cell in cells])] = 1
    values = np.array([cell[2] for cell in cells])
    fit = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    degrees = len(cells) - int(np.linalg.matrix_rank(design))
    left = values - fit
    return [left[sizes == row] for row in range(len(complete))], degrees


def _are_unlike(residuals: Sequence[Vector], degrees: int) -> bool:
    """Whether Bartlett's test finds unequal variances among sizes with at least five trials."""
    tested = [values for values in residuals if len(values) >= 5]
    if degrees <= 0 or len(tested) < 3:
        return False
    variances = np.array([float(values @ values) / (len(values) - 1) for values in tested])
    weights = np.array([len(values) - 1 for values in tested])
    if variances.min() <= 0:
        return bool(variances.max() > 0)
    total, count = weights.sum(), len(tested)
    mean = float((weights * variances).sum() / total)
    statistic = total * math.log(mean) - float((weights * np.log(variances)).sum())
    correction = 1 + float((1 / weights).sum() - 1 / total) / (3 * (count - 1))
    unlike = chi_squared_tail(count - 1, statistic / correction) < UNLIKE_LEVEL
    return unlike and bool(variances.max() > UNLIKE_RATIO * variances.min())


def _relative(pair: _Pair, level: float, *, bounded: bool) -> Estimate:
    """Return exp(mean ± margin) - 1; without an upper end unless `bounded`."""
    if not pair.count:
        return Estimate(value=None)
    value, margin = math.expm1(pair.mean), pair.margin(level)
    if margin is None:
        return Estimate(value=value, n=pair.count)
    high = math.expm1(min(pair.mean + margin, 700.0)) if bounded else None
    return Estimate(value=value, lo=math.expm1(pair.mean - margin), hi=high, n=pair.count)
