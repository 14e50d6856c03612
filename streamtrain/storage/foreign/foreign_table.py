"""What a library gives of a foreign table: its Arrow schema, and its live rows in batches."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from streamtrain.errors import ConfigError, DataError, StreamTrainError, first_line
from streamtrain.storage.foreign.foreign_source import ForeignSource

#: Rows of a batch, where the library lets us choose.
BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignTable:
    """A table that a library reads.

    `batches(chosen)` yields all live rows of the named columns, in the order of the library, which
    is the same each time; memory holds a few batches, for Iceberg the chosen columns of one file.
    """

    name: str
    schema: pa.Schema
    batches: Callable[[Sequence[str]], Generator[pa.RecordBatch, None, None]]


@contextmanager
def library_errors(source: ForeignSource) -> Iterator[None]:
    """Turn whatever a library raises into one DataError that names the source.

    Libraries in Rust raise a BaseException when they panic.
    """
    try:
        yield
    except (StreamTrainError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(source, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _unreadable(source, error) from error


def _unreadable(source: ForeignSource, error: BaseException) -> DataError:
    cause = source.storage.redact(first_line(error)).rstrip(".!")
    advice = "Repair the table, or export its live rows as Parquet"
    if source.kind == "DuckDB":
        advice = "Correct the table or the query"
    return DataError(f"{source.name}: cannot be read as {source.kind}: {cause}. {advice}.")


def missing_extra(source: ForeignSource, library: str, extra: str) -> ConfigError:
    """Return the error for a library that is not installed."""
    return ConfigError(
        f"{source.name}: a {source.kind} source needs {library}: pip install"
        f" 'streamtrain[{extra}]'."
    )
