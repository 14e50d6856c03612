"""Words of messages: suggestions for misspelt ones, nouns after a number, aligned columns."""

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean batch_size?`, or an empty text if no known word is close.

    >>> did_you_mean("id", ["wind"]), did_you_mean("widn", ["wind"])
    ('', ' Did you mean wind?')
    """
    # difflib's ratio alone takes a short word for one twice as long that contains its letters
    like = [other for other in known if abs(len(other) - len(word)) < len(word)]
    close = difflib.get_close_matches(word, like, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def plural(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "round"), plural(1200, "round")
    ('1 round', '1,200 rounds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return rows as lines, columns two spaces apart; those with an index in `right` flush right.

    >>> print(aligned([["a", "rows"], ["bc", "10"]], right=frozenset({1})))
    a   rows
    bc    10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
