"""A row of totals at the end of a table, as spreadsheets have it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from streamtrain.base.words import plural
from streamtrain.errors import shown
from streamtrain.storage.remote.urls import is_remote

#: What the key of such a row says, in some languages, and how many of them may follow each other.
_WORDS = re.compile(
    r"((grand|sub|overall)[ -]?)?(totals?|totale?n?|totaal|totaux)|(column )?sums?|all rows|overall"
    r"|averages?|avg\.?|means?|(gesamt|teil)?summen?|gesamt|insgesamt|mittelwerte?|durchschnitt"
    r"|mittel|sommes?|moyennes?|ensemble|suma|medi[ao]|promedio|somma|gemiddelde|итого|всего|合計|总计",
    re.IGNORECASE,
)
_MOST_ROWS = 3
#: A sum of so few rows may be a coincidence; and how exactly a rounded sum has to be one.
_FEWEST_ROWS, _TOLERANCE = 4, 1e-6
#: Suffixes of files whose last line a text tool can delete.
_PLAIN = (".csv", ".tsv", ".txt", ".data", ".tab")


@dataclass(slots=True)
class Sum:
    """The sum, the count and the last value of a column that is read block by block."""

    total: float = 0.0
    count: int = 0
    last: float = np.nan

    def add(self, values: np.ndarray) -> None:
        """Add the next values; NaN is no value."""
        with np.errstate(over="ignore", invalid="ignore"):
            total, count = float(values.sum()), len(values)
            if not np.isfinite(total):  # rare, and counting what is present would take longer
                present = ~np.isnan(values)
                total, count = float(values.sum(where=present)), int(present.sum())
        self.total += total
        self.count += count
        if len(values):
            self.last = float(values[-1])

    def of_last(self) -> str:
        """Return what the last value is of the others, `sum` or `mean`; empty for neither."""
        others, count = self.total - self.last, self.count - 1
        if count < _FEWEST_ROWS - 1 or not self.last or not np.isfinite(others):
            return ""
        for name, expected in (("sum", others), ("mean", others / count)):
            if abs(self.last - expected) <= _TOLERANCE * abs(self.last):
                return name
        return ""


def totals_warning(
    path: str,
    rows: int,
    names: Sequence[str],
    tail: pa.Table,
    sums: Mapping[str, Sum],
    *,
    ends_with_row: bool,
    is_alone: bool,
) -> str:
    """Return the warning that a table ends with rows of totals; empty where nothing shows that.

    Such a row has a word like `total` that no other row has, or no key where all others have one
    and a value that is the sum or the mean of its column. `tail`: the last rows as text, a column
    for each of `names`, the key first. `ends_with_row`: no empty line follows them in the file.
    `is_alone`: the table is this file, not a folder or a glob, which may take a copy beside it too.
    """
    if not names or tail.num_rows < _FEWEST_ROWS:
        return ""
    number, why = _with_word(names, tail)
    found = {name: kind for name, each in sums.items() if (kind := each.of_last())}
    if not number:
        key = tail.column(0).to_pylist()
        if not found or (key[-1] or "").strip() or not all(map(str.strip, map(_text, key[:-1]))):
            return ""
        number, why = 1, f"its {shown(names[0])} is empty"
    if found and number == 1:
        name, kind = next(iter(found.items()))
        why += f", its {shown(name)} the {kind} of the rows above"
    which = f"the last row ({rows - 1:,})" if number == 1 else f"the last {plural(number, 'row')}"
    cure = "Delete it" if number == 1 else "Delete them"
    if not is_alone:
        cure += " in a copy elsewhere: one beside it would be read as well."
    elif ends_with_row and path.lower().endswith(_PLAIN) and not is_remote(path):
        stem, _, suffix = path.rpartition(".")
        copy = f"{stem}-rows.{suffix}"
        command = " | ".join(["sed '$d' " + shlex.quote(path), *["sed '$d'"] * (number - 1)])
        cure += f" in a copy: {command} > {shlex.quote(copy)}"
    looks = "looks like one of totals" if number == 1 else "look like totals"
    return f"{path}: {which} {looks}: {why}. Nothing is left out. {cure}"


def _text(value: str | None) -> str:
    return value or ""


def _with_word(names: Sequence[str], tail: pa.Table) -> tuple[int, str]:
    """Return how many last rows have a word for totals that no other row has, and that word."""
    for index, name in enumerate(names):
        texts = [_text(value).strip().rstrip(" :") for value in tail.column(index).to_pylist()]
        number = 0
        while number < _MOST_ROWS and _WORDS.fullmatch(texts[-1 - number]):
            number += 1
        others = texts[: len(texts) - number]
        words = {text.lower() for text in texts[len(others) :]}
        if (
            number
            and 2 * sum(map(bool, others)) > len(others)
            and not any(text.lower() in words for text in others)
        ):
            return number, f"its {shown(name)} is {shown(texts[-1])!r}"
    return 0, ""
