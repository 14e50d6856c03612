"""Read small files that somebody else may have written or damaged: bytes and strict JSON."""

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from streamtrain.errors import DataError, first_line, shown

#: The deepest nesting that is accepted; no document of a run has more levels.
_MOST_LEVELS = 64

#: Numbers that int64 or float64 may not hold, and escapes that may be a lone surrogate.
_TO_CHECK = re.compile(r"\d{19}|[eE]\+?\d{3}|\\u[dD]")

_INT64 = 2**63


def read_regular(path: Path, *, limit_bytes: int) -> bytes:
    """Return the content of a file.

    Raises OSError, and DataError for a file that is too large, and for anything but a regular file
    (reading a pipe would block).
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{shown(str(path))}: it is not a file")
        if status.st_size > limit_bytes:
            raise DataError(
                f"{shown(str(path))}: it has {status.st_size:,} bytes; the limit is"
                f" {limit_bytes:,}. It is not what streamtrain wrote."
            )
        with open(file, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(file)


def read_document(path: Path, *, limit_bytes: int) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises OSError, and DataError with the file, the line and the cause.
    """
    try:
        document = parse_json(read_regular(path, limit_bytes=limit_bytes))
    except DataError:
        raise
    except ValueError as error:
        where = f" line {error.lineno}:" if isinstance(error, json.JSONDecodeError) else ""
        cause = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
        raise DataError(
            f"{shown(str(path))}:{where} not JSON ({cause}). The file is damaged or cut short;"
            " restore it."
        ) from None
    if not isinstance(document, dict):
        raise DataError(f"{shown(str(path))}: line 1: it is not a JSON object. Restore the file.")
    return document


def parse_json(content: bytes | str) -> Any:
    r"""Parse standard JSON whose numbers fit 64 bits.

    Raises ValueError for NaN, infinity, larger numbers, deep nesting and lone surrogates.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> parse_json('[1e999]')
    Traceback (most recent call last):
    ValueError: 1e999 is too large
    """
    text = content if isinstance(content, str) else content.decode()
    check = _TO_CHECK.search(text) is not None
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_int64 if check else None,
            parse_float=_float64 if check else None,
        )
    except RecursionError:
        raise ValueError(f"nested more than {_MOST_LEVELS} levels deep") from None
    if check or text.count("[") + text.count("{") > _MOST_LEVELS:
        _check(value)
    return value


def _check(value: Any) -> None:
    """Raise ValueError for deep nesting, and for text that is not valid Unicode."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()  # a lone surrogate is a UnicodeEncodeError, a ValueError
            elif isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise ValueError(f"nested more than {_MOST_LEVELS} levels deep")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _int64(digits: str) -> int:
    if len(digits) > 20 or not -_INT64 <= (value := int(digits)) < 2 * _INT64:
        raise ValueError(f"{digits[:40]} is too large")
    return value


def _float64(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is too large")
    return value
