"""The minibatch sizes that a sweep starts with, from the rows of a table, and sizes that change."""

import math
from collections.abc import Iterable, Sequence

from streamtrain.records import BatchStage

#: A sweep that chooses its sizes starts with this many powers of four, from 16 where the rows
#: allow it. A minibatch is at most this part of the training rows.
FIRST_SIZES = 5
SMALLEST_FIRST = 16
LARGEST_PART = 8

#: The sizes of a fixed plan, as far as the rows allow them, and of the benchmarks.
FIXED_SIZES = (64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)


def largest_size(rows: int) -> int:
    """Return the largest power of four that is at most an eighth of the training rows.

    >>> largest_size(9_568), largest_size(100)
    (1024, 4)
    """
    size = 1
    while size * 4 * LARGEST_PART <= rows:
        size *= 4
    return size


#: Sizes that grow with the rows trained on: the first, the last, and the row at which a size
#: begins, in minibatches of that size. Measured in docs/science.md, "Sizes of --batch-size auto".
GROWING_FIRST, GROWING_LAST, GROWING_STEPS = 32, 1024, 2048


def growing_sizes(rows: int) -> tuple[tuple[int, int], ...]:
    """Return minibatch sizes that double with the rows trained on, each with its first row.

    A size B after the first begins at row 2048·B. No size is above `largest_size` of the training
    `rows`.

    >>> growing_sizes(10**6)
    ((32, 0), (64, 131072), (128, 262144), (256, 524288), (512, 1048576), (1024, 2097152))
    >>> growing_sizes(1000), growing_sizes(100)
    (((32, 0), (64, 131072)), ((4, 0),))
    """
    most = largest_size(rows)
    sizes = [min(GROWING_FIRST, most)]
    while 2 * sizes[-1] <= min(GROWING_LAST, most):
        sizes.append(2 * sizes[-1])
    return tuple((size, GROWING_STEPS * size if size > sizes[0] else 0) for size in sizes)


def rows_of_sizes(stages: Sequence[BatchStage], rows: float) -> dict[int, float]:
    """Return how many of the first `rows` rows are in minibatches of each size of `stages`.

    >>> late = BatchStage(first_row=150, batch_size=8)
    >>> stages = [BatchStage(first_row=0, batch_size=8), BatchStage(first_row=100, batch_size=16)]
    >>> rows_of_sizes([*stages, late], 400), rows_of_sizes([*stages, late], 90)
    ({8: 350, 16: 50}, {8: 90, 16: 0})
    """
    taken: dict[int, float] = {stage.batch_size: 0 for stage in stages}
    ends = [*(stage.first_row for stage in stages[1:]), math.inf]
    for stage, end in zip(stages, ends, strict=True):
        taken[stage.batch_size] += max(0, min(rows, end) - stage.first_row)
    return taken


def used_sizes(stages: Iterable[BatchStage], rows: float) -> tuple[int, ...]:
    """Return the sizes that a training of `rows` rows came to, in their order; the first at least.

    >>> sizes = {0: 32, 100: 64, 200: 1024}
    >>> used_sizes([BatchStage(first_row=row, batch_size=sizes[row]) for row in sizes], 200)
    (32, 64)
    """
    return tuple(
        stage.batch_size for stage in stages if stage.first_row < rows or not stage.first_row
    )


def first_sizes(most: int) -> tuple[int, ...]:
    """Return five powers of four from 16, or from less where fewer than three are at most `most`.

    >>> first_sizes(2**20), first_sizes(64)
    ((16, 64, 256, 1024, 4096), (4, 16, 64))
    """
    sizes = [SMALLEST_FIRST * 4**k for k in range(FIRST_SIZES)]
    sizes = [size for size in sizes if size <= most]
    while len(sizes) < 3 and (not sizes or sizes[0] > 1):
        sizes.insert(0, sizes[0] // 4 if sizes else most)
    return tuple(sizes)


def fixed_sizes(most: int) -> tuple[int, ...]:
    """Return the sizes of a fixed plan: at most `most`, and at least the three smallest.

    >>> fixed_sizes(4096), fixed_sizes(1)
    ((64, 256, 1024, 4096), (64, 256, 1024))
    """
    return tuple(size for size in FIXED_SIZES if size <= max(most, FIXED_SIZES[2]))
