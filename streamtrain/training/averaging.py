"""The average of the weights that is judged and delivered: when it is updated, and by how much.

An exponential average over a constant fraction f of the rows so far (Karras et al. 2024, arXiv
2312.02696 §3). At a constant learning rate it replaces the decay (Zhang et al. 2024, arXiv
2410.21676). After a step, with r the rows of all steps so far, it is updated if r >= next:

    k = r - r_last; a = min(1, k / (f · r)); average += a · (parameters - average)
    r_last = r; next = r + max(1, r // 256)

It starts at the initial parameters with r_last = next = 0, so that the first steps copy (a = 1).
It is updated once per 0.4 % of the rows so far, or at every step if minibatches are larger than
that, so it costs almost nothing. It depends only on row counts: blocks and threads do not change
it.
"""

import numpy as np


def average_shares(
    ends_S: np.ndarray, fraction: float, last: int, due: int
) -> tuple[np.ndarray, int, int]:
    """Return the share `a` of each of S steps, and `r_last` and `next` after them.

    `ends_S`: the rows after each step, ascending. `last`, `due`: `r_last` and `next` before them.
    The result is float64 (S,), and 0 for a step that does not update the average. `fraction` 0
    means no average: all are 0. The kernel computes the same rule (kernels/updates.py).

    >>> average_shares(np.array([32, 64]), 0.1, 0, 0)
    (array([1., 1.]), 64, 65)
    >>> average_shares(np.array([1024, 1026, 1028]), 0.5, 960, 963)
    (array([0.125    , 0.       , 0.0077821]), 1028, 1032)
    """
    shares_S = np.zeros(len(ends_S))
    step = int(np.searchsorted(ends_S, due)) if fraction else len(ends_S)
    while step < len(ends_S):
        rows = int(ends_S[step])
        shares_S[step] = min(1.0, (rows - last) / (fraction * rows))
        last, due = rows, rows + max(1, rows // 256)
        step += 1
        # usually the next step is due, and no search is needed
        if step < len(ends_S) and ends_S[step] < due:
            step = int(np.searchsorted(ends_S, due))
    return shares_S, last, due
