"""Text tables: what is read is what was written, or one clear refusal."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.errors import ConfigError, DataError
from streamtrain.storage.write import text_source
from streamtrain.storage.write.table_type import Table
from streamtrain.storage.write.tables import open_tables
from streamtrain.types import Reading, Storage

NAN = float("nan")


def opened(path: Path, content: str | bytes, **options) -> tuple[Table, list[str]]:
    """The table of a file with this content, and what it warns of when it is opened."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (table,) = open_tables(str(path), Storage(reading=Reading(**options)))
    return table, [str(warning.message) for warning in caught]


def columns(table: Table) -> dict[str, list[float]]:
    """The values of all columns that are numbers, and the warnings under the name `warnings`."""
    names = [column.name for column in table.columns if column.decoded_type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pieces = list(table.pieces(names, "float64"))
    values = {
        name: np.concatenate([piece[index] for piece in pieces]).tolist()
        for index, name in enumerate(names)
    }
    return values | {"warnings": [str(warning.message) for warning in caught]}


def read(tmp_path: Path, content: str | bytes, name: str = "t.csv", **options) -> list[list[float]]:
    """The rows of a file, whose warnings do not matter here."""
    table, _ = opened(tmp_path / name, content, **options)
    values = columns(table)
    del values["warnings"]
    return np.array(list(values.values())).T.tolist()


def same(one: list[list[float]], other: list[list[float]]) -> bool:
    return np.array_equal(np.array(one), np.array(other), equal_nan=True)


def _lz4(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    ".lz4": lambda content: _lz4(content),
}
NUMBERS = st.one_of(
    st.integers(-9999, 9999),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1000, 1000).map(lambda value: round(value, 2)),
)


