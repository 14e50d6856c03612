"""Numbers with a sign of a currency or of per cent, in text tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.errors import DataError
from streamtrain.storage.write.text_signs import sign_of, without_sign

from .test_text_table import columns, opened

WRITTEN = {
    "$1.50": "${}",
    "$ 1.50": "$ {}",
    "1.50 €": "{} €",
    "45%": "{}%",
}


@given(numbers=st.lists(st.decimals(-9_999_999, 9_999_999, places=2), min_size=3, max_size=9))
@pytest.mark.parametrize("form", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("groups", [False, True], ids=["plain", "groups"])
def test_what_is_written_with_a_sign_is_read(tmp_path_factory, numbers, form, groups) -> None:
    texts = [form.format(f"{number:{',' if groups else ''}f}") for number in numbers]
    rows = "".join(f'{row},"{text}"\n' for row, text in enumerate(texts))
    table, _ = opened(tmp_path_factory.mktemp("signs") / "t.csv", f"a,price\n{rows}")
    assert f"price in {form.strip('{} ')}" in table.found
    assert columns(table)["price"] == [float(number) for number in numbers]


def test_a_sign_may_follow_or_precede_the_minus(tmp_path) -> None:
    table, _ = opened(tmp_path / "t.csv", "a,y\n1,-$5\n2,$-6\n3,NA\n4,$7\n")
    assert np.array_equal(columns(table)["y"], [-5, -6, np.nan, 7], equal_nan=True)


@pytest.mark.parametrize("value", ["€5", "5", "$5$", "$5 a month", "(5)"])
def test_another_unit_is_refused_with_its_column_row_and_cure(tmp_path, monkeypatch, value) -> None:
    monkeypatch.setattr("streamtrain.storage.write.text_table._SAMPLE_BYTES", 32)
    table, _ = opened(tmp_path / "t.csv", "a,y\n" + "1,$2\n" * 20 + f"2,{value}\n")
    with pytest.raises(DataError, match=r"column 'y': '.*' in row 20 is not a number\. Correct it"):
        columns(table)


def test_a_rounded_integer_is_refused_with_a_sign_too(tmp_path) -> None:
    table, _ = opened(tmp_path / "t.csv", "a,y\n1,$2\n2,$9007199254740993\n")
    with pytest.raises(DataError, match=r"9007199254740993 is beyond ±2\^53"):
        columns(table)


def test_what_may_be_thousands_or_decimals_names_its_place(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"column 'price': \$1,234 in row 1 may have .*--decimal , or --decimal \."
    ):
        opened(tmp_path / "t.csv", 'a,price\n1,$5\n2,"$1,234"\n')
    table, _ = opened(tmp_path / "t.csv", 'a,price\n1,$5\n2,"$1,234"\n', decimal=".")
    assert columns(table)["price"] == [5, 1234]


@pytest.mark.parametrize(
    ("field", "rest", "sign"),
    [("$", "$", ""), ("a$1", "a$1", ""), ("5 %", "5", "%"), ("", "", ""), ("£ 3", "3", "£")],
)
def test_only_numbers_have_signs(field: str, rest: str, sign: str) -> None:
    assert without_sign(field) == (rest, sign)


def test_the_sign_of_a_column_is_that_of_half_of_its_fields() -> None:
    assert sign_of(["$1", "2", "$3"]) == "$"
    assert sign_of(["$1", "2", "3"]) == sign_of([]) == ""
