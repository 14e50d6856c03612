"""Imports of a command, which are a third of the time of a short run."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports_kept(module: str) -> Iterator[None]:
    """Import this module inside; for a process of our own, or where it is imported already.

    Importing torch makes a million objects that stay: searching them for garbage again and again
    takes 0.3 s of 2.3 s, and each later search would walk through them. So none is searched, which
    keeps garbage of before as well.
    """
    if module in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