@given(
    rows=st.lists(st.lists(st.none() | NUMBERS, min_size=3, max_size=3), min_size=2, max_size=20),
    delimiter=st.sampled_from([",", ";", "\t", "|", " "]),
    decimal=st.sampled_from([".", ","]),
    header=st.booleans(),
    null=st.sampled_from(["", "NA", "?", "-", "N/A", "nan", "NULL"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(ENCODINGS),
    compression=st.sampled_from(sorted(COMPRESS)),
    line_end=st.sampled_from(["\n", "\r\n"]),
    word=st.sampled_from([None, "Zürich", 'a "quoted", word', "two\nlines"]),
)
def test_what_is_read_is_what_was_written_or_refused(
    tmp_path_factory,
    rows,
    delimiter,
    decimal,
    header,
    null,
    quoting,
    encoding,
    compression,
    line_end,
    word,
):
    """Given the options that cannot be told from the rows: those are refused or read exactly."""
    if delimiter == " " and (null == "" or word):
        null, word = "NA", None
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    words = [word] if word else []
    if header:
        writer.writerow([*["name"][: len(words)], "größe", "b", "y"])
    for row in rows:
        fields = [null if value is None else repr(value).replace(".", decimal) for value in row]
        writer.writerow([*words, *fields])
    content = COMPRESS[compression](text.getvalue().encode(encoding))
    path = tmp_path_factory.mktemp("law") / f"t.csv{compression}"
    try:
        table, said = opened(path, content)
        values = columns(table)
    except DataError as error:
        assert str(error).startswith(str(path))
        assert len(str(error).splitlines()) == 1
        return
    del values["warnings"]
    expected = [[NAN if value is None else float(value) for value in row] for row in rows]
    read_rows = np.array(list(values.values())).T
    if values and read_rows.shape == (len(rows), 3):
        assert np.array_equal(read_rows, np.array(expected), equal_nan=True), text.getvalue()
    else:  # what is not read as numbers is a column that is named
        left_out = [column.name for column in table.columns if column.decoded_type is None]
        assert left_out or any("left out" in text for text in said), text.getvalue()


@given(
    rows=st.lists(
        st.tuples(
            st.integers(-9999, 9999), st.floats(-1e6, 1e6).map(lambda value: round(value, 2))
        ),
        min_size=4,
        max_size=30,
    ),
    holes=st.sets(st.integers(0, 29), max_size=2),
    delimiter=st.sampled_from([",", ";", "\t", "|", " "]),
    decimal=st.sampled_from([".", ","]),
    header=st.booleans(),
    null=st.sampled_from(["", "NA", "?", "-", "N/A", "n.d."]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(ENCODINGS),
    word=st.sampled_from(
        ["Zürich", 'a "quoted", word', "two\nlines", "", "12 Main St", "2020-01-02"]
    ),
)
def test_an_ordinary_table_is_never_refused(
    tmp_path_factory, rows, holes, delimiter, decimal, header, null, quoting, encoding, word
):
    """One whose second column has a decimal mark in its first row, and whose values differ."""
    if delimiter == " ":
        word, null = "x", null or "NA"
    rows = [(7, 0.5), (-3, 12.25), *rows]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting)
    if header:
        writer.writerow(["größe", "name", "b", "y"])
    expected = []
    for index, (whole, real) in enumerate(rows):
        hole = index > 3 and index in holes
        field = null if hole else f"{real:.2f}".replace(".", decimal)
        writer.writerow([whole, word, field, index % 7])
        expected.append([whole, NAN if hole else float(f"{real:.2f}"), index % 7])
    path = tmp_path_factory.mktemp("law") / "t.csv"
    table, _ = opened(path, text.getvalue().encode(encoding))
    values = columns(table)
    names = ["größe", "b", "y"] if header else ["c0", "c2", "c3"]
    found = np.array([values[name] for name in names]).T
    assert np.array_equal(found, np.array(expected), equal_nan=True), text.getvalue()


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("M,0.455,0.365,15\nF,0.35,0.265,7\n", [[0.455, 0.365, 15], [0.35, 0.265, 7]]),
        ("1,,3\n2,5,4\n", [[1, NAN, 3], [2, 5, 4]]),
        ("1,NA,3\n2,5,4\n", [[1, NAN, 3], [2, 5, 4]]),
        ("2020-01-01,1.5\n2020-01-02,2.5\n", [[1.5], [2.5]]),
        ("true,1,2\nfalse,3,4\n", [[1, 1, 2], [0, 3, 4]]),
        ("$1,2,3\n$4,5,6\n", [[1, 2, 3], [4, 5, 6]]),
        ("18.0   8   307.0\n  15.0 8 350.0  \n", [[18, 8, 307], [15, 8, 350]]),
        ("1.5 2\n", [[1.5, 2]]),
    ],
    ids=str,
)
def test_a_first_line_that_is_a_row_is_read_as_one(tmp_path, content, rows):
    assert same(read(tmp_path, content), rows)


@pytest.mark.parametrize(
    "content",
    [
        "a,b,y\n1,2,3\n",
        "RI,Na,Mg\n1,2,3\n",
        "# a,b,y\n1,2,3\n",
        "# made by a sensor\n# in 2020\na,b,y\n1,2,3\n# a break\n",
        "% a\na b y\n1 2 3\n",
        "a, b, y\n1, 2, 3\n",
        'a, "b, and more", y\n1, "2", 3\n',
        "\n\na;b;y\n1;2;3\n",
        "a\tb\ty\r\n1\t2\t3\r\n",
        "a,b,y\r1,2,3\r",
        "a,b,y\n1,2,3",
        "sep=;\r\na;b;y\r\n1;2;3\r\n",
    ],
    ids=repr,
)
def test_a_first_line_of_names_is_no_row(tmp_path, content):
    assert read(tmp_path, content) == [[1, 2, 3]]


def test_names_are_known_by_their_header_or_numbered(tmp_path):
    table, _ = opened(tmp_path / "t.csv", "# x y\n1 2\n3 4\n")
    assert [column.name for column in table.columns] == ["x", "y"]
    table, _ = opened(tmp_path / "t.csv", "1;2,5\n3;4\n")
    assert [column.name for column in table.columns] == ["c0", "c1"]
    assert table.found == "fields by semicolons, decimal comma, no header: c0 to c1"
    table, _ = opened(tmp_path / "t.csv", "a,b\n3,4\n", header=False)
    assert [column.name for column in table.columns] == ["c0", "c1"]


