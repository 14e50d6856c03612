"""JSON lines as a table: one object per line, whose numbers and booleans are columns.

Those of an object within an object are columns named by both: `sensor.temperature`.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from streamtrain.errors import DataError, first_line, shown
from streamtrain.storage.decode import (
    MAX_EXACT_INTEGER,
    WITH_A_POINT,
    arrow_column,
    is_rounded,
    rounded_error,
)
from streamtrain.storage.write.datetime_parts import delivered
from streamtrain.storage.write.json_kinds import (
    Path,
    changed_column,
    has_changed,
    with_one_kind,
)
from streamtrain.storage.write.table_type import Piece, Refusals, Table, named_errors
from streamtrain.storage.write.text_source import (
    LONGEST_ROW_BYTES,
    as_utf8,
    find_encoding,
    read_blocks,
    read_chunks,
    read_sample,
    whole_rows,
)
from streamtrain.types import Storage

_SAMPLE_BYTES = 1 << 20

#: Objects and lists within each other in a line of the sample. Arrow, which finds the types by
#: recursion, ends the process at some thousands of them.
MAX_DEPTH = 100

_SPACE, _LINE_END = re.compile(r"\s*"), re.compile(r"[\r\n]")
_STRING = re.compile(rb'"(?:[^"\\\n]|\\.)*"')


def open_json_table(path: str, storage: Storage) -> Table:
    """Return the table of JSON lines or of an array of objects; the first objects give the columns.

    Numbers are float64. Raises DataError.
    """
    with named_errors(path):
        content, whole = _read_first_rows(path, storage)
        encoding = find_encoding(path, content, storage.reading.encoding)
        rows = as_utf8(content, encoding, whole=whole)
        is_array = rows.lstrip()[:1] == b"["
        if is_array:
            rows = b"".join(lines_of_array(iter([rows]), whole=whole))
        elif not whole:
            rows = next(whole_rows(iter([rows]), quotes=False))
        _refuse_deep(rows)
        schema, mixed = _infer(rows)
        if whole and not is_array and b"\n" not in rows.strip():
            _refuse_by_columns(schema)
    leaves = list(_leaves(schema, ()))
    paths = {".".join(path): path for path, _ in leaves}  # of equal names both are refused
    types = dict(leaves)
    datetime = storage.reading.datetime
    columns = [arrow_column(".".join(path), kind, datetime) for path, kind in leaves]
    for index, (path_of_leaf, _) in enumerate(leaves):
        if path_of_leaf in mixed:
            kinds, refusal = mixed[path_of_leaf]
            columns[index] = replace(columns[index], stored_type=kinds, refusal=refusal)
    made = delivered(columns, datetime)

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        wanted = pa.schema(
            _fields({path: types[path] for path in map(paths.__getitem__, made.stored(chosen))})
        )
        refusals, row = Refusals(), 0
        with named_errors(path):
            if is_array:
                chunks = lines_of_array(read_blocks(path, storage, encoding))
            else:
                chunks = read_chunks(path, storage, encoding, quotes=False)
            for chunk in chunks:
                if not chunk.strip():
                    continue
                try:
                    table = _read(chunk, wanted, row)
                except DataError as error:
                    stored = {name: paths[name] for name in made.stored(chosen)}
                    raise changed_column(error, stored, row) or error from None

                def decode(name: str, chunk: bytes = chunk, table: pa.Table = table) -> np.ndarray:
                    path = paths[made.source(name)]
                    values = made.decode(name, _column(table, path), decoded_type)
                    _refuse_rounded(chunk, path, values)
                    return values

                row += len(table)
                yield from refusals.piece(chosen, decode)
            refusals.raise_all()

    return Table(url=path, columns=made.columns, pieces=pieces)


def _read_first_rows(path: str, storage: Storage) -> tuple[bytes, bool]:
    """Return the first bytes of a file, a whole line at least, and whether they are all of it."""
    size = _SAMPLE_BYTES
    content, whole = read_sample(path, storage, size)
    while not whole and b"\n" not in content and size < LONGEST_ROW_BYTES:
        size *= 8
        content, whole = read_sample(path, storage, size)
    return content, whole


def _refuse_deep(rows: bytes) -> None:
    """Raise DataError for objects and lists that are more than `MAX_DEPTH` deep."""
    if max(rows.count(b"{"), rows.count(b"[")) <= MAX_DEPTH:
        return
    for number, line in enumerate(_STRING.sub(b"", rows).split(b"\n")):
        if line.count(b"{") + line.count(b"[") <= MAX_DEPTH:
            continue
        characters = np.frombuffer(line, np.uint8)
        steps = np.isin(characters, list(b"{[")).astype(int) - np.isin(characters, list(b"}]"))
        depth = int(steps.cumsum().max())
        if depth > MAX_DEPTH:
            raise DataError(
                f"line {number:,}: objects and lists are {depth:,} deep, and {MAX_DEPTH} is the"
                " limit. Write the numbers as keys of the outer object."
            )


def _refuse_by_columns(schema: pa.Schema) -> None:
    """Raise DataError for one object of columns, each an object with the same rows from 0."""
    rows = [
        [field.type.field(index).name for index in range(field.type.num_fields)]
        for field in schema
        if pa.types.is_struct(field.type)
    ]
    counted = [f"{number}" for number in range(len(rows[0]))] if rows else []
    if counted and len(rows) == len(schema) and all(names == counted for names in rows):
        raise DataError(
            "holds columns of rows, as pandas writes them by default, so it is one row with"
            f" {len(rows) * len(counted):,} values. Write it by rows: to_json(…, orient='records',"
            " lines=True)."
        )


def _leaves(fields: Iterable[pa.Field], above: Path) -> Iterator[tuple[Path, pa.DataType]]:
    """Yield path and type of each value that is not an object; integers and nulls are float64."""
    for field in fields:
        path, kind = (*above, field.name), field.type
        if pa.types.is_struct(kind) and kind.num_fields:
            yield from _leaves(kind, path)
        else:
            is_number = pa.types.is_integer(kind) or pa.types.is_null(kind)
            yield path, pa.float64() if is_number else kind


def _fields(types: Mapping[Path, pa.DataType]) -> list[pa.Field]:
    """Return the fields of an object that has values of these types at these paths."""
    inner: dict[str, dict[Path, pa.DataType]] = {}
    for (name, *rest), kind in types.items():
        inner.setdefault(name, {})[tuple(rest)] = kind
    return [
        pa.field(name, below[()] if () in below else pa.struct(_fields(below)))
        for name, below in inner.items()
    ]


def _column(table: pa.Table, path: Path) -> pa.ChunkedArray:
    """Return the values at `path`; null where an object on the way is missing."""
    column = table.column(path[0])
    return (
        pc.call_function("struct_field", [column], pc.StructFieldOptions(list(path[1:])))
        if path[1:]
        else column
    )


def lines_of_array(blocks: Iterable[bytes], *, whole: bool = True) -> Iterator[bytes]:
    """Yield the objects of a JSON array as lines; `whole`: the blocks are all of it.

    Memory holds one block and one object. Raises DataError for an array of something else, and for
    one that is damaged or cut off.
    """
    characters, decoder = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
    text, mark = "", "["
    for block in blocks:
        text += characters.decode(block)
        lines, position = list[str](), 0
        while (start := _SPACE.match(text, position).end()) < len(text):  # pyright: ignore
            position = start
            if text[start] == mark and mark in "[,":
                position, mark = start + 1, "{"
            elif text[start] != mark or mark == "]":
                break
            else:
                try:
                    _, position = decoder.raw_decode(text, start)
                except json.JSONDecodeError:
                    break
                except RecursionError:
                    raise DataError(
                        "objects and lists are too deep within each other: more than"
                        f" {MAX_DEPTH}. Write the numbers as keys of the outer object."
                    ) from None
                lines.append(_LINE_END.sub(" ", text[start:position]))
                mark = ","
        text = text[position:]
        if lines:
            yield ("\n".join(lines) + "\n").encode()
    if whole and text.strip() != "]":
        raise DataError(
            f"its array of objects is damaged or cut off at {shown(text.strip()[:40])!r}. Write an"
            " array of objects, or one object per line."
        )


def _infer(rows: bytes) -> tuple[pa.Schema, dict[Path, tuple[str, str]]]:
    """Return the columns of the first lines, and the keys that have values of several kinds.

    Those are texts in the schema. For each, the kinds and why it is refused.
    """
    try:
        return _read(rows, None, 0).schema, {}
    except DataError as error:
        if not has_changed(error):
            raise
        try:
            rows, mixed = with_one_kind(rows)
        except ValueError:
            raise error from None
    return _read(rows, None, 0).schema, mixed


def _read(rows: bytes, schema: pa.Schema | None, first_row: int) -> pa.Table:
    """Return the columns of whole lines: all of them, or those of `schema`."""
    try:
        return arrow_json.read_json(
            pa.py_buffer(rows),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(rows) + 1),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=schema,
                unexpected_field_behavior="infer" if schema is None else "ignore",
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"lines from {first_row:,}: {first_line(error)}. Write one JSON object per line, whose"
            " values have the same types in all lines."
        ) from None


def _refuse_rounded(rows: bytes, path: Path, values: np.ndarray) -> None:
    """Raise ColumnError for an integer that float64 rounds."""
    large = np.flatnonzero(np.abs(values) >= MAX_EXACT_INTEGER)
    if not len(large):
        return
    lines = (line for line in rows.splitlines() if line.strip())
    taken = islice(lines, int(large[-1]) + 1)
    wanted, name = set(large.tolist()), ".".join(path)
    for number, line in enumerate(taken):
        if number not in wanted:
            continue
        value = json.loads(line)
        for key in path:
            value = value.get(key)
        if isinstance(value, int) and is_rounded(value, float(values[number])):
            raise rounded_error(name, f"{value}", WITH_A_POINT)
