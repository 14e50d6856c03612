"""Numbers from the text of a column, block by block: null words, decimal marks, thousands."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.base.words import plural
from streamtrain.errors import shown
from streamtrain.storage.decode import (
    MAX_EXACT_INTEGER,
    NOT_A_NUMBER,
    WITH_A_POINT,
    ColumnError,
    is_rounded,
    rounded_error,
)
from streamtrain.storage.write.text_dialect import NULLS, TRUTHS
from streamtrain.storage.write.text_signs import sign_patterns, without_sign

#: Different words in a column of numbers that are taken for nulls, and their longest length.
MAX_WORDS = 5
_LONGEST_WORD = 24
#: Digits of the largest float64; longer texts are no numbers of it, and Python limits `int`.
_MOST_DIGITS = 309
#: Usual null words: they are not mentioned in a warning.
_USUAL = frozenset({"", "na", "n/a", "nan", "-nan", "null", "<na>", "none", "#n/a"})

#: Types of dates as text, without and with a time zone; a text of one is never a text of another.
_DATE_TYPES = (
    pa.date32(),
    *(pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("us", "ns")),
)

# pyarrow.compute creates its functions at import
_compute: Any = pc


@dataclass(slots=True, kw_only=True, eq=False)
class NumberColumn:
    """Turns the text of a column into float64 and counts its words.

    `nulls`: further words that mean null, lower case; a number among them means its value, however
    it is written. `sign`: what all values are written with, such as $. `first_row`: the row of the
    next value.
    """

    name: str
    decimal: str = "."
    thousands: str = ""
    nulls: frozenset[str] = frozenset()
    is_boolean: bool = False
    sign: str = ""
    first_row: int = 0
    numbers: int = 0
    words: Counter[str] = field(default_factory=Counter)
    first_word: tuple[str, int] | None = None

    def decode(self, texts: pa.Array) -> np.ndarray:
        """Return the next values, null as NaN.

        Raises ColumnError for a value that is neither a number nor one of few words, and for a
        number that float64 would round.
        """
        values = self._quickly(texts)
        if values is None:
            values = self._carefully(texts)
        if numbers := [number for word in self.nulls if (number := _number(word)) is not None]:
            values = np.where(np.isin(values, numbers), np.nan, values)
        large = np.flatnonzero(np.abs(values) >= MAX_EXACT_INTEGER)
        if len(large):
            for row, text in zip(large.tolist(), texts.take(large).to_pylist(), strict=True):
                self._refuse_rounded(text, values[row])
        self.numbers += len(texts) - int(np.isnan(values).sum())
        self.first_row += len(texts)
        return values

    def kind(self, texts: pa.Array) -> pa.DataType:
        """Return the type of a column that starts with these values.

        float64 for numbers with at most a few words, and where there is no value yet.
        """
        if self._quickly(texts) is not None:
            return pa.float64()
        texts = _compute.drop_null(_compute.utf8_trim_whitespace(texts))
        lower = _compute.utf8_lower(texts)
        known = pa.array(sorted(NULLS | self.nulls))
        texts = texts.filter(_compute.invert(_compute.is_in(lower, value_set=known)))
        if not len(texts):
            return pa.float64()
        truths = pa.array(sorted(TRUTHS))
        if _compute.all(_compute.is_in(_compute.utf8_lower(texts), value_set=truths)).as_py():
            return pa.bool_()
        words = texts.filter(_compute.invert(self._plain(texts)[1]))
        distinct = _compute.unique(words).to_pylist()
        if (
            2 * len(words) < len(texts)
            and len(distinct) <= MAX_WORDS
            and all(map(_is_word, distinct))
        ):
            return pa.float64()
        return _date_type(texts)

    def warning(self) -> str:
        """Return what the column had besides numbers; empty where that is usual.

        Raises ColumnError when words outnumber the numbers.
        """
        if not self.words or self.first_word is None:
            return ""
        total = self.words.total()
        word, row = self.first_word
        if total > self.numbers and any(word.lower() not in NULLS for word in self.words):
            raise self._refused(word, row)
        listed = ", ".join(f"{shown(word)!r}" for word, _ in self.words.most_common(3))
        rows = plural(total, "row")
        return f"column {self.name!r}: {listed} read as null in {rows}, first in row {row:,}."

    def _quickly(self, texts: pa.Array) -> np.ndarray | None:
        """Return the values where all are plain numbers or empty; None elsewhere."""
        if self.is_boolean or self.sign or self.decimal != ".":
            return None
        try:
            numbers = texts.cast(pa.float64())
        except pa.ArrowInvalid:
            return None
        return numbers.to_numpy(zero_copy_only=False)

    def _carefully(self, texts: pa.Array) -> np.ndarray:
        texts = _compute.utf8_trim_whitespace(texts)
        lower = _compute.utf8_lower(texts)
        known = pa.array(sorted(NULLS | self.nulls))
        is_null = _compute.or_(_compute.is_null(texts), _compute.is_in(lower, value_set=known))
        surprising = pa.array(sorted((NULLS - _USUAL) - self.nulls))
        self._count(texts, _compute.is_in(lower, value_set=surprising))
        if self.is_boolean:
            truths = pa.array(sorted(TRUTHS))
            is_good = _compute.is_in(lower, value_set=truths)
            plain = _compute.if_else(_compute.equal(lower, "true"), "1", "0")
        else:
            plain, is_good = self._plain(texts)
        is_bad = _compute.invert(_compute.or_(is_null, _compute.fill_null(is_good, False)))
        if _compute.any(is_bad).as_py():
            self._count(texts, is_bad)
        values = _compute.if_else(_compute.or_(is_null, is_bad), None, plain)
        return values.cast(pa.float64()).to_numpy(zero_copy_only=False)

    def _plain(self, texts: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Return numbers as Arrow reads them, and which texts are numbers."""
        point, mark = re.escape(self.decimal), self.thousands
        digits = rf"\d+{point}?\d*|{point}\d+"
        if mark:
            digits = rf"\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+(?:{point}\d*)?|{digits}"
        number = rf"^[+-]?(?:(?:{digits})(?:[eE][+-]?\d+)?|(?i:inf|infinity))$"
        has_sign = None
        if self.sign:
            signed, rest = sign_patterns(self.sign)
            has_sign = _compute.match_substring_regex(texts, signed)
            texts = _compute.replace_substring_regex(texts, rest, r"\1", max_replacements=1)
        is_good = _compute.match_substring_regex(texts, number)
        if has_sign is not None:
            is_good = _compute.and_(is_good, has_sign)
        if mark:
            texts = _compute.replace_substring(texts, mark, "")
        if self.decimal != ".":
            texts = _compute.replace_substring(texts, self.decimal, ".")
        return _compute.replace_substring_regex(texts, r"^\+", ""), is_good

    def _count(self, texts: pa.Array, chosen: pa.Array) -> None:
        """Count the words that are read as nulls. Raises ColumnError for too many of them."""
        rows = np.flatnonzero(_compute.fill_null(chosen, False).to_numpy(zero_copy_only=False))
        if not len(rows):
            return
        found = texts.take(pa.array(rows))
        if self.first_word is None:
            self.first_word = (found[0].as_py(), self.first_row + int(rows[0]))
        for pair in _compute.value_counts(found).to_pylist():
            word = pair["values"]
            self.words[word] += pair["counts"]
            distinct = [word for word in self.words if word.lower() not in NULLS]
            if self.is_boolean or (
                word.lower() not in NULLS and (not _is_word(word) or len(distinct) > MAX_WORDS)
            ):
                row = rows[_compute.index(found, word).as_py()]
                raise self._refused(word, self.first_row + int(row))

    def _refused(self, word: str, row: int) -> ColumnError:
        refusal = f"{shown(word[:40])!r} in row {row:,} {NOT_A_NUMBER}"
        return ColumnError(
            f"column {self.name!r}: {refusal}. Correct it, name it with --na-values if it means"
            " null, or leave the column out with --features.",
            {self.name: refusal},
        )

    def _refuse_rounded(self, text: str, value: float) -> None:
        """Raise ColumnError for an integer that float64 rounds, and for an overflow of float64."""
        text = text.strip()
        if self.sign:
            text, _ = without_sign(text)
        digits = text.lstrip("+-").replace(self.thousands or "\0", "")
        if digits.isdecimal() and (
            len(digits) > _MOST_DIGITS or is_rounded(int(digits), abs(float(value)))
        ):
            raise rounded_error(self.name, shown(text[:40]), WITH_A_POINT)
        if not np.isfinite(value) and not digits.lower().startswith("inf"):
            refusal = f"{shown(text[:40])} is beyond float64"
            raise ColumnError(
                f"column {self.name!r}: {refusal}. Correct the value, or leave the column out with"
                " --features.",
                {self.name: refusal},
            )


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _is_word(text: str) -> bool:
    """Return whether a text may be a word for null: one with a digit is rather a wrong number."""
    return len(text) <= _LONGEST_WORD and not any(c.isdigit() for c in text)


def _date_type(texts: pa.Array) -> pa.DataType:
    """Return the type of dates or times that all texts have; string for other texts."""
    for kind in _DATE_TYPES:
        try:
            texts.cast(kind)
            return kind
        except pa.ArrowInvalid:
            pass
    return pa.string()


#: A date as people write it: it is not read, since day and month may be in either order.
_OTHER_DATE = r"^\d{1,2}[./-]\d{1,2}[./-](\d{4}|\d{2})([ T]|$)"


def date_refusal(texts: pa.Array) -> str:
    """Return why texts are refused most of which are dates other than ISO 8601; else nothing."""
    texts = _compute.drop_null(_compute.utf8_trim_whitespace(texts))
    dates = texts.filter(_compute.match_substring_regex(texts, pattern=_OTHER_DATE))
    if 2 * len(dates) <= len(texts):
        return ""
    return f"write its dates as 2024-05-31, not as {shown(dates[0].as_py()[:20])}, for --datetime"
