"""Rows of totals at the end of a text table are said, and never left out."""

import warnings
from pathlib import Path

import pytest

from streamtrain.storage.write.tables import open_tables

ROWS = [(f"n{i}", 3 * i + 1, 0.25 * i - 4) for i in range(300)]
SUMS = [sum(row[i] for row in ROWS) for i in (1, 2)]
MEANS = [total / len(ROWS) for total in SUMS]


def said(path: Path, end: str, head: str = "name;a;b\n", rows=ROWS) -> tuple[str, int]:
    """Return the warnings of reading rows and then `end`, and how many rows were read."""
    path.write_text(head + "".join(";".join(map(str, row)) + "\n" for row in rows) + end)
    (table,) = open_tables(str(path))
    names = [column.name for column in table.columns if column.decoded_type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = sum(len(piece[0]) for piece in table.pieces(names, "float64"))
    return "\n".join(str(warning.message) for warning in caught), count


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (f"Total;{SUMS[0]};{SUMS[1]}\n", "its name is 'Total', its a the sum of the rows above"),
        (f"Summe:;{SUMS[0]};{SUMS[1]}", "its name is 'Summe', its a the sum of the rows above"),
        (f"TOTAL;;{SUMS[1]}\n", "its name is 'TOTAL', its b the sum of the rows above"),
        ("grand total;5;5\n", "its name is 'grand total'."),
        (f"Average;{MEANS[0]};{MEANS[1]}\n", "its name is 'Average', its a the mean"),
        (f";{SUMS[0]};{SUMS[1]}\n", "its name is empty, its a the sum of the rows above"),
        (f" ;{MEANS[0]};7\n", "its name is empty, its a the mean of the rows above"),
    ],
    ids=["sums", "no line end", "partly", "word only", "means", "no key", "no key, a mean"],
)
def test_a_last_row_of_totals_is_said_with_its_number(tmp_path, end, why):
    text, count = said(tmp_path / "t.csv", end)
    assert count == 301
    assert f"the last row (300) looks like one of totals: {why}" in text


@pytest.mark.parametrize(
    ("rows", "end"),
    [
        (ROWS, "n300;1;2\n"),
        (ROWS, ";1;2\n"),
        (ROWS, f"n300;{SUMS[0]};{SUMS[1]}\n"),
        ([("", *row[1:]) for row in ROWS], f";{SUMS[0]};{SUMS[1]}\n"),
        ([*ROWS, ("total", 1, 2)] * 2, ""),
        (ROWS, "total cost;1;2\n"),
        (ROWS[:2], f"total;{SUMS[0]};{SUMS[1]}\n"),
        ([("x", 0, 0)] * 9, ";0;0\n"),
    ],
    ids=["row", "no key", "a sum", "no keys", "a word twice", "a longer text", "few", "zeros"],
)
def test_a_row_without_evidence_is_not_taken_for_totals(tmp_path, rows, end):
    text, _ = said(tmp_path / "t.csv", end, rows=rows)
    assert "totals" not in text


def test_two_rows_of_totals_are_said_together(tmp_path):
    end = f"Total;{SUMS[0]};{SUMS[1]}\nMean;{MEANS[0]};{MEANS[1]}\n"
    text, count = said(tmp_path / "t.csv", end)
    assert "the last 2 rows look like totals: its name is 'Mean'. Nothing is left out" in text
    assert count == 302


def test_a_key_of_numbers_and_many_blocks(tmp_path, monkeypatch):
    """The evidence is of all blocks: the sum too."""
    monkeypatch.setattr("streamtrain.storage.write.text_source.CHUNK_BYTES", 256)
    rows = [(2000 + i, *row[1:]) for i, row in enumerate(ROWS)]
    text, _ = said(tmp_path / "t.csv", f";{SUMS[0]};{SUMS[1]}\n", "year;a;b\n", rows)
    assert "the last row (300) looks like one of totals: its year is empty, its a the sum" in text
    text, _ = said(tmp_path / "t.csv", f"Total;{SUMS[0]};{SUMS[1]}\n", "year;a;b\n", rows)
    assert "'Total' read as null in 1 row, first in row 300" in text
    assert "its year is 'Total', its a the sum of the rows above" in text


def test_a_copy_beside_one_of_several_files_is_not_advised(tmp_path):
    """A folder would take the copy as one more file, and its rows twice."""
    said(tmp_path / "a.csv", f"Total;{SUMS[0]};{SUMS[1]}\n")
    for source in (tmp_path, tmp_path / "*.csv"):
        (table,) = open_tables(str(source))
        with pytest.warns(UserWarning, match=r"totals.* Delete it in a copy elsewhere: one beside"):
            list(table.pieces(["a", "b"], "float64"))


def test_missing_values_have_no_part_in_a_sum(tmp_path):
    rows = [(name, "" if a % 5 == 0 else a, b) for name, a, b in ROWS]
    end = f";{sum(a for _, a, _ in rows if a)};\n"
    assert "its a the sum of the rows above" in said(tmp_path / "t.csv", end, rows=rows)[0]
