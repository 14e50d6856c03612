"""Sources of `ingest`: CSV, Arrow, Parquet, Zarr and foreign tables as streams of pieces.

A piece is a tuple of decoded columns of equal length.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pyarrow import csv

from streamtrain.errors import DataError, ResourceError, first_line, shown
from streamtrain.storage.column_places import mark_index
from streamtrain.storage.dataset import FoundShards, bind_columns, find_shards
from streamtrain.storage.decode import MAX_EXACT_INTEGER, arrow_column, decode_arrow
from streamtrain.storage.foreign.foreign_source import ForeignSource, find_foreign
from streamtrain.storage.foreign.open_foreign import open_foreign
from streamtrain.storage.locate import locate, read_list
from streamtrain.storage.parquet.parquet_reader import stream_parquet
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.filesystem import open_binary, open_stream, take_query
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.types import LOCAL, Column, Dataset, Storage

CSV_SUFFIXES = (".csv", ".csv.gz")
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
SUFFIXES = (".parquet", *CSV_SUFFIXES, *ARROW_SUFFIXES)

# Arrow infers types from the first block, so it is large. A column that becomes text in a later
# block is refused by name.
_BLOCK_BYTES = 16 << 20
_ZARR_ROWS = 262_144

Piece = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """The columns of a source, and their values.

    `pieces(chosen, decoded_type)` yields the values of the chosen columns in order, in pieces of
    bounded size.
    """

    url: str
    columns: tuple[Column, ...]
    pieces: Callable[[Sequence[str], str], Iterator[Piece]]
    is_csv: bool = False


def open_tables(source: str, storage: Storage = LOCAL) -> list[Table]:
    """Return the tables of a path: one per CSV or Arrow file, one for all Parquet or Zarr shards.

    A Delta or Iceberg table, and a table or query of a database, is one table.

    Raises DataError when nothing can be read, or when kinds of file are mixed, and StoreError when
    a store does not answer.
    """
    if foreign := find_foreign(source, storage):
        return [_foreign_table(foreign)]
    path, with_query = take_query(source, storage)
    path = normal_url(path)
    listed = read_list(path, with_query)
    paths, with_query = listed or (locate(path, SUFFIXES, with_query), with_query)
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(
            f"{source}: contains {' and '.join(sorted(kinds))} files. Choose one kind with a glob."
        )
    if kinds == {"csv"}:
        return [_csv_table(path, with_query) for path in paths]
    if kinds == {"arrow"}:
        return [_arrow_table(path, with_query) for path in paths]
    return [_shard_table(find_shards(source, storage=storage))]


def _foreign_table(source: ForeignSource) -> Table:
    table = open_foreign(source)

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with _named_errors(source.name), closing(table.batches(chosen)) as batches:
            for batch in batches:
                yield _decode(batch, chosen, decoded_type)

    return Table(
        url=source.name,
        columns=_columns(table.schema.names, table.schema.types),
        pieces=pieces,
    )


def _kind(path: str) -> str:
    name = path.lower()
    if name.endswith(CSV_SUFFIXES):
        return "csv"
    if name.endswith(ARROW_SUFFIXES):
        return "arrow"
    return "Parquet or Zarr"


def _csv_table(path: str, storage: Storage) -> Table:
    """Return the table of one CSV file.

    Its numbers are float64: the first rows do not show whether a column has integers only.
    """
    read_options = csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    with (
        _named_errors(path),
        csv.open_csv(open_stream(path, storage), read_options=read_options) as reader,
    ):
        types = {}
        for field in reader.schema:  # a name that is not UTF-8 raises here
            is_number = pa.types.is_integer(field.type) or pa.types.is_null(field.type)
            types[field.name] = pa.float64() if is_number else field.type
        names = reader.schema.names

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with _named_errors(path), ExitStack() as stack:
            chosen_types = {name: types[name] for name in chosen}
            texts: Iterator[pa.RecordBatch] = iter(())
            num_texts_read = 0
            for number, batch in enumerate(_csv_batches(stack, path, storage, chosen_types)):
                columns = _decode(batch, chosen, decoded_type)
                # A batch with a number of ±2^53 or more is read again as text, to see whether the
                # number was an integer, or too large for float64.
                large = [np.flatnonzero(np.abs(column) >= MAX_EXACT_INTEGER) for column in columns]
                if any(map(len, large)):
                    if not num_texts_read:
                        as_text = dict.fromkeys(chosen, pa.string())
                        texts = _csv_batches(stack, path, storage, as_text)
                    text = next(itertools.islice(texts, number - num_texts_read, None))
                    num_texts_read = number + 1
                    for name, rows in zip(chosen, large, strict=True):
                        _refuse_rounded(name, text.column(name).take(rows).to_pylist())
                yield columns

    return Table(
        url=path,
        columns=_columns(names, [types[name] for name in names]),
        pieces=pieces,
        is_csv=True,
    )


def _csv_batches(
    stack: ExitStack, path: str, storage: Storage, types: dict[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Return the batches of a CSV file; `stack` closes it.

    Batches are cut by bytes of the file, so their rows do not depend on `types`.
    """
    read = csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    convert = csv.ConvertOptions(column_types=types, include_columns=list(types))
    stream = open_stream(path, storage)
    reader = csv.open_csv(stream, read_options=read, convert_options=convert)
    return iter(stack.enter_context(reader))


