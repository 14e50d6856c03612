"""Signals during a run: the first asks it to save and stop, a second SIGINT or SIGTERM ends it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

#: What a person or a scheduler sends to end a process. A second one ends it at once.
_REQUESTS = frozenset({signal.SIGINT, signal.SIGTERM})

#: Sent when a terminal closes (SIGHUP) or before a time limit (SIGUSR1 or SIGXCPU from SLURM, as
#: its user asks; SIGXCPU from the kernel every second). Repeated ones change nothing.
_NOTICES = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU})

SIGNALS = _REQUESTS | _NOTICES


class Terminated(BaseException):
    """A signal other than SIGINT, as an exception, so that files and processes are closed.

    `number` is that of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Raise Terminated; a signal handler."""
    # a notice may come again, and must not interrupt the clean-up
    if number in _NOTICES:
        signal.signal(number, signal.SIG_IGN)
    raise Terminated(number)


@contextmanager
def signals_terminate() -> Iterator[None]:
    """Raise Terminated on each of `SIGNALS` but SIGINT, in the main thread.

    A signal that is ignored stays ignored, as SIGHUP is under nohup. Only the main thread may set
    handlers; in any other thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with ExitStack() as stack:
        for number in SIGNALS - {signal.SIGINT}:
            before = signal.getsignal(number)
            if before not in (None, signal.SIG_IGN):
                stack.callback(signal.signal, number, before)
                signal.signal(number, terminate)
        yield


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
        self._out_of_grace = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Replace the signal handlers within the context, and restore the caller's afterwards.

        A signal that the work did not act on is then raised again for the caller's handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.asked, self._out_of_grace = None, False
        self._before = {
            number: before
            for number in SIGNALS
            if _ends_process(number, before := signal.getsignal(number))
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
            if number in _REQUESTS or self._out_of_grace:
                self.leave()
            return
        self.asked = number
        again = "a second one" if number in _REQUESTS else "Ctrl-C"
        with suppress(Exception):  # a handler may run while another message is being written
            self._notify(
                f"{signal.Signals(number).name}: stopping where the run can be saved next; {again}"
                " stops at once"
            )
        if self.grace_seconds is not None:
            self._timer = threading.Timer(self.grace_seconds, self._end_grace, (number,))
            self._timer.name, self._timer.daemon = "streamtrain-grace", True
            self._timer.start()

    def _end_grace(self, number: int) -> None:
        self._out_of_grace = True
        os.kill(os.getpid(), number)

    def _restore(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}


def _ends_process(number: int, handler: Any) -> bool:
    """Return whether a signal with this handler asks the process to end.

    None is a handler that was not installed from Python, which could not be restored. A program
    may use SIGHUP or SIGUSR1 for something else, so its own handlers of notices stay.
    """
    if number in _NOTICES:
        return handler in (signal.SIG_DFL, terminate)
    return handler not in (None, signal.SIG_IGN)
