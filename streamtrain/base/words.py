"""Words of messages: suggestions for misspelt ones, and nouns after a number."""

import difflib
from collections.abc import Iterable


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
