"""What `inspect` says of each column of a data set, those that are left out too.

Nulls and extremes are those of the manifest or the footers; the sample is of the first rows.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date, datetime, time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.errors import StreamTrainError
from streamtrain.storage.decode import ONLY_NUMBERS, WRITE_NUMBERS, decode_arrow
from streamtrain.storage.inspection import LeftOut
from streamtrain.storage.parquet.parquet_reader import stream_parquet
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Column, Dataset

#: Values of a sample, and columns that have one: a value may cost the decoding of a page.
SAMPLE_ROWS = 3
SAMPLE_COLUMNS = 64

#: Characters of a text that is an extreme.
_MOST_TEXT = 24


class TextFacts:
    """Nulls and extremes of columns that are not decoded, from footers that are added one by one.

    Only of columns that every row group has statistics of.
    """

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self._found: dict[str, dict[str, Any]] = {}
        self._unknown: set[str] = set()

    def add(self, metadata: pq.FileMetaData, indices: Mapping[str, int]) -> None:
        """Add a footer; `indices`: the position of each column by its path."""
        self._unknown |= self._names - indices.keys()
        for group in range(metadata.num_row_groups):
            for name in self._names & indices.keys():
                statistics = metadata.row_group(group).column(indices[name]).statistics
                if statistics is None or not statistics.has_null_count:
                    self._unknown.add(name)
                else:
                    facts = self._found.setdefault(name, {"nulls": 0, "min": None, "max": None})
                    _add(facts, statistics)

    def of(self, name: str) -> dict[str, Any]:
        """Return the fields of `LeftOut` that are known of a column."""
        return {} if name in self._unknown else self._found.get(name, {})


def others(dataset: Dataset, present: Sequence[Column]) -> list[Column]:
    """Return the columns among `present` that the data set is not bound to."""
    bound = set(dataset.columns)
    return [column for column in present if column.name not in bound]


def left_out(columns: Sequence[Column], facts: TextFacts) -> list[LeftOut]:
    """Return what is known of columns that are left out."""
    return [
        LeftOut(
            name=column.name,
            stored_type=column.stored_type,
            reason=_reason(column),
            **facts.of(column.name),
        )
        for column in columns
    ]


def _reason(column: Column) -> str:
    """Return why a column that is not in use was not chosen, and what makes a text usable."""
    if column.refusal == ONLY_NUMBERS:
        return f"{ONLY_NUMBERS}: {WRITE_NUMBERS}"
    if column.decoded_type is None or column.refusal:
        return column.refusal
    return "index of a pandas table" if column.place == "index" else "not named by --features"


def sample(dataset: Dataset) -> dict[str, list[float]]:
    """Return the first values of the columns of a local data set, by name.

    None of the columns beyond `SAMPLE_COLUMNS`, of remote data, whose requests cost, and of a shard
    that cannot be read: reading it says why.
    """
    shard, names = dataset.shards[0], dataset.columns[-SAMPLE_COLUMNS:]
    if is_remote(shard.url):
        return {}
    try:
        if shard.format == "zarr":
            rows = Readers(dataset).read(0, 0, min(SAMPLE_ROWS, shard.num_rows))
            return {
                name: column.tolist() for name, column in zip(dataset.columns, rows, strict=True)
            }
        with closing(stream_parquet(shard, names)) as batches:
            batch = next(batches).slice(0, SAMPLE_ROWS)
        columns = {name: pa.chunked_array([batch.column(name)]) for name in names}
        return {
            name: decode_arrow(name, column, "float64").tolist() for name, column in columns.items()
        }
    except (StreamTrainError, pa.ArrowException, StopIteration, OSError, ValueError, TypeError):
        return {}


def _add(facts: dict[str, Any], statistics: pq.Statistics) -> None:
    facts["nulls"] += statistics.null_count
    low, high = map(_text, extremes(statistics))
    if low is not None and high is not None:
        facts["min"] = low if facts["min"] is None else min(facts["min"], low)
        facts["max"] = high if facts["max"] is None else max(facts["max"], high)


def extremes(statistics: pq.Statistics) -> tuple[Any, Any]:
    """Return the extremes of a column chunk; None where unknown, or where Python has no such date.

    Times in nanoseconds are NumPy's, because Python's have microseconds.
    """
    if not statistics.has_min_max:
        return None, None
    try:
        return statistics.min, statistics.max
    except (ValueError, OverflowError):
        if "nanoseconds" not in statistics.logical_type.to_json():
            return None, None
        return np.datetime64(statistics.min_raw, "ns"), np.datetime64(statistics.max_raw, "ns")


def _text(value: Any) -> str | None:
    """Return a value of a footer as text that sorts as the values do; None for other types."""
    if isinstance(value, np.datetime64):
        return str(value).replace("T", " ")
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= _MOST_TEXT else f"{value[: _MOST_TEXT - 1]}…"
    return None
