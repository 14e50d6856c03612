"""CSV and its kin as tables: any delimiter, decimal mark, encoding, compression, null words."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from streamtrain.base.caller import warn_caller
from streamtrain.base.words import plural
from streamtrain.errors import DataError, first_line, shown
from streamtrain.storage.decode import ColumnError, arrow_column, refuse_repeated
from streamtrain.storage.write.datetime_parts import Delivered, delivered
from streamtrain.storage.write.table_type import Piece, Refusals, Table, named_errors
from streamtrain.storage.write.text_dialect import NULLS, Dialect, as_tabs, find_dialect
from streamtrain.storage.write.text_signs import with_plain_minus
from streamtrain.storage.write.text_source import (
    as_utf8,
    find_encoding,
    read_chunks,
    read_sample,
    whole_rows,
)
from streamtrain.storage.write.text_totals import Sum, totals_warning
from streamtrain.storage.write.text_values import NumberColumn, date_refusal
from streamtrain.types import Column, Datetime, Storage

#: Bytes from which everything is found out; and the problems that an error shows.
_SAMPLE_BYTES = 1 << 20
#: Bytes at the end in which rows of totals are looked for.
_TAIL_BYTES = 1 << 16
_PROBLEMS_SHOWN = 3

# pyarrow.compute creates its functions at import
_compute: Any = pc


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _File:
    """A text file and what was found out about it.

    `keys`: a name for each field of a row. `is_alone`: the user named this file, not a
    folder or a glob.
    """

    path: str
    storage: Storage
    encoding: str
    dialect: Dialect
    keys: tuple[str, ...]
    nulls: frozenset[str]
    is_alone: bool


def open_text_table(path: str, storage: Storage, *, is_alone: bool = True) -> Table:
    """Return the table of one text file; `is_alone`: it is not one of a folder or a glob.

    Its numbers are float64: the first rows do not show whether a column has integers only.

    Raises DataError for a file that is not a table, and ConfigError for an impossible option.
    """
    with named_errors(path):
        file, sample = _find_out(path, storage, is_alone=is_alone)
        kinds = {
            key: _number_column(file, key, key, is_boolean=False).kind(
                sample.column(key).combine_chunks()
            )
            for key in file.keys
        }
    names, dropped = file.dialect.names, dict(file.dialect.dropped)
    for index, reason in dropped.items():
        _warn_of_dropped(path, index, reason)
    datetime = storage.reading.datetime
    columns = refuse_repeated(
        [
            _column(name, kinds[key], sample.column(key), datetime)
            for index, (name, key) in enumerate(zip(names, file.keys, strict=True))
            if index not in dropped
        ]
    )
    made = delivered(columns, datetime)
    by_name = dict(zip(names, file.keys, strict=True))

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        empty = [file.keys[index] for index, reason in dropped.items() if reason == "empty"]
        keys = {name: by_name[name] for name in made.stored(chosen)}
        types = {name: kinds[key] for name, key in keys.items()}
        with named_errors(path):
            yield from _pieces(file, made, chosen, keys, types, empty, decoded_type)

    return Table(
        url=path,
        columns=made.columns,
        pieces=pieces,
        found=file.dialect.text(file.encoding),
        needs_target=file.dialect.needs_target,
    )


def _column(
    name: str, kind: pa.DataType, sample: pa.ChunkedArray, datetime: Datetime | None
) -> Column:
    column = arrow_column(name, kind, datetime)
    refusal = date_refusal(sample.combine_chunks()) if pa.types.is_string(kind) else ""
    return replace(column, refusal=refusal) if refusal else column


def _find_out(path: str, storage: Storage, *, is_alone: bool) -> tuple[_File, pa.Table]:
    """Return the file with its dialect, and the first rows as text."""
    content, whole = read_sample(path, storage, _SAMPLE_BYTES)
    encoding = find_encoding(path, content, storage.reading.encoding)
    text = as_utf8(content, encoding, whole=whole)
    if not whole and re.search(rb"[\r\n]", text) is None:
        raise DataError(f"its first row has more than {_SAMPLE_BYTES:,} bytes. Is it a table?")
    if not whole:  # the last row may be cut off
        text = next(whole_rows(iter([text])))
    text = with_plain_minus(text)
    dialect = find_dialect(path, text.decode(errors="replace"), storage.reading)
    words = storage.reading.na_values or ()
    file = _File(
        path=path,
        storage=storage,
        encoding=encoding,
        dialect=dialect,
        keys=tuple(f"{index}" for index in range(len(dialect.names))),
        nulls=frozenset(word.strip().lower().replace("\u2212", "-") for word in words),
        is_alone=is_alone,
    )
    rest = _rows_of(_without_lines(text, dialect.skip_lines), dialect)
    return file, _parse(file, rest, file.keys, 0) if rest else _empty(file.keys)


def _without_lines(content: bytes, lines: int) -> bytes:
    """Return the content without its first lines, whatever ends them."""
    end = 0
    for _ in range(lines):
        found = re.compile(rb"\r\n|\n|\r").search(content, end)
        end = len(content) if found is None else found.end()
    return content[end:]


def _rows_of(content: bytes, dialect: Dialect) -> bytes:
    """Return rows as Arrow's parser takes them: no comments, one delimiter between fields."""
    content = with_plain_minus(content)
    mark = dialect.comment.encode()
    if mark and mark in content:
        content = re.sub(rb"(?m)^[ \t]*" + mark + rb"[^\r\n]*(?:\r\n|\n|\r|\Z)", b"", content)
    if dialect.delimiter == " ":
        content = as_tabs(content)
    elif dialect.spaced and b'"' in content:
        # a quotation mark after a space is not a quotation mark to Arrow
        delimiter = re.escape(dialect.delimiter.encode())
        content = re.sub(rb"(?m)(^|" + delimiter + rb') +"', rb'\1"', content)
        content = re.sub(rb'" +(' + delimiter + rb"|\r?$)", rb'"\1', content)
    return content


