"""Arithmetic of logarithmic axes: their ends, positions on them, and labels that do not overlap.

The tables place labels by it, and the charts draw by it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

#: An axis includes intervals up to this factor beyond the outermost values: an interval of two
#: repeats can span many orders of magnitude.
_WIDEST = 10.0


def share_of(value: float, ends: tuple[float, float]) -> float:
    """Return the position of a value on a log axis: 0 at its low end, 1 at its high end.

    >>> share_of(10.0, (1.0, 100.0))
    0.5
    """
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])


def ends_of(values: Iterable[float], pad: float) -> tuple[float, float]:
    """Return the ends of a log axis around positive values, `pad` times beyond them.

    The axis never has zero length.
    """
    positive = [value for value in values if value and value > 0 and math.isfinite(value)] or [1.0]
    low, high = min(positive) / pad, max(positive) * pad
    return (low, high) if high > 1.01 * low else (low / 1.5, high * 1.5)


def with_intervals(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return the positive values of a figure with the ends of their intervals.

    Ends far beyond all values are cut.
    """
    positive = [row for row in rows if (row[name] or 0) > 0]
    values = [row[name] for row in positive]
    ends = [
        row[f"{name}_{end}"] for row in positive for end in ("lo", "hi") if row[f"{name}_{end}"]
    ]
    return [*values, *(min(max(end, min(values) / _WIDEST), _WIDEST * max(values)) for end in ends)]


def spread(heights: Sequence[float], gap: float, lowest: float = -math.inf) -> list[float]:
    """Move ascending heights apart to at least `gap`, none of them below `lowest`.

    Clusters stay centred where they were, if `lowest` allows it.

    >>> spread([0.0, 0.0, 5.0], 1.0)
    [-0.5, 0.5, 5.0]
    >>> spread([0.0, 0.0, 5.0], 1.0, lowest=0.0)
    [0.0, 1.0, 5.0]
    """
    clusters: list[list[float]] = []  # [sum of heights, number of heights]
    for height in heights:
        clusters.append([height, 1])
        while len(clusters) > 1 and _low(clusters[-1], gap) - _high(clusters[-2], gap) < gap:
            total, members = clusters.pop()
            clusters[-1] = [clusters[-1][0] + total, clusters[-1][1] + members]
    moved = [_low(cluster, gap) + k * gap for cluster in clusters for k in range(int(cluster[1]))]
    return [max(height, lowest + k * gap) for k, height in enumerate(moved)]


def _low(cluster: Sequence[float], gap: float) -> float:
    return cluster[0] / cluster[1] - (cluster[1] - 1) * gap / 2


def _high(cluster: Sequence[float], gap: float) -> float:
    return cluster[0] / cluster[1] + (cluster[1] - 1) * gap / 2