def test_years_for_names_are_told_from_rows_by_the_user_only(tmp_path):
    content = "2019,2020,2021\n1,2,3\n"
    table, _ = opened(tmp_path / "t.csv", content)
    assert "give --no-header; if these are names, give --header" in table.needs_target
    assert not opened(tmp_path / "t.csv", content, header=True)[0].needs_target
    assert read(tmp_path, content, header=True) == [[1, 2, 3]]
    assert read(tmp_path, content, header=False) == [[2019, 2020, 2021], [1, 2, 3]]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a;y\n1,5;2\n3;4\n", [[1.5, 2], [3, 4]]),
        ("a;y\n1.234,5;2\n1.234.567;4\n", [[1234.5, 2], [1234567, 4]]),
        ('a,y\n"1,234",2.5\n"1,234,567.5",4\n', [[1234, 2.5], [1234567.5, 4]]),
        ('a,y\n"1,5",2\n"0,25",4\n', [[1.5, 2], [0.25, 4]]),
        ("a;y\n1 234,5;2\n12 345 678;4\n", [[1234.5, 2], [12345678, 4]]),
        ("a,y\n1'234.5,2\n+3,4\n", [[1234.5, 2], [3, 4]]),
        ('id,tags,y\n1,"3,7",2.5\n', [[1, 2.5]]),
        ("a;y\n1,5e3;-2\n,5;+4\n", [[1500, -2], [0.5, 4]]),
    ],
    ids=repr,
)
def test_marks_in_numbers_are_found_out(tmp_path, content, rows):
    assert read(tmp_path, content) == rows


@pytest.mark.parametrize(
    ("content", "options", "rows"),
    [
        ("a,y\n\u22121.5,2\n3,\u2212.25\n\u221270,6\n", {}, [[-1.5, 2], [3, -0.25], [-70, 6]]),
        ("a;y\n\u22121,5;2\n \u22123;4\n", {}, [[-1.5, 2], [-3, 4]]),
        ('a,y\n"\u22121",2\n"\u22123",4\n', {}, [[-1, 2], [-3, 4]]),
        ("a,y\n\u2212$1,2\n\u2212$3,4\n", {}, [[-1, 2], [-3, 4]]),
        ("a y\n\u22121 2\n\u22123  \u22124\n", {}, [[-1, 2], [-3, -4]]),
        ("\u22121,2\n3,4\n", {}, [[-1, 2], [3, 4]]),
        ("a,y\n\u221299,2\n3,4\n", {"na_values": ("\u221299",)}, [[NAN, 2], [3, 4]]),
    ],
)
def test_a_minus_of_unicode_is_a_minus(tmp_path, content, options, rows):
    assert same(read(tmp_path, content, **options), rows)


def test_a_comma_that_may_be_either_is_refused_and_settled_by_an_option(tmp_path):
    content = "a;y\n1,234;2\n5,678;4\n"
    with pytest.raises(DataError, match="1,234 in row 0 may have a decimal or a thousands"):
        read(tmp_path, content)
    assert read(tmp_path, content, decimal=",") == [[1.234, 2], [5.678, 4]]
    assert read(tmp_path, content, decimal=".") == [[1234, 2], [5678, 4]]


def test_words_in_numbers_are_nulls_and_are_counted(tmp_path):
    table, _ = opened(tmp_path / "t.csv", "a,y\n1,2\n?,4\n5,n.d.\n6,7\n?,3\n")
    values = columns(table)
    assert same([values["a"], values["y"]], [[1, NAN, 5, 6, NAN], [2, 4, NAN, 7, 3]])
    assert [text.partition(": ")[2] for text in values["warnings"]] == [
        "column 'a': '?' read as null in 2 rows, first in row 1.",
        "column 'y': 'n.d.' read as null in 1 row, first in row 2.",
    ]


def test_a_word_of_the_user_is_null_without_a_warning(tmp_path):
    table, _ = opened(tmp_path / "t.csv", "a,y\n1,2\n99x,4\n", na_values=("99x",))
    values = columns(table)
    assert same([values["a"]], [[1, NAN]])
    assert not values["warnings"]


