"""Rounds of a benchmark: what is measured in several processes, pooled into one document.

The turns within a process share its place in memory, its compiled kernels and the state of the
machine in those seconds, so they differ by less than two runs do. A round is one process; the
interval of a figure comes from its rounds, as independent repeats.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from streamtrain.science.intervals import Estimate, log_estimate
from streamtrain.types import Json


def pool(documents: Sequence[Json]) -> Json:
    """Return one document of the same form from those of several rounds.

    An estimate becomes the geometric mean of the rounds' values with Student's interval on their
    logarithms; its `n` counts rounds. A positive float beside it is the geometric mean too, other
    numbers are medians, a word or a flag is the most frequent one. A key that some rounds lack
    comes from the others.

    Raises ValueError for lists of unlike lengths, since their entries do not match.

    >>> pool([{"cells": [{"ratio": 2.0}]}, {"cells": [{"ratio": 8.0}]}])
    {'cells': [{'ratio': 4.0}]}
    """
    return _pool(list(documents))


def _pool(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    first = known[0]
    if isinstance(first, dict):
        if {"value", "n"} <= first.keys():
            return over_rounds([one["value"] for one in known]).to_json()
        keys = dict.fromkeys(key for one in known for key in one)
        return {key: _pool([one[key] for one in known if key in one]) for key in keys}
    if isinstance(first, list):
        return [_pool(entries) for entries in zip(*known, strict=True)]
    if isinstance(first, float) and all(0 < value < math.inf for value in known):
        return statistics.geometric_mean(known)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return statistics.median_low(known)
    return statistics.mode(known)


def over_rounds(values: Sequence[float | None]) -> Estimate:
    """Return the geometric mean of what each round measured, and Student's interval on logarithms.

    A round that measured nothing is left out.
    """
    sample = [value for value in values if value is not None]
    return (
        log_estimate(statistics.geometric_mean(sample), sample) if sample else Estimate(value=None)
    )


def join_turns(documents: Sequence[Json]) -> Json:
    """Return the turns of all rounds of the race, by side."""
    return {side: [turn for one in documents for turn in one[side]] for side in documents[0]}
