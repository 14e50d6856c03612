"""A source of rows: its columns, and their values in pieces."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import getsize, isfile

import numpy as np
import pyarrow as pa

from streamtrain.errors import ConfigError, DataError, ResourceError, first_line
from streamtrain.types import Column

#: Decoded columns of equal length.
Piece = tuple[np.ndarray, ...]


class ColumnError(DataError):
    """A value for which its column is refused; the other columns can be read without it."""

    def __init__(self, message: str, column: str, refusal: str):
        super().__init__(message)
        self.column, self.refusal = column, refusal


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """The columns of a source, and their values.

    Attributes:
        url: Path or URL.
        columns: All columns, also those that cannot be decoded.
        pieces: `pieces(chosen, decoded_type)` yields the values of the chosen columns in order, in
            pieces of bounded size.
        found: What was found out about a text file; empty for other kinds.
        needs_target: Why a target must be named; empty where the last column is a good default.
    """

    url: str
    columns: tuple[Column, ...]
    pieces: Callable[[Sequence[str], str], Iterator[Piece]]
    found: str = ""
    needs_target: str = ""


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turn whatever reading `path` raises into one DataError, or ResourceError, that names it."""
    try:
        yield
    except ColumnError as error:
        if path in str(error):
            raise
        raise ColumnError(f"{path}: {error}", error.column, error.refusal) from error
    except DataError as error:
        if path in str(error):
            raise
        raise DataError(f"{path}: {error}") from error
    except (ConfigError, ResourceError):
        raise
    except MemoryError as error:
        raise ResourceError(
            f"{path}: does not fit in memory: {first_line(error)}. Close other programs."
        ) from error
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        size = f" ({getsize(path):,} bytes)" if isfile(path) else ""
        raise DataError(
            f"{path}: cannot be read{size}: {first_line(error)}. Correct the file, or leave it out."
        ) from error