@pytest.mark.parametrize("decimal", [".", ","])
def test_a_number_of_the_user_is_null_however_it_is_written(tmp_path, decimal):
    content = "a;y\n1.5;2\n9831.3;4\n9831.30;5\n9831.31;6\n".replace(".", decimal)
    table, _ = opened(tmp_path / "t.csv", content, na_values=("9831.3",))
    values = columns(table)
    assert same([values["a"]], [[1.5, NAN, NAN, 9831.31]])
    assert not values["warnings"]


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ("12b,1", "column 'a': '12b' in row 40 is not a number"),
        ("12345678901234567,1", "column 'a': the integer 12345678901234567 is beyond"),
        ("1e999,1", "column 'a': 1e999 is beyond float64"),
        ("1,2,3", "1 row does not have 2 fields: row 40 has 3 fields"),
        ("1,2,3\n" * 5, r"\d rows do not have 2 fields: .*row 41 .*row 42 .*, and \d more"),
    ],
)
def test_a_wrong_value_after_the_first_rows_is_named(tmp_path, monkeypatch, last, words):
    """Blocks of 32 bytes, and the types are found out from the first 64."""
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 32)
    monkeypatch.setattr("streamtrain.storage.write.text_table._SAMPLE_BYTES", 64)
    table, _ = opened(tmp_path / "t.csv", "a,y\n" + "1,2\n" * 40 + last)
    with pytest.raises(DataError, match=words) as caught:
        columns(table)
    assert str(caught.value).startswith(str(tmp_path / "t.csv"))


def test_many_words_after_the_first_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("streamtrain.storage.write.text_table._SAMPLE_BYTES", 64)
    table, _ = opened(tmp_path / "t.csv", "a,y\n" + "1,2\n" * 40 + "x,2\n" * 41)
    with pytest.raises(DataError, match="'x' in row 40 is not a number"):
        columns(table)
    words = "".join(f"{word},2\n" for word in "uvwxyz")
    table, _ = opened(tmp_path / "t.csv", "a,y\n" + "1,2\n" * 40 + words)
    with pytest.raises(DataError, match="'z' in row 45 is not a number"):
        columns(table)


@given(st.integers(1, 60), st.integers(0, 3))
def test_rows_do_not_depend_on_where_blocks_end(tmp_path_factory, size, quoted):
    rows = [[index, index / 8] for index in range(40)]
    text = "name,a,y\n" + "".join(
        f'{chr(34)}a "" \n{index},b{chr(34)},{index},{y}\n'
        if index % 4 < quoted
        else f"x,{index},{y}\n"
        for index, y in rows
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "CHUNK_BYTES", size)
        assert read(tmp_path_factory.mktemp("blocks"), text) == rows


def test_columns_that_are_no_data_are_left_out_with_a_warning(tmp_path):
    """The index that pandas writes, the names of rows that R writes, and a trailing comma."""
    for content in (
        ",a,y\n0,1,2\n1,3,4\n",
        ",a,y\n17,1,2\n5,3,4\n",
        "Unnamed: 0,a,y\n17,1,2\n5,3,4\n",
        "a y\nr1 1 2\nr2 3 4\n",
        '"a","y"\n"1",1,2\n"2",3,4\n',
    ):
        table, said = opened(tmp_path / "t.csv", content)
        assert same([columns(table)["a"], columns(table)["y"]], [[1, 3], [2, 4]])
        assert [text.partition(": ")[2][:30] for text in said] == ["its first column has no name: "]
    for content in ("a,y,\n1,2,\n3,4,\n", "a,y\n1,2,\n3,4,\n", "a,y,,\n1,2,,\n3,4,,\n"):
        table, said = opened(tmp_path / "t.csv", content)
        assert [column.name for column in table.columns] == ["a", "y"]
        assert columns(table)["y"] == [2, 4]
        assert "field 3 of each row has no name and no value: left out" in said[0]


