"""Warnings that name the line of the user's program that led to them."""

import contextlib
import sys
import warnings
from pathlib import Path

#: The files of this package, and of the `with` statements through which it calls itself.
_INSIDE = (f"{Path(__file__).parents[1]}/", contextlib.__file__)


def warn_caller(text: str) -> None:
    """Give a UserWarning at the innermost line outside this package.

    A fixed `stacklevel` would name one of the package's own lines, since the same data are opened
    from several depths. Called by a thread or a command, the outermost line is named.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
