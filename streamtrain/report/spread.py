"""Labels apart from one another: heights moved as little as that takes."""

from collections.abc import Sequence


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights moved apart to at least `gap`, clusters staying centred where they were.

    >>> spread([0.0, 0.0, 5.0], 1.0)
    [-0.5, 0.5, 5.0]
    """
    clusters: list[list[float]] = []  # of [sum of heights, members]
    for height in heights:
        clusters.append([height, 1])
        while len(clusters) > 1 and _low(clusters[-1], gap) - _high(clusters[-2], gap) < gap:
            total, members = clusters.pop()
            clusters[-1] = [clusters[-1][0] + total, clusters[-1][1] + members]
    return [_low(cluster, gap) + k * gap for cluster in clusters for k in range(int(cluster[1]))]


def _low(cluster: Sequence[float], gap: float) -> float:
    return cluster[0] / cluster[1] - (cluster[1] - 1) * gap / 2


def _high(cluster: Sequence[float], gap: float) -> float:
    return cluster[0] / cluster[1] + (cluster[1] - 1) * gap / 2