def test_a_value_in_a_column_that_was_taken_for_empty_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("streamtrain.storage.write.text_table._SAMPLE_BYTES", 64)
    table, _ = opened(tmp_path / "t.csv", "a,y,\n" + "1,2,\n" * 40 + "1,2,3\n")
    with pytest.raises(DataError, match="field 3 has no name, and a value in row 40"):
        columns(table)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%PDF-1.7\n", "is a PDF document, not a table as text. Save it as CSV"),
        (b"Salted__" + bytes(range(256)), "is encrypted with OpenSSL"),
        (bytes(range(256)) * 9, "is not text"),
        (gzip.compress(b"a,y\n" + b"1,2\n" * 99, mtime=0)[:-9], "damaged or cut off"),
        (
            b"569,30,m\n1,2,3,4\n5,6,7,8\n9,1,2,3\n1,1,1,1\n",
            "has 3 fields, and rows have 4. Remove lines above the table",
        ),
        (
            b"Export;;;\n;;;\nday;a;b;y\nmon;1;2;3\ntue;3;4;5\n",
            "'Export', has 1 field, and rows have 4. Remove the lines above 'day,a,b,y', or start",
        ),
        (b"", "no rows"),
        (b'a,t,y\n1,"x,2\n3,z,4\n5,z,6\n', "row 0 has a quotation mark that .* never closes: x,2"),
        (b"1," * 600_000, "its first row has more than 1,048,576 bytes"),
        (b'"', "no rows"),
        (b"a,y\n1,2\n\xff,3\n", None),
    ],
)
def test_what_is_no_table_is_named_as_what_it_is(tmp_path, content, words):
    if words is None:  # a letter of another encoding is no reason
        assert len(read(tmp_path, content)) == 2
        return
    with pytest.raises(DataError, match=words):
        read(tmp_path, content)


def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path, monkeypatch):
    """Whatever is left of its last row, and so that no import of it is kept."""
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 32)
    path = tmp_path / "t.csv"
    table, _ = opened(path, "a,y\n" + "1,2\n" * 40)
    pieces = table.pieces(["a", "y"], "float64")
    next(pieces)
    with open(path, "a") as file:
        file.write("3,4\n5,6")
    with pytest.raises(DataError, match=r"t\.csv: was changed while it was read"):
        list(pieces)


def test_archives_of_one_table_are_read_and_others_named(tmp_path):
    def archive(*names: str) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
            for name in names:
                members.writestr(name, "a,y\n1,2\n")
        return file.getvalue()

    assert read(tmp_path, archive("t.csv"), "t.csv.zip") == [[1, 2]]
    assert read(tmp_path, archive("__MACOSX/t.csv", "t.csv"), "t.csv") == [[1, 2]]
    with pytest.raises(DataError, match=r"holds 2 files \(a.csv, b.csv\). Unpack it"):
        read(tmp_path, archive("a.csv", "b.csv"), "t.zip.csv")
    with pytest.raises(DataError, match="is an Excel workbook"):
        read(tmp_path, archive("xl/workbook.xml", "b"), "t.csv")
    locked = bytearray(archive("t.csv"))
    for start in (b"PK\x03\x04", b"PK\x01\x02"):
        place = locked.index(start) + (6 if start.endswith(b"\x04") else 8)
        locked[place] |= 1
    with pytest.raises(DataError, match="encrypted with a password"):
        read(tmp_path, bytes(locked), "t.csv.zip")


@pytest.mark.parametrize(
    ("method", "version", "words"),
    [
        (9, 21, r"is compressed with Deflate64 \(zip method 9\), which is not read here"),
        (77, 20, r"is compressed with zip method 77, which is not read here"),
        (8, 99, r"is a zip archive of a kind that is not read here \(zip file version 9.9\)"),
    ],
)
def test_a_zip_archive_of_an_unknown_method_is_not_called_damaged(tmp_path, method, version, words):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("t.csv", "a,y\n1,2\n")
    content = bytearray(file.getvalue())
    # the fields "version needed" and "method" of both headers
    for start, field in ((b"PK\x03\x04", 4), (b"PK\x01\x02", 6)):
        place = content.index(start) + field
        content[place : place + 2] = version.to_bytes(2, "little")
        content[place + 4 : place + 6] = method.to_bytes(2, "little")
    with pytest.raises(DataError, match=words + r".*\. Unpack it and name the file in it") as found:
        read(tmp_path, bytes(content), "t.csv.zip")
    assert "damaged" not in str(found.value)


