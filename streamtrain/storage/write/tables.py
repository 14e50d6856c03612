"""What `ingest` reads.

CSV, Arrow, Parquet and Zarr as streams of pieces (decoded columns of any length).
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import csv

from streamtrain.errors import DataError, ResourceError, first_line, shown
from streamtrain.storage.dataset import Found, bind_columns, find_shards
from streamtrain.storage.decode import MAX_EXACT_INTEGER, arrow_column, decode_arrow
from streamtrain.storage.locate import locate, read_list
from streamtrain.storage.parquet.parquet_reader import stream_parquet
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.filesystem import open_binary, open_stream, take_query
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.types import LOCAL, Column, Dataset, Storage

CSV_SUFFIXES = (".csv", ".csv.gz")
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
SUFFIXES = (".parquet", *CSV_SUFFIXES, *ARROW_SUFFIXES)

# Types are inferred from the first block, so it is large: a column that turns to text later is
# refused by name.
_BLOCK_BYTES = 16 << 20
_ZARR_ROWS = 262_144

Piece = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Columns, and `pieces(chosen, decoded_type)`: their values in order, in pieces of bounded
    size.
    """

    url: str
    columns: tuple[Column, ...]
    pieces: Callable[[Sequence[str], str], Iterator[Piece]]
    is_csv: bool = False


def open_tables(source: str, storage: Storage = LOCAL) -> list[Table]:
    """The tables that a path means: one per CSV or Arrow file, one for Parquet or Zarr shards
    together.

    Raises DataError when nothing can be read, or when kinds of file are mixed, StoreError when a
    store does not answer.
    """
    path, known = take_query(source, storage)
    path = normal_url(path)
    paths, known = read_list(path, known) or (locate(path, SUFFIXES, known), known)
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(
            f"{source}: holds {' and '.join(sorted(kinds))} files. Choose one kind with a glob."
        )
    if kinds == {"csv"}:
        return [_csv_table(path, known) for path in paths]
    if kinds == {"arrow"}:
        return [_arrow_table(path, known) for path in paths]
    return [_shard_table(find_shards(source, storage=storage))]


def _kind(path: str) -> str:
    name = path.lower()
    return (
        "csv"
        if name.endswith(CSV_SUFFIXES)
        else "arrow"
        if name.endswith(ARROW_SUFFIXES)
        else "Parquet or Zarr"
    )


def _csv_table(path: str, storage: Storage) -> Table:
    """Numbers in CSV are float64: whether a column is whole numbers cannot be known from its first
    rows.
    """
    with (
        _one_error(path),
        csv.open_csv(
            open_stream(path, storage),
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        ) as reader,
    ):
        types = {  # a name that is not UTF-8 raises here
            field.name: (
                pa.float64()
                if pa.types.is_integer(field.type) or pa.types.is_null(field.type)
                else field.type
            )
            for field in reader.schema
        }
        names = reader.schema.names

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with _one_error(path), ExitStack() as stack:
            texts: Iterator[pa.RecordBatch] = iter(())
            read_texts = 0
            for number, batch in enumerate(
                _csv_batches(stack, path, storage, {name: types[name] for name in chosen})
            ):
                columns = _decode(batch, chosen, decoded_type)
                # Only a piece with a number from ±2^53 on is looked at as text: was it whole, or
                # too large for float64?
                large = [np.flatnonzero(np.abs(column) >= MAX_EXACT_INTEGER) for column in columns]
                if any(map(len, large)):
                    if not read_texts:
                        texts = _csv_batches(
                            stack, path, storage, dict.fromkeys(chosen, pa.string())
                        )
                    text = next(itertools.islice(texts, number - read_texts, None))
                    read_texts = number + 1
                    for name, rows in zip(chosen, large, strict=True):
                        _refuse_rounded(name, text.column(name).take(rows).to_pylist())
                yield columns

    return Table(
        url=path,
        columns=_unique(names, [types[name] for name in names]),
        pieces=pieces,
        is_csv=True,
    )


