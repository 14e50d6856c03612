"""Finding whole numbers that float32 rounds, in rows that are delivered as raw values.

float32 holds every whole number up to 2^24 and only some beyond: of seconds since 1970, one in 128.
Values in model units do not need this, since their mean is subtracted in float64.
"""

import numpy as np

from streamtrain.base.caller import warn_caller
from streamtrain.types import Dataset, Standardization

#: Above this float32 does not hold every integer, and above MAX_WHOLE not even float64.
MAX_FLOAT32_INTEGER, _MAX_WHOLE = 2**24, 2**53


class Rounding:
    """Looks at the first rows that are read of each shard; `warn` names what was found, once.

    `look` may be called from several threads, `warn` from one.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._found: dict[str, tuple[float, float]] = {}
        self._warned = False

    def look(
        self,
        dataset: Dataset,
        standard: Standardization,
        shard: int,
        columns: tuple[np.ndarray, ...],
    ) -> None:
        """Look for a rounded value in each column, unless rows of this shard were looked at."""
        if dataset.decoded_type == "float32" or shard in self._seen:
            return
        self._seen.add(shard)
        if standard.mean.any():
            return
        for name, values in zip(dataset.columns, columns, strict=True):
            rounded = first_rounded(values)
            if rounded is not None:
                self._found.setdefault(name, rounded)

    def warn(self) -> None:
        """Warn of the columns found so far; only the first call that has any to name warns."""
        if self._warned or not self._found:
            return
        self._warned = True
        found = dict(self._found)
        name, (value, delivered) = next(iter(found.items()))
        more = f" (and so {len(found) - 1:,} more columns)" if len(found) > 1 else ""
        warn_caller(
            f"column {name!r}: the integer {value:,.0f} is delivered as {delivered:,.0f}{more}:"
            f" float32 holds every integer only up to {MAX_FLOAT32_INTEGER:,}. Subtract an offset"
            " with transform=, or leave the column out with features=."
        )


def first_rounded(values: np.ndarray) -> tuple[float, float] | None:
    """Return a value that float32 rounds, and what it becomes, in a column of whole numbers.

    None where there is none, and for measurements: values with fractions, or beyond 2^53.
    """
    if not len(values):
        return None
    with np.errstate(invalid="ignore"):
        high, low = np.fmax.reduce(values), np.fmin.reduce(values)
        if not max(high, -low) > MAX_FLOAT32_INTEGER:
            return None
        large = values[np.isfinite(values) & (np.abs(values) > MAX_FLOAT32_INTEGER)]
        if not len(large) or (np.abs(large) > _MAX_WHOLE).any() or (large != np.rint(large)).any():
            return None
    delivered = large.astype(np.float32).astype(np.float64)
    rounded = np.flatnonzero(delivered != large)
    return (float(large[rounded[0]]), float(delivered[rounded[0]])) if len(rounded) else None
