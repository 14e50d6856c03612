"""Output: the result of a verb goes to stdout, everything else to stderr.

Control characters in names from files are escaped.
"""

import errno
import io
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

from streamtrain.base.redact import Secrets
from streamtrain.base.writing import naming_path

_RED, _YELLOW = "31", "33"


#: The secrets that the running command hides in everything it writes.
_HIDDEN: ContextVar[list[Secrets] | None] = ContextVar("hidden", default=None)


@contextmanager
def hiding(secrets: Secrets) -> Iterator[None]:
    """Hide secrets in everything that Python writes to stdout and stderr, tracebacks included."""
    hidden = [secrets]  # a list, so that `hide_from_now` changes what the two streams hide
    token = _HIDDEN.set(hidden)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Hiding(stream, hidden)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        _HIDDEN.reset(token)


def hide_from_now(secrets: Secrets) -> None:
    """Hide more secrets until the command ends."""
    hidden = _HIDDEN.get()
    if hidden is not None:
        hidden[0] |= secrets


class _Hiding:
    """A text stream that hides secrets in what is written to it."""

    def __init__(self, stream: TextIO, hidden: list[Secrets]):
        self._stream, self._hidden = stream, hidden

    def write(self, text: str) -> int:
        return self._stream.write(self._hidden[0].hide(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escape(text: str) -> str:
    r"""Make control and format characters visible, so that a name cannot control the terminal.

    >>> escape("a\x1b[2Jb"), escape("rows/s ≤ 2")
    ('a\\x1b[2Jb', 'rows/s ≤ 2')
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def show(text: str, document: Mapping[str, Any], *, as_json: bool) -> None:
    """Write the result of a verb to stdout: as text, or the document as strict JSON."""
    shown = json.dumps(document, indent=2, allow_nan=False) if as_json else escape(text)
    sys.stdout.write(shown.rstrip("\n") + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a remark to stderr; where colour is wanted, `error:` is red and `warning:` yellow."""
    text = escape(text)
    if wants_colour(sys.stderr):
        text = re.sub("^error:", f"\x1b[{_RED}merror:\x1b[0m", text, flags=re.MULTILINE)
        text = re.sub("^warning:", f"\x1b[{_YELLOW}mwarning:\x1b[0m", text, flags=re.MULTILINE)
    print(text, file=sys.stderr, flush=True)


class _Terminal(io.FileIO):
    """A terminal; once it has been closed, what is written to it is lost without an error."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as failure:
            if failure.errno != errno.EIO:
                raise
            return len(content)


def outlive_terminal(stream: TextIO) -> TextIO:
    """Return a stream whose terminal may be closed during a run; any other stream as it is.

    SIGHUP then makes the run save and end. It must not fail before that, because a line of progress
    cannot be shown.
    """
    if not isinstance(stream, io.TextIOWrapper) or not stream.isatty():
        return stream
    terminal = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(terminal, stream.encoding, stream.errors, line_buffering=True)


def wants_colour(stream: Any) -> bool:
    """Return whether a stream is a terminal with colours and NO_COLOR is unset (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def fit(text: str) -> str:
    """Break each line between words at the terminal's width, if stdout is a terminal.

    A line with the next command is left to the terminal, so that it can be copied whole.
    """
    if not sys.stdout.isatty():
        return text
    wrap = partial(
        textwrap.fill,
        width=shutil.get_terminal_size().columns,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(
        line if line.startswith("Next: ") else wrap(line) for line in text.splitlines()
    )


def writing(path: Path) -> AbstractContextManager[None]:
    """Turn an OSError into a ResourceError that names `path`, not a temporary file beside it."""
    return naming_path(path, "Choose another --out.")


@contextmanager
def plain_warnings(*, quiet: bool) -> Iterator[None]:
    """Show Python's warnings and the package's remarks as one line each on stderr, or not at all.

    Without a command, the remarks go to the logger `streamtrain`.
    """
    remarks, handler = logging.getLogger("streamtrain"), _Notes()
    level, propagate = remarks.level, remarks.propagate
    remarks.setLevel(logging.WARNING if quiet else logging.INFO)
    remarks.propagate = False
    remarks.addHandler(handler)
    try:
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter("ignore")
            warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
            yield
    finally:
        remarks.removeHandler(handler)
        remarks.setLevel(level)
        remarks.propagate = propagate


class _Notes(logging.Handler):
    """Writes the messages of a logger to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def format_interval(figure: Mapping[str, Any], form: Callable[[float], str]) -> str:
    """Return the confidence interval of a figure as `[lo, hi]`; empty where it has none."""
    return "" if figure["lo"] is None else f"[{form(figure['lo'])}, {form(figure['hi'])}]"
