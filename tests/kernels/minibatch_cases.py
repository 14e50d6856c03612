"""Minibatches to assemble on a GPU, and what they should be (test_cuda_minibatch.py).

The process with Numba's simulator imports this file, and so not torch.
"""

import numpy as np


def oracle(block, order, position, mean, scale, count, dtype):
    """Return (features, target) of the same minibatch, computed with NumPy."""
    numbers = np.arange(position[0], position[0] + count)
    if len(order):
        numbers = order[numbers]
    rows = block[numbers]
    if len(mean):
        rows = (rows.astype(np.float64) - mean) * scale
    rows = rows.astype(dtype)
    return rows[:, :-1], rows[:, -1:]


def cases():
    """Yield arguments for every type, ordered or permuted, standardised or raw, at block edges."""
    random = np.random.default_rng(0)
    for block_type, out_type in [("f4", "f4"), ("f8", "f4"), ("f4", "f2")]:
        for ordered in (True, False):
            for standardised in (True, False):
                for features, start, count in [(4, 0, 13), (1, 5, 1), (3, 7, 6)]:
                    block = (random.standard_normal((13, features + 1)) * 5 + 100).astype(
                        block_type
                    )
                    yield {
                        "block": block,
                        "order": np.empty(0, dtype=np.int64) if ordered else random.permutation(13),
                        "position": np.array([start]),
                        "mean": (
                            block.mean(axis=0, dtype=np.float64) if standardised else np.empty(0)
                        ),
                        "scale": (
                            1 / block.std(axis=0, dtype=np.float64) if standardised else np.empty(0)
                        ),
                        "x": np.empty((count, features), dtype=out_type),
                        "y": np.empty((count, 1), dtype=out_type),
                    }