@pytest.mark.parametrize(
    "option",
    [{"encoding": "klingon"}, {"delimiter": "\n"}, {"delimiter": ",", "decimal": ","}],
    ids=str,
)
def test_an_impossible_option_is_refused(tmp_path, option):
    with pytest.raises(ConfigError, match=r"--(encoding|delimiter|decimal)"):
        read(tmp_path, "a,y\n1,2\n", **option)


def test_options_win_over_what_is_found_out(tmp_path):
    assert read(tmp_path, "a:y\n1:2\n", delimiter=":") == [[1, 2]]
    content = codecs.encode("größe,y\n1,2\n", "latin-1")
    table, _ = opened(tmp_path / "t.csv", content, encoding="cp1252")
    assert table.columns[0].name == "größe"


def test_a_time_of_two_words_is_one_field_of_several(tmp_path):
    """The fields after such a time are none of it: spaces would separate it from its date."""
    lines = ["time,lat,kind,place,mag"]
    for number in range(40):
        place = '"Banda Sea, 5 km NE"' if number % 19 else "Banda Sea"
        lines.append(f"2024-04-01 10:26:{number:02d}.337,-5.5,Light,{place},{number}")
    expected = [[-5.5, number] for number in range(40)]
    assert read(tmp_path, "\n".join(lines) + "\n") == expected


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix])
def test_a_compressed_table_is_read_to_its_end_or_refused(tmp_path, suffix):
    """Several streams in one file, as parallel compressors write them; and one that is cut off."""
    values = np.random.default_rng(0).normal(size=(4000, 2))
    rows = "".join(f"{a},{b}\n" for a, b in values).encode()
    content = b"a,y\n" + rows
    half = len(content) // 2
    both = COMPRESS[suffix](content[:half]) + COMPRESS[suffix](content[half:])
    np.testing.assert_array_equal(read(tmp_path, both, f"t.csv{suffix}"), values)
    whole = COMPRESS[suffix](content)
    for size in (len(whole) // 2, len(whole) - 1):
        with pytest.raises(
            DataError, match=rf"cut\.csv{suffix}.*(cut off|Truncated|cannot be read)"
        ):
            read(tmp_path, whole[:size], f"cut.csv{suffix}")


def test_a_table_without_rights_is_refused_in_one_line(tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "t.csv")

    monkeypatch.setattr("streamtrain.storage.write.text_table.read_sample", refuse)
    said = r"t\.csv: cannot be read: Permission denied\. Check the path and its permissions\.$"
    with pytest.raises(DataError, match=said):
        read(tmp_path, b"a,y\n1,2\n", "t.csv")


@pytest.mark.parametrize(
    ("texts", "refusal"),
    [
        (["31.01.2024", "", "1.2.24", "sum"], "write its dates as 2024-05-31, not as 31.01.2024"),
        (["05/31/24 06:30", "06/01/24 07:00"], "2024-05-31, not as 05/31/24 06:30, for"),
        (["10.10.10.10", "10.0.0.1"], "only numbers can be decoded"),
        (["mon 1/2/2024", "3/4/2024", "tue"], "only numbers can be decoded"),
    ],
    ids=["days first", "months first", "addresses", "few"],
)
def test_dates_that_are_not_read_are_left_out_with_how_to_write_them(tmp_path, texts, refusal):
    rows = "".join(f"{text};{i};{i}\n" for i, text in enumerate(texts))
    table, _ = opened(tmp_path / "t.csv", f"day;a;y\n{rows}", datetime="parts")
    assert refusal in table.columns[0].refusal
    assert table.columns[0].decoded_type is None


@pytest.mark.parametrize("suffix", [".bz2", ".xz"])
def test_a_later_member_that_is_damaged_is_no_end(tmp_path, suffix):
    first, second = (COMPRESS[suffix](rows) for rows in (b"a,y\n1,2\n3,4\n", b"5,6\n7,8\n"))
    name = f"t.csv{suffix}"
    rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    for padding in (b"", bytes(4), bytes(2 << 20)):
        assert read(tmp_path, first + padding + second + padding, name) == rows
    for damaged in (b"\x01" + second[1:], second[:-1], b"garbage"):
        with pytest.raises(DataError, match=f"damaged or cut off .* Copy {name} again"):
            read(tmp_path, first + damaged, name)


@pytest.mark.parametrize(
    "head", [",2019,2020,2022", '"","142.24","144.78","147.32"', "\t0\t1\t2"], ids=["p", "R", "t"]
)
def test_numbers_above_an_index_without_a_name_may_be_names(tmp_path, head):
    """Pandas writes the columns of a pivot table so, and R those of a matrix."""
    mark = "\t" if "\t" in head else ","
    content = f"{head}\n9.4,0,1,2\n9.5,3,4,5\n9.6,0,7,8\n".replace(",", mark)
    table, _ = opened(tmp_path / "t.csv", content)
    assert "numbers as column names" in table.needs_target
    table, _ = opened(tmp_path / "t.csv", content, header=True)
    values = columns(table)
    assert values[table.columns[-1].name] == [2, 5, 8]
    assert "9.4" not in values
    assert read(tmp_path, content, header=False)[1] == [9.4, 0, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(",5\n0,1\n1,2\n2,3\n", id="one column beside the index"),
        pytest.param(",1,2\n3,4,5\n", id="one row"),
        pytest.param(",7,7\n3,4,5\n4,5,6\n", id="equal numbers"),
        pytest.param(",1,2\n3,4,5\n3,5,6\n", id="an index that repeats itself"),
        pytest.param(",1,,3\n3,4,5,6\n4,5,6,7\n", id="a number is missing"),
        pytest.param(",1,2\n3,4,5\n,5,6\n", id="a place of the index is empty"),
    ],
)
def test_other_numbers_above_numbers_are_a_row(tmp_path, content):
    table, _ = opened(tmp_path / "t.csv", content)
    assert table.needs_target == ""
    assert "no header" in table.found


