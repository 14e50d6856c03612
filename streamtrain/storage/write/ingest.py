"""`ingest`: rewrite foreign data as verified shards with equal spans, in one streaming pass."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from streamtrain.base.redact import redact_url
from streamtrain.errors import DataError
from streamtrain.storage.column_choice import (
    candidates,
    choose_columns,
    column_problems,
    no_target_message,
    repeated_names_message,
)
from streamtrain.storage.column_places import eligible
from streamtrain.storage.dataset import open_shards, truth_of_columns
from streamtrain.storage.datetime_values import stores_datetime
from streamtrain.storage.foreign.foreign_source import absolute_source
from streamtrain.storage.remote.store_options import make_storage
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.storage.write.shuffled import shuffled
from streamtrain.storage.write.tables import Piece, Table, open_tables
from streamtrain.storage.write.writer import Layout, refuse_output, write_dataset
from streamtrain.types import AS_FOUND, Dataset, Format, Reading, Truth

_log = logging.getLogger("streamtrain")


def ingest(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Format = "parquet",
    features: Sequence[str] | None = None,
    target: str | None = None,
    span_rows: int = 262_144,
    shuffle_seed: int | None = None,
    memory: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    reading: Reading = AS_FOUND,
) -> Dataset:
    """Rewrite CSV, JSON lines, Arrow / Feather, Parquet or Zarr as our own shards.

    So are Delta and Iceberg tables, and `duckdb:FILE?table=NAME` or `duckdb:FILE?query=SELECT …`.

    A shard has 16 spans of `span_rows` rows, with checksums, and a manifest lists all shards. Both
    formats get the same spans. The target becomes the last column. Columns that are not numeric are
    left out with a warning; one that is named is refused. `storage_options` apply to `source` and
    `out`, `reading` to text files. `shuffle_seed`: shuffle the rows by it (shuffled.py), within
    `memory` bytes, a quarter of what is available by default; None keeps their order, and memory is
    bounded by a few spans.

    Raises DataError, ConfigError when `out` is not empty, and ResourceError when memory or disk do
    not suffice; none leaves anything behind.
    """
    storage = replace(make_storage(storage_options), reading=reading)
    source, out = absolute_source(os.fspath(source)), normal_url(out)
    refuse_output(
        out, Layout(columns=(), decoded_type="float32", format=format, span_rows=span_rows), storage
    )
    tables = open_tables(source, storage)
    source = redact_url(source) if is_remote(source) else source
    if tables[0].found:
        _log.info(f"{os.path.basename(source)}: {tables[0].found}")
    if features is None:
        _refuse_names(tables[0], target)
    if not tables[0].columns:
        raise DataError(
            f"{tables[0].url}: no columns. A data set needs a target and at least one feature."
        )
    present = eligible(tables[0].columns, features, target, source)
    last = present[-1]
    if target is None and (last.decoded_type is None or stores_datetime(last.stored_type)):
        raise DataError(no_target_message(source, last))
    names = candidates(present, features, target, source, is_imported=not tables[0].of_shards)
    columns = choose_columns(names, features, target, source, present=present)
    decoded_type = _decoded_type(tables, columns)
    layout = Layout(columns=columns, decoded_type=decoded_type, format=format, span_rows=span_rows)
    pieces = (piece for table in tables for piece in table.pieces(columns, decoded_type))
    with ExitStack() as stack:  # whose end removes the files of a shuffle that failed
        if shuffle_seed is not None:
            pieces = stack.enter_context(
                closing(shuffled(pieces, layout, out, seed=shuffle_seed, memory=memory))
            )
        spans = spans_of(source, pieces, span_rows)
        truth = _truth(tables, columns, reading)
        write_dataset(out, layout, spans, truth=truth, storage=storage, shuffle_seed=shuffle_seed)
    return open_shards(out, storage=replace(storage, reading=AS_FOUND))


def _refuse_names(table: Table, target: str | None) -> None:
    """Raise DataError for repeated names, and for a first line that may be a row.

    It is a header where the user has named the target.
    """
    names = [column.name for column in table.columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(repeated_names_message(table.url, repeated))
    if target is None and table.needs_target:
        raise DataError(table.needs_target)


def _truth(tables: Sequence[Table], columns: Sequence[str], reading: Reading) -> Truth | None:
    """Return what is known of generated data whose rows are only copied; say where it is lost."""
    table = tables[0]  # shards are one table; tables of other kinds have no truth
    truth = truth_of_columns(table.truth, table.columns, columns)
    if reading.null_numbers:
        truth = None
    if table.truth is not None and truth is None:
        _log.info(
            f"{table.url}: the best possible loss of this generated data holds for all its columns"
            " and values, and is not kept for these."
        )
    return truth


def _decoded_type(tables: Iterable[Table], columns: Sequence[str]) -> Literal["float32", "float64"]:
    """Return float32 when that holds every column of every table exactly, else float64.

    Raises DataError naming every column that is missing or not numeric.
    """
    problems: list[str] = []
    types, chosen = set(), set(columns)
    for table in tables:
        found = column_problems(table.columns, columns, table.url)
        problems += [f"{table.url}: {problem}" for problem in found]
        types |= {column.decoded_type for column in table.columns if column.name in chosen}
    if problems:
        raise DataError("\n".join(problems))
    return "float32" if types == {"float32"} else "float64"


def spans_of(source: str, pieces: Iterator[Piece], span_rows: int) -> Iterator[Callable[[], Piece]]:
    """Cut and join pieces of any length to `span_rows`; the last may be shorter.

    Raises DataError when there are no rows.
    """
    held: list[Piece] = []
    rows, total = 0, 0
    for piece in pieces:
        held.append(piece)
        rows += len(piece[0])
        total += len(piece[0])
        while rows >= span_rows:
            joined = _join(held)
            yield partial(_identity, tuple(column[:span_rows] for column in joined))
            held = [tuple(column[span_rows:] for column in joined)]
            rows -= span_rows
    if not total:
        raise DataError(f"{source}: no rows. Name a file that has some.")
    if rows:
        yield partial(_identity, _join(held))


def _join(pieces: Sequence[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return tuple(np.concatenate(column) for column in zip(*pieces, strict=True))


def _identity(columns: Piece) -> Piece:
    return columns
