"""Sources of `ingest`: CSV, Arrow, Parquet, Zarr and foreign tables as streams of pieces.

A piece is a tuple of decoded columns of equal length.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from streamtrain.errors import DataError, StoreError, shown
from streamtrain.storage.column_places import mark_index
from streamtrain.storage.dataset import FoundShards, bind_columns, find_shards
from streamtrain.storage.decode import ColumnError, arrow_column, refuse_repeated
from streamtrain.storage.foreign.foreign_source import ForeignSource, find_foreign
from streamtrain.storage.foreign.open_foreign import open_foreign
from streamtrain.storage.notices import warn_of_flags, warn_of_partitions
from streamtrain.storage.parquet.parquet_reader import stream_parquet
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.filesystem import open_binary
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.storage.table_files import find_files, kind_of
from streamtrain.storage.write.datetime_parts import Delivered, delivered
from streamtrain.storage.write.json_table import open_json_table
from streamtrain.storage.write.null_numbers import with_null_numbers
from streamtrain.storage.write.table_type import BadShard, Piece, Refusals, Table, named_errors
from streamtrain.storage.write.text_table import open_text_table
from streamtrain.types import LOCAL, Column, Dataset, Datetime, Reading, Shard, Storage

_ZARR_ROWS = 262_144

#: Columns that a message names.
_NAMED = 8


def open_tables(
    source: str, storage: Storage = LOCAL, bad_shards: Mapping[str, str] | None = None
) -> list[Table]:
    """Return the tables of a path: one per CSV or Arrow file, one for all Parquet or Zarr shards.

    A Delta or Iceberg table, and a table or query of a database, is one table. `bad_shards`: the
    shards to leave out by their URLs, and why; shards that cannot be opened are then left out too,
    and pieces of one that cannot be read raise BadShard. None: a bad shard is an error.

    Raises DataError when nothing can be read, when kinds of file are mixed, or when a file has no
    column of the first one, and StoreError when a store does not answer.
    """
    reading = storage.reading
    if foreign := find_foreign(source, storage):
        warn_of_flags(foreign.name, foreign.kind, reading)
        return [with_null_numbers(_foreign_table(foreign, reading.datetime), reading)]
    paths, storage = find_files(source, storage)
    kind = kind_of(paths[0])
    is_text = kind == "CSV"
    if not is_text:
        warn_of_flags(source, kind, reading)
    open_text = partial(open_text_table, is_alone=paths == [normal_url(source)])
    openers = {"CSV": open_text, "JSON lines": open_json_table, "Arrow": _arrow_table}
    if open_file := openers.get(kind):
        tables = [open_file(path, storage) for path in paths]
        _refuse_other_names(tables)
    else:
        tables = [_shard_table(source, storage, bad_shards)]
    warn_of_partitions(normal_url(source), tables, is_parquet=False)
    # text is read with all of `reading`
    return tables if is_text else [with_null_numbers(table, reading) for table in tables]


def _refuse_other_names(tables: Sequence[Table]) -> None:
    """Raise DataError for a file that has columns, but none of the first file's."""
    first, *others = tables
    names = [column.name for column in first.columns]
    for other in others:
        found = [column.name for column in other.columns]
        if names and found and set(names).isdisjoint(found):
            raise DataError(
                f"{other.url}: its columns are {_listed(found)}, and those of {first.url} are"
                f" {_listed(names)}. If it has no header, write the same one into every file; if it"
                " is another table, leave it out."
            )


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return ", ".join(map(shown, names[:_NAMED])) + more


def _foreign_table(source: ForeignSource, datetime: Datetime | None) -> Table:
    table = open_foreign(source)
    made = delivered(_columns(table.schema, datetime), datetime)

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with named_errors(source.name), closing(table.batches(made.stored(chosen))) as batches:
            yield from _decoded(batches, made, chosen, decoded_type)

    return Table(url=source.name, columns=made.columns, pieces=pieces)


def _arrow_table(path: str, storage: Storage) -> Table:
    with named_errors(path), _open_arrow(path, storage) as file, pa.ipc.open_file(file) as reader:
        schema = reader.schema
    datetime = storage.reading.datetime
    made = delivered(mark_index(_columns(schema, datetime), schema.metadata), datetime)

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        with (
            named_errors(path),
            _open_arrow(path, storage) as file,
            pa.ipc.open_file(file) as reader,
        ):
            batches = _checked(reader, made.stored(chosen))
            yield from _decoded(batches, made, chosen, decoded_type)

    return Table(url=path, columns=made.columns, pieces=pieces)


def _checked(reader: pa.RecordBatchFileReader, stored: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield batches; Arrow does not check lengths, and decoding a negative one ends the process."""
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i).select(list(stored))
        batch.validate()
        yield batch


def _open_arrow(path: str, storage: Storage) -> pa.NativeFile:
    if is_remote(path):
        return pa.PythonFile(open_binary(path, storage), mode="r")
    return pa.OSFile(path)


def _shard_table(source: str, storage: Storage, bad_shards: Mapping[str, str] | None) -> Table:
    choice = storage.reading.datetime
    # parts are made here, of shards that are found with their dates and times as seconds
    reading = Reading(datetime=choice and "epoch")
    found = find_shards(
        source, "error" if bad_shards is None else "quarantine", replace(storage, reading=reading)
    )
    if bad_shards:
        found = _without(found, bad_shards)
    made = delivered(_common_columns(found), choice)

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        stored = made.stored(chosen)
        # no data set has only one column, that of the date whose parts are chosen
        dataset = None
        if len(stored) > 1:
            dataset = bind_columns(found, features=stored[:-1], target=stored[-1])
        for number, shard in enumerate(found.shards):
            with _refusing(shard, bad_shards is not None):
                if dataset is not None and shard.format == "zarr":
                    yield from _zarr_pieces(dataset, number, decoded_type)
                    continue
                with named_errors(shard.url), closing(stream_parquet(shard, stored)) as batches:
                    yield from _decoded(batches, made, chosen, decoded_type)

    return Table(
        url=found.url,
        columns=made.columns,
        pieces=pieces,
        left_out=found.left_out,
        of_shards=True,
        truth=found.truth,
    )


def _without(found: FoundShards, bad_shards: Mapping[str, str]) -> FoundShards:
    """Return the shards that are not bad. Raises DataError when none is left."""
    shards = tuple(shard for shard in found.shards if shard.url not in bad_shards)
    if not shards:
        raise DataError("\n".join(bad_shards.values()))
    return replace(found, shards=shards, left_out=(*found.left_out, *bad_shards.items()))


@contextmanager
def _refusing(shard: Shard, in_quarantine: bool) -> Iterator[None]:
    """Under quarantine, raise BadShard for a shard that cannot be read."""
    try:
        yield
    except (ColumnError, StoreError):
        raise
    except DataError as error:
        if not in_quarantine:
            raise
        raise BadShard(shard.url, str(error)) from error


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


def _columns(schema: pa.Schema, datetime: Datetime | None) -> tuple[Column, ...]:
    return refuse_repeated([arrow_column(field.name, field.type, datetime) for field in schema])


def _decoded(
    batches: Iterable[pa.RecordBatch], made: Delivered, chosen: Sequence[str], decoded_type: str
) -> Iterator[Piece]:
    """Yield the chosen columns of batches. Raises ColumnError for all that are refused."""
    refusals = Refusals()
    for batch in batches:

        def decode(name: str, batch: pa.RecordBatch = batch) -> np.ndarray:
            column = pa.chunked_array([batch.column(made.source(name))])
            return made.decode(name, column, decoded_type)

        yield from refusals.piece(chosen, decode)
    refusals.raise_all()