def _refuse_rounded(name: str, texts: Sequence[str]) -> None:
    """Raise DataError for an integer that float64 would round, and for an overflow of float64."""
    for text in map(str.strip, texts):
        digits = text.lstrip("+-")
        if digits.isdecimal() and (len(digits) > 4000 or int(digits) > MAX_EXACT_INTEGER):
            raise DataError(
                f"column {name!r}: the integer {shown(text[:40])} is beyond ±2^53 and would be"
                " rounded. Write it with a decimal point if it is a measurement, or leave the"
                " column out with --features."
            )
        if not digits.lower().startswith("inf") and not np.isfinite(float(text)):
            raise DataError(
                f"column {name!r}: {shown(text[:40])} is beyond float64. Correct the value, or"
                " leave the column out with --features."
            )


def _arrow_table(path: str, storage: Storage) -> Table:
    with _named_errors(path), _open_arrow(path, storage) as file, pa.ipc.open_file(file) as reader:
        names, types = reader.schema.names, reader.schema.types
        metadata = reader.schema.metadata

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with (
            _named_errors(path),
            _open_arrow(path, storage) as file,
            pa.ipc.open_file(file) as reader,
        ):
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                # Arrow does not check lengths, and decoding a negative one ends the process
                for name in chosen:
                    batch.column(name).validate()
                yield _decode(batch, chosen, decoded_type)

    columns = mark_index(_columns(names, types), metadata)
    return Table(url=path, columns=columns, pieces=pieces)


def _open_arrow(path: str, storage: Storage) -> pa.NativeFile:
    if is_remote(path):
        return pa.PythonFile(open_binary(path, storage), mode="r")
    return pa.OSFile(path)


def _shard_table(found: FoundShards) -> Table:
    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        dataset = bind_columns(found, features=chosen[:-1], target=chosen[-1])
        for number, shard in enumerate(dataset.shards):
            if shard.format == "zarr":
                yield from _zarr_pieces(dataset, number, decoded_type)
                continue
            with _named_errors(shard.url), closing(stream_parquet(shard, chosen)) as batches:
                for batch in batches:
                    yield _decode(batch, chosen, decoded_type)

    return Table(url=found.url, columns=_common_columns(found), pieces=pieces)


def _zarr_pieces(dataset: Dataset, number: int, decoded_type: str) -> Iterator[Piece]:
    readers, rows = Readers(dataset), dataset.shards[number].num_rows
    for start in range(0, rows, _ZARR_ROWS):
        columns = readers.read(number, start, min(start + _ZARR_ROWS, rows))
        yield tuple(column.astype(decoded_type, copy=False) for column in columns)


def _common_columns(found: FoundShards) -> tuple[Column, ...]:
    """Return the first shard's columns, each in the widest type that any shard needs."""
    wide = {
        column.name
        for shard in found.shards
        for column in shard.columns
        if column.decoded_type == "float64"
    }
    return tuple(
        replace(column, decoded_type="float64")
        if column.decoded_type and column.name in wide
        else column
        for column in found.shards[0].columns
    )


def _columns(names: Sequence[str], types: Sequence[pa.DataType]) -> tuple[Column, ...]:
    """Return the columns of a schema; a repeated name is refused."""
    columns = []
    for name, kind in zip(names, types, strict=True):
        count = names.count(name)
        if count == 1:
            columns.append(arrow_column(name, kind))
        else:
            refusal = f"it occurs {count} times"
            columns.append(
                Column(name=name, stored_type=str(kind), decoded_type=None, refusal=refusal)
            )
    return tuple(columns)


def _decode(batch: pa.RecordBatch, chosen: Sequence[str], decoded_type: str) -> Piece:
    return tuple(
        decode_arrow(name, pa.chunked_array([batch.column(name)]), decoded_type) for name in chosen
    )


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    """Turn whatever reading `path` raises into one DataError, or ResourceError, that names it."""
    try:
        yield
    except DataError as error:
        if path in str(error):
            raise
        raise DataError(f"{path}: {error}") from error
    except ResourceError:
        raise
    except MemoryError as error:
        raise ResourceError(
            f"{path}: does not fit in memory: {first_line(error)}. Close other programs."
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        size = f" ({os.path.getsize(path):,} bytes)" if os.path.isfile(path) else ""
        raise DataError(
            f"{path}: cannot be read{size}: {first_line(error)}. Correct the file, or leave it out."
        ) from error
