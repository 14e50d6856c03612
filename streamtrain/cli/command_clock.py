"""When the running command began: the seconds of a sweep's budget count from there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_BEGAN: ContextVar[float | None] = ContextVar("began", default=None)


@contextmanager
def counting_from(began: float | None) -> Iterator[None]:
    """Run a command in this block that began at `began` of `time.perf_counter`; None: now."""
    token = _BEGAN.set(time.perf_counter() if began is None else began)
    try:
        yield
    finally:
        _BEGAN.reset(token)


def command_began() -> float | None:
    """Return when the running command began, by `time.perf_counter`; None outside of one."""
    return _BEGAN.get()