def _csv_batches(
    stack: ExitStack, path: str, storage: Storage, types: dict[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Batches are cut by bytes of the file, so the same rows come together whatever the types."""
    read = csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    convert = csv.ConvertOptions(column_types=types, include_columns=list(types))
    return iter(
        stack.enter_context(
            csv.open_csv(open_stream(path, storage), read_options=read, convert_options=convert)
        )
    )


def _refuse_rounded(name: str, texts: Sequence[str]) -> None:
    """Raise DataError for a whole number that float64 would round, and for one that is beyond
    float64's largest.
    """
    for text in map(str.strip, texts):
        digits = text.lstrip("+-")
        if digits.isdecimal() and (len(digits) > 4000 or int(digits) > MAX_EXACT_INTEGER):
            raise DataError(
                f"column {name!r}: the integer {shown(text[:40])} is beyond ±2^53 and would be"
                " rounded. Write it with a point if it is a measurement, or leave it out with"
                " --features."
            )
        if not digits.lower().startswith("inf") and not np.isfinite(float(text)):
            raise DataError(
                f"column {name!r}: {shown(text[:40])} is beyond float64. Mend the value, or leave"
                " it out with --features."
            )


def _arrow_table(path: str, storage: Storage) -> Table:
    with _one_error(path), _open_arrow(path, storage) as file, pa.ipc.open_file(file) as reader:
        names, types = reader.schema.names, reader.schema.types

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with _one_error(path), _open_arrow(path, storage) as file, pa.ipc.open_file(file) as reader:
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                # Arrow takes lengths unseen, and a negative one ends the process as it decodes
                for name in chosen:
                    batch.column(name).validate()
                yield _decode(batch, chosen, decoded_type)

    return Table(url=path, columns=_unique(names, types), pieces=pieces)


def _open_arrow(path: str, storage: Storage) -> pa.NativeFile:
    return (
        pa.PythonFile(open_binary(path, storage), mode="r") if is_remote(path) else pa.OSFile(path)
    )


def _shard_table(found: Found) -> Table:
    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        dataset = bind_columns(found, features=chosen[:-1], target=chosen[-1])
        for number, shard in enumerate(dataset.shards):
            if shard.format == "zarr":
                yield from _zarr_pieces(dataset, number, decoded_type)
                continue
            with _one_error(shard.url), closing(stream_parquet(shard, chosen)) as batches:
                for batch in batches:
                    yield _decode(batch, chosen, decoded_type)

    return Table(url=found.url, columns=_common_columns(found), pieces=pieces)


def _zarr_pieces(dataset: Dataset, number: int, decoded_type: str) -> Iterator[Piece]:
    readers, rows = Readers(dataset), dataset.shards[number].num_rows
    for start in range(0, rows, _ZARR_ROWS):
        columns = readers.read(number, start, min(start + _ZARR_ROWS, rows))
        yield tuple(column.astype(decoded_type, copy=False) for column in columns)


def _common_columns(found: Found) -> tuple[Column, ...]:
    """The first shard's columns, each in the widest type that any shard needs."""
    wide = {
        column.name
        for shard in found.shards
        for column in shard.columns
        if column.decoded_type == "float64"
    }
    return tuple(
        (
            Column(name=column.name, stored_type=column.stored_type, decoded_type="float64")
            if column.decoded_type and column.name in wide
            else column
        )
        for column in found.shards[0].columns
    )


def _unique(names: Sequence[str], types: Sequence[pa.DataType]) -> tuple[Column, ...]:
    return tuple(
        (
            arrow_column(name, kind)
            if names.count(name) == 1
            else Column(
                name=name,
                stored_type=str(kind),
                decoded_type=None,
                refusal=f"it occurs {names.count(name)} times",
            )
        )
        for name, kind in zip(names, types, strict=True)
    )


def _decode(batch: pa.RecordBatch, chosen: Sequence[str], decoded_type: str) -> Piece:
    return tuple(
        decode_arrow(name, pa.chunked_array([batch.column(name)]), decoded_type) for name in chosen
    )


class _one_error:
    """Whatever reading `path` raises becomes one DataError, or ResourceError, with its name."""

    def __init__(self, path: str):
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DataError) and self._path not in str(error):
            raise DataError(f"{self._path}: {error}") from error
        if isinstance(error, MemoryError) and not isinstance(error, ResourceError):
            raise ResourceError(
                f"{self._path}: does not fit in memory: {first_line(error)}. Close other programs."
            ) from error
        if isinstance(error, (pa.ArrowException, OSError, ValueError)) and not isinstance(
            error, (DataError, MemoryError)
        ):
            size = f" ({os.path.getsize(self._path):,} bytes)" if os.path.isfile(self._path) else ""
            what = f"cannot be read{size}: {first_line(error)}"
            raise DataError(f"{self._path}: {what}. Mend the file, or leave it out.") from error
