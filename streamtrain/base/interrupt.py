"""SIGINT and SIGTERM during a run: the first asks it to save and stop, the second ends it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A request to stop that the run acts on when its state can be saved.

    Run the work inside `listening`, check `asked` wherever the work can stop, and call `leave`
    there. Python delivers signals to the main thread only, so in any other thread `listening` does
    nothing.

    Attributes:
        asked: Number of the signal received; None: no signal yet.
        grace_seconds: Time after the first signal until it is sent again, which stops the run at
            once; None: it is not sent again.

    `notify` is called with a message when the first signal arrives.
    """

    def __init__(
        self, grace_seconds: float | None = None, notify: Callable[[str], None] = lambda _: None
    ):
        self.grace_seconds = grace_seconds
        self._notify = notify
        self.asked: int | None = None
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Replace the signal handlers within the context, and restore the caller's afterwards.

        A signal that the work did not act on is then raised again for the caller's handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.asked = None
        # A handler of None was not installed from Python and cannot be restored: leave it in place.
        self._before = {
            number: before
            for number in SIGNALS
            if (before := signal.getsignal(number)) not in (None, signal.SIG_IGN)
        }
        for number in self._before:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            self._restore()
        if self.asked is not None:
            self.leave()

    def leave(self) -> None:
        """Restore the caller's handlers and raise the signal for them.

        Raises KeyboardInterrupt, or whatever the caller's handler raises.
        """
        self._restore()
        number, self.asked = self.asked, None
        signal.raise_signal(number or signal.SIGINT)
        raise KeyboardInterrupt  # if a handler raises nothing, the run must still stop

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self.leave()
        self.asked = number
        with suppress(Exception):  # a handler may run while another message is being written
            self._notify(
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
