"""Sums, products and extremes of the columns of a span, for the statistics of the survey.

Arithmetic needs 35 operations per row of five columns, memory 20 bytes. A tile of centred values
stays in the first-level cache, and products are summed in blocks of 3 x 3 columns, so that a value
that is loaded is used three times. One call does a whole span without Python's lock: in many short
calls it is always taken again before a thread that reads the next span wakes up.
"""

import numpy as np
from numba import njit

from streamtrain.kernels.shuffle import as_table, column_part
from streamtrain.kernels.sources import SOURCES

#: Rows of a tile: five columns of float64 are 10 KiB.
TILE_ROWS = 256

#: Columns per side of a block of products.
_SIDE = 3

#: Sums may be taken in any order, in vectors. NaN is not among the flags.
_ANY_ORDER = {"reassoc", "contract", "nsz", "arcp"}


@njit(nogil=True, fastmath=_ANY_ORDER | {"nnan"}, boundscheck=False)
def _sum_and_extremes(values, low, high):
    """Return the sum of finite values, and `low` and `high` moved to the extremes."""
    total = 0.0
    for row in range(values.shape[0]):
        value = values[row]
        total += value
        low, high = min(low, value), max(high, value)
    return total, low, high


@njit(nogil=True, fastmath=_ANY_ORDER, boundscheck=False)
def _add_block(tile, i, j, rows, products):
    """Add the products of the columns i, i + 1, i + 2 with j, j + 1, j + 2."""
    a, b, c = tile[i, :rows], tile[i + 1, :rows], tile[i + 2, :rows]
    x, y, z = tile[j, :rows], tile[j + 1, :rows], tile[j + 2, :rows]
    ax = ay = az = bx = by = bz = cx = cy = cz = 0.0
    for row in range(rows):
        ax += a[row] * x[row]
        ay += a[row] * y[row]
        az += a[row] * z[row]
        bx += b[row] * x[row]
        by += b[row] * y[row]
        bz += b[row] * z[row]
        cx += c[row] * x[row]
        cy += c[row] * y[row]
        cz += c[row] * z[row]
    for k, (with_x, with_y, with_z) in enumerate(((ax, ay, az), (bx, by, bz), (cx, cy, cz))):
        products[i + k, j] += with_x
        products[i + k, j + 1] += with_y
        products[i + k, j + 2] += with_z


def _kernel(sources):
    """Return the kernel, with the hash `sources` in its closure (sources.py)."""

    @njit(nogil=True, cache=True, boundscheck=False)
    def add_span(columns, center, skip, sums, products, low, high):
        """Do the work of `sum_span` with a `Table`; of `products`, the lower blocks are set."""
        sources  # noqa: B018
        width, num_rows = center.shape[0], columns.like.shape[0]
        tile = np.zeros((products.shape[0], TILE_ROWS))
        next_skip = 0
        for start in range(0, num_rows, TILE_ROWS):
            rows = min(TILE_ROWS, num_rows - start)
            first_skip = next_skip
            while next_skip < skip.shape[0] and skip[next_skip] < start + rows:
                next_skip += 1
            for c in range(width):
                values, deviations = column_part(columns, c, start, rows), tile[c, :rows]
                for row in range(rows):
                    deviations[row] = np.float64(values[row]) - center[c]
                for k in range(first_skip, next_skip):
                    deviations[skip[k] - start] = 0.0
                total, low[c], high[c] = _sum_and_extremes(deviations, low[c], high[c])
                sums[c] += total
            for i in range(0, width, _SIDE):
                for j in range(0, i + 1, _SIDE):
                    _add_block(tile, i, j, rows, products)

    return add_span


add_span = _kernel(SOURCES)


def sum_span(
    columns: tuple[np.ndarray, ...], center: np.ndarray, skip: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the sums, products, and extremes of the deviations of a span's rows from `center`.

    Args:
        columns: Arrays (rows,), float32 or float64, of one type and layout, with any stride.
        center: float64 (columns,).
        skip: Ascending positions of the rows that are left out, int64. They may have any values.

    Returns:
        Sums float64 (columns,); sums of products float64 (columns, columns); the least deviation of
        each column and the greatest, float64 (columns,), which are 0 where no row is beyond.
    """
    width = len(columns)
    padded = -(-width // _SIDE) * _SIDE
    sums, low, high = np.zeros(width), np.zeros(width), np.zeros(width)
    products = np.zeros((padded, padded))
    add_span(as_table(columns), center, skip, sums, products, low, high)
    lower = np.tril(products[:width, :width])
    return sums, lower + np.tril(lower, -1).T, low, high
