"""JSON lines: what is read is what was written, or one clear refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.storage.write import json_table, text_source
from streamtrain.storage.write.tables import open_tables

VALUES = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


def read(path: Path) -> dict[str, np.ndarray]:
    (table,) = open_tables(str(path))
    names = [column.name for column in table.columns if column.decoded_type]
    pieces = list(table.pieces(names, "float64"))
    return {name: np.concatenate([p[i] for p in pieces]) for i, name in enumerate(names)}


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20), st.integers(10, 200))
def test_what_is_read_is_what_was_written(tmp_path_factory, rows, size):
    path = tmp_path_factory.mktemp("law") / "t.jsonl"
    path.write_text("".join(json.dumps({"a": a, "name": "x", "y": y}) + "\n" for a, y in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "CHUNK_BYTES", size)
        values = read(path)
    expected = np.array(rows, dtype=float)
    np.testing.assert_array_equal(values["a"], expected[:, 0])
    np.testing.assert_array_equal(values["y"], expected[:, 1])
    assert list(values) == ["a", "y"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": 12345678901234567, "y": 1.5}', "the integer 12345678901234567 is beyond"),
        ("[1, 2]", "Write one JSON object per line"),
        ('{"a": 1', "Write one JSON object per line"),
    ],
)
def test_a_wrong_line_is_one_error(tmp_path, line, words):
    path = tmp_path / "t.ndjson"
    path.write_text('{"a": 1, "y": 2.5}\n' + line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20),
    st.integers(10, 200),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_an_array_is_read_as_its_lines(tmp_path_factory, rows, size, indent, crlf):
    path = tmp_path_factory.mktemp("law") / "t.json"
    objects = [{"a": a, "name": '},{"é[', "y": y} for a, y in rows]
    text = json.dumps(objects, indent=indent, ensure_ascii=False)
    path.write_bytes(text.replace("\n", "\r\n" if crlf else "\n").encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "CHUNK_BYTES", size)
        values = read(path)
    expected = np.array(rows, dtype=float)
    np.testing.assert_array_equal(values["a"], expected[:, 0])
    np.testing.assert_array_equal(values["y"], expected[:, 1])


def test_lines_are_read_from_a_file_named_json(tmp_path):
    (tmp_path / "t.json").write_text('{"a": 1, "y": 2.5}\n{"a": 2, "y": 3.5}\n')
    assert read(tmp_path / "t.json")["a"].tolist() == [1, 2]
    (tmp_path / "t.csv").write_text("a,y\n1,2\n")
    (table,) = open_tables(str(tmp_path))  # which describes the folder, as a rule
    assert table.url == str(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "text",
    [
        *('[{"a": 1, "y": 2}, {"a": 1', '[{"a": 1, "y": 2}', '[{"a": 1, "y": 2}] x', "[1, 2]"),
        *('[{"a": 1, "y": 2} {"a": 1, "y": 2}]', '[{"a": 1, "y": 2}, 3]', "[[1, 2]]"),
        '{"data": [\n{"a": 1}]}',
    ],
)
def test_what_is_no_array_of_objects_is_one_error(tmp_path, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"Write (an array of objects|one JSON object)") as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


LEAF = st.none() | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False)
INNER = st.none() | st.fixed_dictionaries(
    {}, optional={"p": LEAF, "q": st.fixed_dictionaries({"r": LEAF})}
)


@given(st.lists(INNER, min_size=1, max_size=20), st.integers(10, 200))
def test_objects_within_objects_are_columns_by_their_path(tmp_path_factory, inner, size):
    path = tmp_path_factory.mktemp("law") / "t.jsonl"
    first = {"s": {"p": 0.5, "q": {"r": 1.5}}, "y": -1}
    rows = [first, *({"s": value, "y": number} for number, value in enumerate(inner))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "CHUNK_BYTES", size)
        values = read(path)
    objects = [first["s"], *(value or {} for value in inner)]
    expected = {
        "s.p": [value.get("p") for value in objects],
        "s.q.r": [value.get("q", {}).get("r") for value in objects],
        "y": range(-1, len(inner)),
    }
    assert list(values) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(values[name], np.array(list(column), dtype=float))


def test_columns_of_rows_are_refused_and_vectors_are_not(tmp_path):
    path = tmp_path / "t.json"
    columns = {name: {str(i): i * scale for i in range(3)} for name, scale in (("a", 1), ("y", 2))}
    path.write_text(json.dumps(columns))
    with pytest.raises(DataError, match=r"one row with 6 values\. Write it by rows: to_json"):
        read(path)
    path.write_text(json.dumps(columns) + "\n" + json.dumps(columns) + "\n")
    assert len(read(path)["a.0"]) == 2
    path.write_text(json.dumps(columns | {"y": 1.5}))
    assert read(path)["y"] == [1.5]


def test_an_object_within_an_object_keeps_what_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"s": {"p": 1, "t": "x", "e": {}}, "s.p": 2, "s.t": 3, "y": 4}\n')
    (table,) = open_tables(str(path))
    assert [(column.name, bool(column.decoded_type)) for column in table.columns] == [
        ("s.p", False),
        ("s.t", False),
        ("s.e", False),
        ("s.p", False),
        ("s.t", False),
        ("y", True),
    ]
    path.write_text('{"s": {"p": 1.5}, "y": 4}\n{"s": {"p": 12345678901234567}, "y": 4}\n')
    with pytest.raises(DataError, match=r"'s.p': the integer 12345678901234567 is beyond"):
        read(path)


@pytest.mark.parametrize("depth", [101, 500, 2_000, 20_000])
@pytest.mark.parametrize("wrap", ["{}\n", "[{}]"])
@pytest.mark.parametrize("pair", ['{"k":|}', "[|]"])
def test_values_that_are_too_deep_are_refused(tmp_path, depth, wrap, pair):
    opening, closing = pair.split("|")
    path = tmp_path / "t.json"
    value = opening * depth + "1" + closing * depth
    path.write_text(wrap.replace("{}", f'{{"y": 1, "a": {value}}}'))
    with pytest.raises(DataError, match="Write the numbers as keys of the outer object") as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_braces_in_strings_are_not_deep(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [json.dumps({"name": '"{[' * 200, "y": i, "a": {"b": [i]}}) for i in range(200)]
    path.write_text("\n".join(lines))
    np.testing.assert_array_equal(read(path)["y"], np.arange(200))


def test_a_deep_value_after_the_first_lines_is_read_over(tmp_path, monkeypatch):
    monkeypatch.setattr(json_table, "_SAMPLE_BYTES", 40)
    path = tmp_path / "t.jsonl"
    deep = '{"k":' * 20_000 + "1" + "}" * 20_000
    path.write_text('{"a": 1, "y": 2}\n' * 10 + f'{{"a": 1, "y": 3, "z": {deep}}}\n')
    np.testing.assert_array_equal(read(path)["y"], [2] * 10 + [3])


@pytest.mark.parametrize("is_array", [False, True])
def test_a_line_may_be_longer_than_the_sample(tmp_path, monkeypatch, is_array):
    monkeypatch.setattr(json_table, "_SAMPLE_BYTES", 40)
    path = tmp_path / "t.json"
    rows = [{f"x{i}": i + row for i in range(50)} for row in range(3)]
    path.write_text(json.dumps(rows) if is_array else "\n".join(map(json.dumps, rows)) + "\n")
    np.testing.assert_array_equal(read(path)["x49"], [49, 50, 51])


@pytest.mark.parametrize("sample", [1 << 20, 64], ids=["in the sample", "after it"])
@pytest.mark.parametrize("odd", ["x", True, [1], {"c": 1}], ids=["text", "truth", "list", "object"])
@pytest.mark.parametrize("is_inner", [False, True], ids=["outer", "inner"])
def test_a_key_of_several_kinds_is_left_out_unless_it_is_chosen(
    tmp_path, monkeypatch, sample, odd, is_inner
):
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))
    monkeypatch.setattr(json_table, "_SAMPLE_BYTES", sample)
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 100)
    rows = [{"a": None if row == 3 else row, "l": [row, "x"], "y": 0.5 * row} for row in range(40)]
    for row in rows:
        odd_or_number = odd if row["y"] >= 15 else 1.0
        row |= {"in": {"m": odd_or_number, "b": 2}} if is_inner else {"m": odd_or_number}
        row["z"] = -row["y"]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = "in.m" if is_inner else "m"
    with pytest.warns(UserWarning, match=rf"left out.* {name} \(.* row 30 is of kind"):
        dataset = open_shards(str(path))
    assert dataset.columns == ("a", "y", *(("in.b",) if is_inner else ()), "z")
    read = dict(zip(dataset.columns, Readers(dataset).read(0, 0, dataset.num_rows), strict=True))
    np.testing.assert_array_equal(read["z"], -0.5 * np.arange(40))
    np.testing.assert_array_equal(read["a"], [np.nan if row == 3 else row for row in range(40)])
    for choice in ({"features": [name]}, {"features": ["a"], "target": name}):
        with pytest.raises(DataError, match=rf"'{name}'.* row 30 is of kind"):
            open_shards(str(path), **choice)


def test_a_last_key_of_several_kinds_is_no_target(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))
    path = tmp_path / "t.json"
    path.write_text('[{"a": 1, "b": 2, "y": 3}, {"a": 1, "b": 2, "y": "7 July"}]')
    with pytest.raises(DataError, match=r"last column, 'y', cannot be the target: .7 July. in row"):
        open_shards(str(path))
    assert open_shards(str(path), features=["a"], target="b").num_rows == 2