@pytest.mark.parametrize(
    ("content", "names"),
    [(",y\n0,1\n1,2\n2,4\n", ["y"]), ("a,,\n1,,\n2,,\n4,,\n", ["a"])],
    ids=["an index and one column", "no row is full"],
)
def test_a_header_of_one_name_may_be_no_title(tmp_path, content, names):
    table, _ = opened(tmp_path / "t.csv", content)
    assert [name for name in columns(table) if name in ("a", "y")] == names


def test_a_line_of_units_is_no_row(tmp_path):
    rows = "".join(f"{i},{i}.5,{i % 3},x{i}\n" for i in range(9))
    content = "time,temp,flow,name\ns,°C,m3/h,\n" + rows
    table, said = opened(tmp_path / "t.csv", content)
    assert "a line of units: s, °C, m3/h" in table.found
    assert (columns(table)["flow"], said) == ([i % 3 for i in range(9)], [])
    # a row that lacks numbers, by a word that others have too, or of one column only, is a row
    for first in ("na?,na?,na?,x", "1,°C,2,x"):
        last = first.replace("°C", "7")
        table, _ = opened(tmp_path / "u.csv", f"time,temp,flow,name\n{first}\n{rows}{last}\n")
        assert "units" not in table.found
    # comments may stand above the header and among the rows
    for commented in (f"# a\n{content}", content.replace("2,2.5", "# a\n2,2.5")):
        table, said = opened(tmp_path / "c.csv", commented)
        assert (columns(table)["flow"], said) == ([i % 3 for i in range(9)], [])
    for other in (content.replace("s,°C", "# a\ns,°C"), content.replace("s,°C,m3/h", ",°C,")):
        table, _ = opened(tmp_path / "o.csv", other)
        assert "units" not in table.found
    # three rows are too few to tell
    few = "time,temp,flow,name\ns,°C,m3/h,\n" + "".join(rows.splitlines(keepends=True)[:2])
    table, _ = opened(tmp_path / "v.csv", few)
    assert "units" not in table.found


def test_a_title_above_the_table_is_refused_with_what_to_do(tmp_path):
    rows = "".join(f"{i},{i}.5,{i % 3}\n" for i in range(9))
    content = f"Report 2024,,\na,b,y\n{rows}"
    with pytest.raises(DataError, match=r"'Report 2024', has 1 field, .*start them with #"):
        opened(tmp_path / "t.csv", content)
    assert read(tmp_path, f"#{content}")[0] == [0, 0.5, 0]
