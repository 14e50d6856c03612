"""How the fields of a text file are written, found out from its first rows."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from streamtrain.base.words import plural
from streamtrain.errors import ConfigError, DataError, shown
from streamtrain.storage.write.text_marks import find_marks, is_number
from streamtrain.storage.write.text_signs import sign_of, without_sign
from streamtrain.types import Reading

#: Words that mean null in any table, lower case.
NULLS = frozenset(
    {
        *("", "na", "n/a", "#n/a", "#na", "#n/a n/a", "nan", "-nan", "null", "none", "nil"),
        *("<na>", "\\n", "nat", "?", "-", "--", ".", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    }
)
TRUTHS = frozenset({"true", "false"})

_DELIMITERS = (",", ";", "\t", "|", " ")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_RECORDS = 1000
#: The share of rows that must have the usual number of fields.
_REGULAR = 0.9

_REST = r"[^,;|\"]*(,\d+)?"  # a fraction, a zone; not the fields after a time
_DATE = re.compile(
    rf"\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}([ T]{_REST})?|\d{{1,2}}:\d{{2}}(:\d{{2}}{_REST})?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a file is written.

    Attributes:
        delimiter: One character; a space stands for any run of spaces and tabs.
        decimal: The decimal mark.
        thousands: The mark between groups of three digits; empty: none is known.
        names: Names of all fields of a row; an empty name is one that the file lacks.
        has_header: The first line has the names.
        skip_lines: Lines before the first row, with the header and a line of units.
        units: The words of a line of units between the header and the rows; empty: there is none.
        comment: What starts a comment line; empty: there are none.
        spaced: Fields have spaces around them.
        needs_target: Why a target must be named: the header may be a row.
        signs: For each name the sign that its numbers are written with, such as $ or %.
        dropped: Indices of fields that are not columns, each with the reason.
    """

    delimiter: str
    decimal: str
    thousands: str
    names: tuple[str, ...]
    has_header: bool
    skip_lines: int
    comment: str
    spaced: bool
    needs_target: str
    signs: tuple[str, ...]
    dropped: tuple[tuple[int, str], ...]
    units: tuple[str, ...] = ()

    def text(self, encoding: str) -> str:
        """Return what is unusual about the file, for the user; empty where nothing is."""
        parts = []
        if self.delimiter != ",":
            parts.append(f"fields by {_NAMES.get(self.delimiter, repr(self.delimiter))}")
        if self.decimal == ",":
            parts.append("decimal comma")
        if self.thousands:
            parts.append(f"thousands by {self.thousands!r}")
        if not self.has_header:
            parts.append(f"no header: c0 to c{len(self.names) - 1}")
        if self.units:
            more = ", …" if len(self.units) > 4 else ""
            parts.append(f"a line of units: {', '.join(map(shown, self.units[:4]))}{more}")
        signed = [f"{shown(name)} in {sign}"
                  for name, sign in zip(self.names, self.signs, strict=True) if sign]  # fmt: skip
        if signed:
            more = f" and {len(signed) - 3:,} more" if len(signed) > 3 else ""
            parts.append(", ".join(signed[:3]) + more)
        if self.comment:
            parts.append(f"comments after {self.comment}")
        if encoding not in ("utf-8", "utf-8-sig"):
            parts.append(encoding)
        return ", ".join(parts)


def find_dialect(path: str, text: str, reading: Reading) -> Dialect:
    """Return the dialect of a file that starts with `text`, which ends with a whole row.

    Raises DataError where it cannot be told, and ConfigError for an impossible option.
    """
    _check(reading)
    lines = re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+", text)
    comment = _comment(lines)

    def is_comment(line: str) -> bool:
        return bool(comment) and line.lstrip().startswith(comment)

    # Excel may write the delimiter as a line of its own.
    separator = re.fullmatch(r'"?sep=(.)"?\s*', lines[0]) if lines else None
    head = 1 if separator else 0
    last_comment = ""
    while head < len(lines) and (not lines[head].strip() or is_comment(lines[head])):
        last_comment = lines[head].strip() or last_comment
        head += 1
    body = "".join(line for line in lines[head:] if not is_comment(line))
    if not body.strip():
        raise DataError(f"{path}: no rows. Name a file that has some.")
    delimiter = reading.delimiter or (separator and separator[1]) or _find_delimiter(body)
    records = list(split_records(body, delimiter))
    if not records:
        raise DataError(f"{path}: no rows can be parsed. Correct the file.")
    width = Counter(map(len, records[1:] or records)).most_common(1)[0][0]
    head_names, needs_target = _header(path, records, width, reading)
    skip_lines = head + (0 if head_names is None else _lines_of_first(body, delimiter))
    if head_names is None and reading.header is None and last_comment:
        # NumPy writes the names as a comment
        names = next(split_records(last_comment.lstrip(comment + " "), delimiter), [])
        if len(names) == width and not any(map(is_value, names)):
            head_names = names
    has_header = head_names is not None
    rows = [row for row in records[1 if has_header and skip_lines > head else 0 :] if row]
    units = _units(rows) if has_header and skip_lines > head else ()
    if units:
        end = head + _lines_of_first(body, delimiter, records=2)
        if any(map(is_comment, lines[head:end])):
            units = ()  # `end` counts no comments, and is short of the line
        else:
            rows, skip_lines = rows[1:], end
    names, dropped = _names(path, head_names, width, rows)
    decimal, thousands = find_marks(path, names, rows, delimiter, reading)
    return Dialect(
        delimiter=delimiter,
        decimal=decimal,
        thousands=thousands,
        names=tuple(names),
        has_header=has_header,
        skip_lines=skip_lines,
        comment=comment,
        spaced=f"{delimiter} " in body or f" {delimiter}" in body,
        needs_target=needs_target,
        signs=tuple(
            sign_of(row[index] for row in rows if len(row) > index and not _is_null(row[index]))
            for index in range(len(names))
        ),
        dropped=tuple(dropped),
        units=units,
    )


