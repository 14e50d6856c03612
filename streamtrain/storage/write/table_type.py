"""A source of rows: its columns, and their values in pieces."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import getsize, isfile

import numpy as np
import pyarrow as pa

from streamtrain.base.words import plural
from streamtrain.errors import ConfigError, DataError, ResourceError, first_line, shown
from streamtrain.storage.decode import ColumnError
from streamtrain.types import Column, Truth

#: The most refused columns that an error names besides the first.
_SHOWN = 3

#: Decoded columns of equal length.
Piece = tuple[np.ndarray, ...]


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
        left_out: (file, cause) of the shards that are left out under quarantine.
        truth: What is known exactly of the values of all columns, the last of them the target.
        of_shards: The table is Parquet or Zarr shards, whose columns every verb chooses alike.
    """

    url: str
    columns: tuple[Column, ...]
    pieces: Callable[[Sequence[str], str], Iterator[Piece]]
    found: str = ""
    needs_target: str = ""
    left_out: tuple[tuple[str, str], ...] = ()
    of_shards: bool = False
    truth: Truth | None = None


class BadShard(DataError):
    """A shard that cannot be read to its end; `cause` says why."""

    def __init__(self, url: str, cause: str):
        super().__init__(cause)
        self.url, self.cause = url, cause


class Refusals:
    """Collects the columns that are refused while a table is read to its end.

    For one thread.
    """

    def __init__(self) -> None:
        self._errors: dict[str, ColumnError] = {}

    def piece(
        self, chosen: Sequence[str], decode: Callable[[str], np.ndarray]
    ) -> tuple[Piece, ...]:
        """Return one piece of the chosen columns, as `decode(name)` gives them.

        Returns no piece after a refusal. A refused column is not decoded again.
        """
        columns = []
        for name in chosen:
            if name not in self._errors:
                with self.noting(name):
                    columns.append(decode(name))
        return () if self._errors else (tuple(columns),)

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Collect the ColumnError that refuses the column `name`."""
        try:
            yield
        except ColumnError as error:
            self._errors.setdefault(name, error)

    def raise_all(self) -> None:
        """Raise one ColumnError for all refused columns, with the cause of the first."""
        if not self._errors:
            return
        error = next(iter(self._errors.values()))
        refusals = {name: next(iter(each.refusals.values())) for name, each in self._errors.items()}
        text, others = str(error), list(refusals.items())[1:]
        if others:
            listed = "; ".join(f"{shown(name)}: {refusal}" for name, refusal in others[:_SHOWN])
            more = f"; and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
            text += f" {plural(len(others), 'other column')} cannot be read either: {listed}{more}."
        raise ColumnError(text, refusals) from error


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turn whatever reading `path` raises into one DataError, or ResourceError, that names it."""
    try:
        yield
    except ColumnError as error:
        if path in str(error):
            raise
        raise ColumnError(f"{path}: {error}", error.refusals) from error
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
    except PermissionError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}. Check the path and its"
            " permissions."
        ) from error
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        size = f" ({getsize(path):,} bytes)" if isfile(path) else ""
        raise DataError(
            f"{path}: cannot be read{size}: {first_line(error)}. Correct the file, or leave it out."
        ) from error
