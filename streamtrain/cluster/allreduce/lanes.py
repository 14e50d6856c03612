"""Lanes of a synchronous run, as arithmetic: the rows each gives to a minibatch, and its worker.

```
a minibatch of 12 rows from 4 lanes      lane 0: 3   lane 1: 3   lane 2: 3   lane 3: 3
lane 2 has one row left                  lane 0: 5   lane 1: 3   lane 2: 1   lane 3: 3
                                         the others fill in, in lane order
```
Lanes are constants of the run. Workers own lanes, and which worker owns which changes no minibatch.
"""

import numpy as np


def lanes_of(rank: int, workers: int, lanes: int) -> range:
    """Return the lanes that a worker reads.

    >>> [list(lanes_of(rank, 3, 8)) for rank in range(3)]
    [[0, 3, 6], [1, 4, 7], [2, 5]]
    """
    return range(rank, lanes, workers)


def take_rows(left: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the rows that each lane gives to the next minibatch, int64 (lanes,).

    `left`: the rows that each lane still has. `batch_size` is a multiple of the number of lanes,
    which give equal parts while they can. The sum is the batch size, or all that is left.
    """
    take = np.minimum(left, batch_size // len(left))
    missing = min(batch_size, int(left.sum())) - int(take.sum())
    if missing:
        spare = left - take
        before = np.cumsum(spare) - spare
        take = take + np.clip(missing - before, 0, spare)
    return take


def take_rows_until(num_rows: np.ndarray, batch_size: int, done: int) -> np.ndarray:
    """Return the rows taken from each lane after `done` whole minibatches of an epoch.

    `num_rows`: the rows of each lane; both are int64 (lanes,).

    >>> take_rows_until(np.array([10, 10, 4, 10]), 12, 2).tolist()
    [8, 6, 4, 6]
    """
    share = batch_size // len(num_rows)
    equal = min(done, int(num_rows.min()) // share)
    rows_taken = np.full(len(num_rows), equal * share)
    for _ in range(equal, done):
        rows_taken = rows_taken + take_rows(num_rows - rows_taken, batch_size)
    return rows_taken