def _comment(lines: Sequence[str]) -> str:
    """Return what starts the comment lines of a file; fields of most rows may start so too."""
    lines = [line for line in lines if line.strip()]
    for mark in ("#", "%"):
        starts = [line.lstrip().startswith(mark) for line in lines]
        if any(starts) and not all(starts) and (starts[0] or sum(starts) <= len(lines) / 2):
            return mark
    return ""


def _check(reading: Reading) -> None:
    if reading.delimiter is not None and (
        len(reading.delimiter) != 1 or reading.delimiter in '"\n\r'
    ):
        raise ConfigError(
            f"--delimiter {shown(reading.delimiter)!r}: give one character, or tab or space."
        )
    if reading.decimal not in (None, ".", ","):
        raise ConfigError(f"--decimal {shown(str(reading.decimal))!r}: give . or a comma.")
    if reading.delimiter is not None and reading.decimal == reading.delimiter:
        raise ConfigError("--decimal and --delimiter are the same character. Give two.")


def split_records(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the fields of the first rows of a text; runs of spaces separate like one."""
    if delimiter == " ":
        text = as_tabs(text.encode()).decode()
        delimiter = "\t"
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t"
    )
    try:
        for number, record in enumerate(reader):
            if number >= _RECORDS:
                return
            if record and (len(record) > 1 or record[0].strip()):
                yield record
    except csv.Error:
        return


def as_tabs(content: bytes) -> bytes:
    """Return rows with each run of spaces and tabs outside of quotation marks as one tab."""
    if b'"' in content:
        content = re.sub(
            rb'"[^"\r\n]*"|[ \t]+', lambda m: m[0] if m[0][:1] == b'"' else b"\t", content
        )
    else:
        content = re.sub(rb"[ \t]+", b"\t", content)
    return re.sub(rb"(?m)^\t|\t(?=\r?$)", b"", content)


def _find_delimiter(text: str) -> str:
    """Return the delimiter with which rows have equal numbers of fields, and most are values."""
    best, best_score = ",", (0.0, 0.0, 0)
    for delimiter in _DELIMITERS:
        records = list(split_records(text, delimiter))
        rows = records[1:] or records
        if not rows:
            continue
        width, count = Counter(map(len, rows)).most_common(1)[0]
        if width < 2 or count < _REGULAR * len(rows):
            continue
        fields = [field for row in rows for field in row]
        values = sum(is_value(field) for field in fields) / len(fields)
        # A header of another length is a weak sign against a delimiter.
        fits = len(records[0]) in (width, width - 1)
        score = (round(values + 0.1 * fits, 2), count / len(rows), -_DELIMITERS.index(delimiter))
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _is_null(field: str) -> bool:
    return field.strip().lower() in NULLS


def is_value(field: str) -> bool:
    """Return whether a field is what a row has and a header has not."""
    field = field.strip()
    return bool(
        is_number(field)
        or field.lower() in NULLS
        or field.lower() in TRUTHS
        or _DATE.fullmatch(field)
        or without_sign(field)[1]
    )


def _header(
    path: str, records: Sequence[Sequence[str]], width: int, reading: Reading
) -> tuple[list[str] | None, str]:
    """Return the names of the first line, or None where it is a row; and the doubt about it."""
    first, rows = [field.strip() for field in records[0]], records[1:]
    if reading.header is False:
        return None, ""
    if len(first) not in (width, width - 1) or (len(first) < width and any(map(is_value, first))):
        if rows and re.search(r"[\r\n]", rows[-1][-1]):
            raise DataError(
                f"{path}: row {len(rows) - 1:,} has a quotation mark that the file never closes:"
                f" {shown(rows[-1][-1][:40])}. Correct it."
            )
        raise _first_line_error(path, first, width, rows)
    if reading.header:
        return first, ""
    named = [field for field in first if field]
    # a title, which Excel pads with empty fields
    if len(named) == 1 and width > 2 and any(map(all, rows)):
        raise _first_line_error(path, named, width, rows)
    as_row, as_names, nulls = [], [], []
    for index, field in enumerate(first):
        below = [row[index].strip() for row in rows if len(row) > index]
        filled = [other for other in below if other and other.lower() not in NULLS]
        values = sum(is_value(other) for other in filled)
        if not field or (filled and values < len(filled) / 2):
            continue  # text below text, or no name at all, says nothing
        if field.lower() in NULLS:
            nulls.append(field)  # a column may be named NA, like the sodium of a glass
        elif is_value(field):
            as_row.append(field)
        elif filled or not rows:
            as_names.append(field)
    if not as_row and (as_names or not nulls):
        return first, ""
    years = [int(field) for field in as_row if re.fullmatch(r"[12]\d{3}", field)]
    steps = {b - a for a, b in pairwise(years)}
    is_years = len(years) == len(as_row) > 1 and len(steps) == 1 and steps != {0}
    if not as_names and not is_years and not _heads_an_index(first, rows):
        return None, ""
    listed = ", ".join(map(shown, first[:4])) + (", …" if len(first) > 4 else "")
    return first, (
        f"{path}: its first line has numbers as column names: {listed}. If it is a row, give"
        " --no-header; if these are names, give --header."
    )


def _heads_an_index(first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line may be names although they are numbers.

    Its first field alone is empty, the first fields of the rows differ, and so do the numbers: that
    is how pandas writes a pivot table, and R a matrix with an index.
    """
    index, names = [row[0].strip() for row in rows if row], first[1:]
    if first[0] or len(index) < 2 or len(names) < 2:
        return False
    return all(map(all, (names, index))) and all(
        len(set(fields)) == len(fields) for fields in (names, index)
    )


def _first_line_error(
    path: str, first: Sequence[str], width: int, rows: Sequence[Sequence[str]]
) -> DataError:
    """Return the error for a first line that is no header; it names a later one that may be."""
    above = "lines above the table"
    full = next((row for row in rows if len(row) == width and all(map(str.strip, row))), [])
    if full and not any(map(is_value, full)):
        above = f"the lines above {shown(','.join(full)[:40])!r}"
    return DataError(
        f"{path}: its first line, {shown(','.join(first)[:40])!r}, has"
        f" {plural(len(first), 'field')}, and rows have {width}. Remove {above}, or start them"
        " with #, and name every field."
    )


def _units(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the units that the line below the header has; empty where it is an ordinary row.

    It is units if it has at least two words above columns of numbers and no number there, and none
    of the words occurs again in its column.
    """
    if len(rows) < 4:
        return ()
    words = []
    for index, field in enumerate(field.strip() for field in rows[0]):
        below = [row[index].strip() for row in rows[1:] if len(row) > index]
        filled = [other for other in below if not _is_null(other)]
        if not filled or sum(map(is_value, filled)) < len(filled) / 2:
            continue  # text
        if is_value(field) or field in below:
            return ()
        words += [field] * bool(field)
    return tuple(words) if len(words) > 1 else ()


def _lines_of_first(body: str, delimiter: str, records: int = 1) -> int:
    """Return the number of lines of the first `records`, whose fields may contain line ends."""
    if delimiter == " ":
        delimiter = "\t"
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter)
    for record in reader:
        records -= bool(record)
        if not records:
            break
    return reader.line_num


def _names(
    path: str, head: Sequence[str] | None, width: int, rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[tuple[int, str]]]:
    """Return a name for each field, and the fields that are not columns with the reason.

    Raises DataError where rows have one field more than the header, and it is not the name of a
    row.
    """
    columns = [[row[index].strip() for row in rows if len(row) > index] for index in range(width)]
    empty = [index for index in range(width) if rows and width > 1 and not any(columns[index])]
    if head is None:
        names = [f"c{index}" for index in range(width)]
        return names, [(index, "empty") for index in empty if index == width - 1]
    names = [name.strip() for name in head]
    if len(names) == width - 1:
        # a delimiter at the end of rows, or R's names of rows before them
        if width - 1 not in empty and not _names_rows(columns[0]):
            raise _first_line_error(path, head, width, rows)
        names = [*names, ""] if width - 1 in empty else ["", *names]
    dropped = [(index, "empty") for index in empty if not names[index]]
    counts = names[0] == "Unnamed: 0" and all(field.isdecimal() for field in columns[0])
    if width > 2 and (counts or not names[0]) and 0 not in empty:
        dropped.append((0, "index"))
    return names, dropped


def _names_rows(fields: Sequence[str]) -> bool:
    """Return whether a first column counts rows from 0 or 1, or has names of rows."""
    if not all(field.isdecimal() for field in fields):
        return not any(map(is_number, fields))
    numbers = [int(field) for field in fields]
    return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
