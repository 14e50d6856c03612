"""What is written where: stdout is the result, stderr everything else.

Names from files are shown escaped.
"""

import json
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamtrain.errors import ResourceError

_RED, _YELLOW = "31", "33"


def escape(text: str) -> str:
    r"""Control and format characters as visible escapes, so that a name from a file cannot drive
    the terminal.

    >>> escape("a\x1b[2Jb"), escape("rows/s ≤ 2")
    ('a\\x1b[2Jb', 'rows/s ≤ 2')
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def show(text: str, document: Mapping[str, Any], *, as_json: bool) -> None:
    """Write the result of a verb to stdout: the text for people, or the document as strict JSON."""
    sys.stdout.write(
        json.dumps(document, indent=2, allow_nan=False) if as_json else escape(text).rstrip("\n")
    )
    sys.stdout.write("\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write one remark to stderr; on a terminal that wants colour, `error:` is red and `warning:`
    yellow.
    """
    text = escape(text)
    if wants_colour(sys.stderr):
        text = re.sub("^error:", f"\x1b[{_RED}merror:\x1b[0m", text, flags=re.MULTILINE)
        text = re.sub("^warning:", f"\x1b[{_YELLOW}mwarning:\x1b[0m", text, flags=re.MULTILINE)
    print(text, file=sys.stderr, flush=True)


def wants_colour(stream: Any) -> bool:
    """A terminal, unless NO_COLOR is set (no-color.org) or it is a dumb one."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def fit(text: str) -> str:
    """A sentence in lines of the terminal's width, broken between words; as it is where stdout is
    no terminal.
    """
    if not sys.stdout.isatty():
        return text
    return textwrap.fill(
        text,
        shutil.get_terminal_size().columns,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What cannot be written is a ResourceError that names the file, not a temporary beside it."""
    try:
        yield
    except OSError as failure:
        reason = os.strerror(failure.errno) if failure.errno else str(failure)
        raise ResourceError(
            f"{path}: cannot be written ({reason}). Choose another --out."
        ) from None


@contextmanager
def plain_warnings(*, quiet: bool) -> Iterator[None]:
    """Show Python's warnings as one line each on stderr, or not at all."""
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
        yield


def plural(number: int, noun: str) -> str:
    """`1 shard`, `2,000 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Aligned columns, two spaces apart; the columns in `right` are flush right.

    >>> print(table([["a", "rows"], ["bc", "10"]], right=frozenset({1})))
    a   rows
    bc    10
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligned = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in aligned)
