"""Sources of `ingest`: CSV, Arrow, Parquet, Zarr and foreign tables as streams of pieces.

A piece is a tuple of decoded columns of equal length.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pyarrow as pa

from streamtrain.storage.column_places import mark_index
from streamtrain.storage.dataset import FoundShards, bind_columns, find_shards
from streamtrain.storage.decode import arrow_column, decode_arrow
from streamtrain.storage.foreign.foreign_source import ForeignSource, find_foreign
from streamtrain.storage.foreign.open_foreign import open_foreign
from streamtrain.storage.parquet.parquet_reader import stream_parquet
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.filesystem import open_binary
from streamtrain.storage.remote.urls import is_remote
from streamtrain.storage.table_files import find_files, kind_of
from streamtrain.storage.write.json_table import open_json_table
from streamtrain.storage.write.table_type import Piece, Table, named_errors
from streamtrain.storage.write.text_table import open_text_table
from streamtrain.types import LOCAL, Column, Dataset, Storage

_ZARR_ROWS = 262_144


def open_tables(source: str, storage: Storage = LOCAL) -> list[Table]:
    """Return the tables of a path: one per CSV or Arrow file, one for all Parquet or Zarr shards.

    A Delta or Iceberg table, and a table or query of a database, is one table.

    Raises DataError when nothing can be read, or when kinds of file are mixed, and StoreError when
    a store does not answer.
    """
    if foreign := find_foreign(source, storage):
        return [_foreign_table(foreign)]
    paths, storage = find_files(source, storage)
    kind = kind_of(paths[0])
    if kind == "CSV":
        return [open_text_table(path, storage) for path in paths]
    if kind == "JSON lines":
        return [open_json_table(path, storage) for path in paths]
    if kind == "Arrow":
        return [_arrow_table(path, storage) for path in paths]
    return [_shard_table(find_shards(source, storage=storage))]


def _foreign_table(source: ForeignSource) -> Table:
    table = open_foreign(source)

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with named_errors(source.name), closing(table.batches(chosen)) as batches:
            for batch in batches:
                yield _decode(batch, chosen, decoded_type)

    return Table(
        url=source.name,
        columns=_columns(table.schema.names, table.schema.types),
        pieces=pieces,
    )


def _arrow_table(path: str, storage: Storage) -> Table:
    with named_errors(path), _open_arrow(path, storage) as file, pa.ipc.open_file(file) as reader:
        names, types = reader.schema.names, reader.schema.types
        metadata = reader.schema.metadata

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with (
            named_errors(path),
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
            with named_errors(shard.url), closing(stream_parquet(shard, chosen)) as batches:
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