def _empty(keys: Sequence[str]) -> pa.Table:
    return pa.table({key: pa.array([], pa.string()) for key in keys})


def _parse(file: _File, content: bytes, keys: Sequence[str], first_row: int) -> pa.Table:
    """Return the columns `keys` of whole rows as text.

    Raises DataError that counts the rows of another length and shows some.
    """
    problems: list[str] = []
    count = 0

    def on_invalid_row(row: csv.InvalidRow) -> str:
        nonlocal count
        count += 1
        if len(problems) < _PROBLEMS_SHOWN:
            place = "" if row.number is None else f"row {first_row + row.number - 1:,} "
            problems.append(f"{place}has {row.actual_columns} fields ({shown(row.text[:60])})")
        return "skip"

    delimiter = "\t" if file.dialect.delimiter == " " else file.dialect.delimiter
    try:
        table = csv.read_csv(
            pa.py_buffer(content),
            read_options=csv.ReadOptions(
                use_threads=False, block_size=len(content) + 1, column_names=list(file.keys)
            ),
            parse_options=csv.ParseOptions(
                delimiter=delimiter,
                newlines_in_values=b'"' in content,
                invalid_row_handler=on_invalid_row,
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(keys, pa.string()),
                include_columns=list(keys),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise DataError(
                f"a text after row {first_row:,} is not {file.encoding}. Give another --encoding,"
                " such as latin-1."
            ) from None
        if "Empty CSV" in str(error):
            return _empty(keys)
        raise DataError(
            f"rows from {first_row:,} cannot be parsed: {first_line(error)}. Correct the file."
        ) from None
    if count:
        more = f", and {count - len(problems):,} more" if count > len(problems) else ""
        raise DataError(
            f"{plural(count, 'row')} {'do' if count > 1 else 'does'} not have"
            f" {len(file.keys)} fields: {'; '.join(problems)}{more}."
            " Correct them, or leave the file out."
        )
    return table


def _pieces(
    file: _File,
    made: Delivered,
    chosen: Sequence[str],
    keys: Mapping[str, str],
    types: Mapping[str, pa.DataType],
    empty: Sequence[str],
    decoded_type: str,
) -> Iterator[Piece]:
    """Yield the chosen columns, made from the stored ones `keys` (name → key) of the types `types`.

    Those of `empty` have to be empty. Raises ColumnError for all columns that are refused.
    """
    numbers = {
        name: _number_column(file, name, keys[name], is_boolean=pa.types.is_boolean(kind))
        for name, kind in types.items()
        if pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    }
    sums = {name: Sum() for name in numbers}
    refusals, row, tail, end = Refusals(), 0, b"", b""
    for number, chunk in enumerate(read_chunks(file.path, file.storage, file.encoding)):
        content = _without_lines(chunk, file.dialect.skip_lines) if number == 0 else chunk
        content = _rows_of(content, file.dialect)
        tail = content[-_TAIL_BYTES:] if len(content) > _TAIL_BYTES else tail + content
        tail, end = tail[-_TAIL_BYTES:], chunk[-2:]
        if not content.strip():
            continue
        table = _parse(file, content, [*dict.fromkeys([*keys.values(), *empty])], row)
        for key in empty:
            _refuse_filled(table.column(key), int(key), row)
        if not len(table):
            continue

        def decode(name: str, table: pa.Table = table, row: int = row) -> np.ndarray:
            source = made.source(name)
            texts = table.column(keys[source]).combine_chunks()
            if source in numbers:
                values = numbers[source].decode(texts)
                sums[source].add(values)
                return values.astype(decoded_type, copy=False)
            values = _cast(source, texts, types[source], file.nulls, row)
            return made.decode(name, values, decoded_type)

        row += len(table)
        yield from refusals.piece(chosen, decode)
    for name, column in numbers.items():
        with refusals.noting(name):
            if text := column.warning():
                warn_caller(f"{file.path}: {text}")
    refusals.raise_all()
    if text := _totals(file, row, tail, sums, ends_with_row=end not in (b"\n\n", b"\r\n\r")):
        warn_caller(text)


def _totals(
    file: _File, rows: int, tail: bytes, sums: Mapping[str, Sum], *, ends_with_row: bool
) -> str:
    """Return the warning that the file ends with rows of totals; `tail`: the end of its rows."""
    if len(tail) == _TAIL_BYTES:
        tail = tail[tail.find(b"\n") + 1 :]
    dropped = dict(file.dialect.dropped)
    names = {
        key: name
        for index, (key, name) in enumerate(zip(file.keys, file.dialect.names, strict=True))
        if index not in dropped
    }
    try:
        table = _parse(file, tail, list(file.keys), 0).select(list(names))
    except DataError:
        return ""  # the end of a row with a line end in it
    return totals_warning(
        file.path,
        rows,
        [*names.values()],
        table,
        sums,
        ends_with_row=ends_with_row,
        is_alone=file.is_alone,
    )


def _number_column(file: _File, name: str, key: str, *, is_boolean: bool) -> NumberColumn:
    return NumberColumn(
        name=name,
        decimal=file.dialect.decimal,
        thousands=file.dialect.thousands,
        nulls=file.nulls,
        is_boolean=is_boolean,
        sign=file.dialect.signs[int(key)],
    )


def _cast(
    name: str, texts: pa.Array, kind: pa.DataType, nulls: frozenset[str], first_row: int
) -> pa.ChunkedArray:
    """Return a column of dates or times. Raises ColumnError for the first text that is none."""
    texts = _compute.utf8_trim_whitespace(texts)
    known = pa.array(sorted(NULLS | nulls))
    is_null = _compute.is_in(_compute.utf8_lower(texts), value_set=known)
    texts = _compute.if_else(is_null, None, texts)
    try:
        return pa.chunked_array([texts.cast(kind)])
    except pa.ArrowInvalid:
        row, text = next(each for each in enumerate(texts) if not _is_of(kind, each[1]))
    refusal = f"{shown(text.as_py()[:40])!r} in row {first_row + row:,} is no {kind}"
    raise ColumnError(
        f"column {name!r}: {refusal} as in the rows before. Correct it, name it with --na-values if"
        " it means null, or leave the column out with --features.",
        {name: refusal},
    )


def _is_of(kind: pa.DataType, text: pa.StringScalar) -> bool:
    try:
        text.cast(kind)
        return True
    except pa.ArrowInvalid:
        return False


def _refuse_filled(values: pa.ChunkedArray, index: int, first_row: int) -> None:
    """Raise DataError for a value in a column that has no name and was empty in the first rows."""
    if values.null_count < len(values):
        filled = values.is_valid().combine_chunks()
        row = first_row + _compute.index(filled, True).as_py()
        raise DataError(
            f"field {index + 1:,} has no name, and a value in row {row:,}. Name it in the header."
        )


def _warn_of_dropped(path: str, index: int, reason: str) -> None:
    if reason == "index":
        text = "its first column has no name: left out, as the index of pandas. Name it to use it"
    else:
        text = f"field {index + 1:,} of each row has no name and no value: left out"
    warn_caller(f"{path}: {text}.")
