"""Ctrl-C and SIGTERM while a run trains: the first one asks it to save and leave, a second one ends
it at once.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Use `listening` around what may be asked to stop, look at `asked` where it can, and call
    `leave` there.

    `grace_seconds`: how long after the first signal it counts as a second one; None: for ever.
    `tell`: who hears at once that it was heard. Signals reach the main thread alone, so elsewhere
    nothing is heard and nothing is changed.
    """

    def __init__(
        self, grace_seconds: float | None = None, tell: Callable[[str], None] = lambda _: None
    ):
        self.grace_seconds, self._tell = grace_seconds, tell
        self.asked: int | None = None
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The handlers are the caller's again afterwards; a signal that nobody acted on meanwhile
        is given to them then.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.asked = None
        # A handler of None was not set from Python, and cannot be put back: it stays.
        self._before = {
            number: before
            for number in SIGNALS
            if (before := signal.getsignal(number)) not in (None, signal.SIG_IGN)
        }
        for number in self._before:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            self._restore()
        if self.asked is not None:
            self.leave()

    def leave(self) -> None:
        """Do what the signal does where nobody listens: raises KeyboardInterrupt, or what the
        caller's handler raises.
        """
        self._restore()
        number, self.asked = self.asked, None
        signal.raise_signal(number or signal.SIGINT)
        raise KeyboardInterrupt  # a handler that raises nothing would let the run go on

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self.leave()
        self.asked = number
        # a handler may come in the middle of another line that is being written
        with suppress(Exception):
            self._tell(
                f"{signal.Signals(number).name}: stopping where the run can be saved next; a second"
                " one stops at once"
            )
        if self.grace_seconds is not None:
            self._timer = threading.Timer(self.grace_seconds, os.kill, (os.getpid(), number))
            self._timer.name, self._timer.daemon = "streamtrain-grace", True
            self._timer.start()

    def _restore(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
