"""When a run is saved, and how it goes on: the last few checkpoints of its folder, and the records
that belong to each.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from streamtrain.base.atomic_files import sync_folder
from streamtrain.base.interrupt import Interrupt
from streamtrain.errors import ConfigError, DataError, ResourceError
from streamtrain.records import Record
from streamtrain.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from streamtrain.training.fingerprint import differences
from streamtrain.types import Json

#: A run is saved after `every_seconds`, or this part of a pass, whichever comes first …
EVERY_PART = 0.02
#: … but parts so short that saving would take more than a twentieth of the time are put together.
LEAST_SAVES_APART = 20

#: Where a pass stands: JSON values, and arrays by name.
PassState = tuple[Json, dict[str, np.ndarray]]


class Events(Protocol):
    """The log of a run's records, as far as checkpoints need it; a mark is the log's length and
    hash, as JSON values.
    """

    def mark(self) -> Json:
        """Make what was logged last, and say where it ends. Raises OSError."""
        ...

    def check(self, mark: Json) -> None:
        """Raises DataError when the log does not begin with what was marked."""
        ...

    def rewind(self, mark: Json) -> list[Record]:
        """Cut the log at a mark; returns the records before it."""
        ...


class Checkpointer:
    """The checkpoints of one run, used by one thread.

    `begin` once, then `listening` around each pass, with `edge` inside.

    `seconds`: what the run had taken when it was interrupted, 0 for a new one. `versions` is
    compared when a run goes on, and a change is only warned of: the same bits are promised under
    the same versions on the same machine.
    """

    def __init__(
        self,
        folder: Path,
        events: Events,
        *,
        versions: Json,
        keep: int = 3,
        every_seconds: float = 30.0,
        interrupt: Interrupt | None = None,
    ):
        self.folder, self.events, self.versions, self.keep, self.every_seconds = (
            folder,
            events,
            versions,
            keep,
            every_seconds,
        )
        self.interrupt = interrupt or Interrupt()
        self._fingerprint: Json = {}
        self._next = 0
        self._state: PassState | None = None
        self._saved_at, self._saved_part, self._cost = -float("inf"), 0.0, 0.0
        self.seconds, self._started = 0.0, time.perf_counter()

    def begin(self, fingerprint: Json) -> list[Record]:
        """The records of an interrupted run, cut where its last good checkpoint was made; none when
        nothing was saved.

        Raises ConfigError when `fingerprint` is another one, with each difference; DataError when
        every checkpoint is damaged. Until it is clear that the run can go on, nothing is changed on
        disk.
        """
        self._fingerprint = fingerprint
        numbers = list_checkpoints(self.folder)
        checkpoint = self._newest(numbers)
        if checkpoint is None:
            return []
        document = checkpoint.document
        if changed := differences(document["fingerprint"], fingerprint):
            raise ConfigError(
                f"{self.folder.parent} cannot go on: {'; '.join(changed)}. Give what it was begun"
                " with, or another --out."
            )
        if changed := differences(document["versions"], self.versions):
            warnings.warn(
                f"{self.folder.parent} goes on under other versions, so the last bits may differ:"
                f" {'; '.join(changed)}.",
                stacklevel=3,
            )
        records = self.events.rewind(document["events"])
        for number in numbers[numbers.index(checkpoint.number) + 1 :]:
            remove_checkpoint(self.folder, number)
        self._next, self._state = checkpoint.number + 1, (document["state"], checkpoint.arrays)
        self.seconds = document["seconds"]
        self._started -= self.seconds
        return records

    def take(self, name: str) -> PassState | None:
        """Where the pass of this name was when the run was saved; once, and None for a pass that
        begins.

        Raises DataError when the run was saved within another pass, and that one did not come to
        its end.
        """
        state, self._state = self._state, None
        if state is None or state[0]["name"] == name:
            return state
        if state[0]["record"] is None:
            raise DataError(
                f"{self.folder}: it was saved in the pass {state[0]['name']}, not in {name}. Go on"
                " as it was begun, on one machine or on workers, or start again with another"
                " --out."
            )
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM wait for the next `edge`."""
        with self.interrupt.listening():
            yield

    def edge(self, part: float, state: Callable[[], PassState]) -> None:
        """Save, if it is time to or somebody asked the run to stop; then it ends here, with what
        the signal raises.

        `part`: how much of the pass is done, from 0 to 1. Raises ResourceError when the disk takes
        no more.
        """
        now, asked = time.perf_counter(), self.interrupt.asked is not None
        late = now - self._saved_at >= self.every_seconds
        far = (
            abs(part - self._saved_part) >= EVERY_PART
            and now - self._saved_at >= LEAST_SAVES_APART * self._cost
        )
        if late or far or asked:
            self.save(state())
            self._saved_at, self._saved_part = time.perf_counter(), part
            self._cost = self._saved_at - now
        if asked:
            self.interrupt.leave()

    def save(self, state: PassState) -> None:
        """Write a checkpoint now, and drop all but the last few.

        Raises ResourceError; those before stay as they are.
        """
        document, arrays = state
        try:
            if not self.folder.is_dir():
                os.mkdir(self.folder)
                sync_folder(self.folder.parent)
            about = {
                "fingerprint": self._fingerprint,
                "versions": self.versions,
                "events": self.events.mark(),
                "seconds": time.perf_counter() - self._started,
                "state": document,
            }
            write_checkpoint(
                self.folder, Checkpoint(number=self._next, document=about, arrays=arrays)
            )
        except OSError as error:
            raise ResourceError(
                f"{self.folder}: checkpoint {self._next} cannot be written"
                f" ({error.strerror or error}); those before it are whole. Make room, then go on"
                " with --resume auto."
            ) from error
        self._next += 1
        self._prune()

    def _prune(self) -> None:
        """One that cannot be removed does no harm; it is tried again next time."""
        with suppress(OSError):
            for number in list_checkpoints(self.folder)[: -self.keep]:
                remove_checkpoint(self.folder, number)

    def _newest(self, numbers: list[int]) -> Checkpoint | None:
        """The last checkpoint that is whole, with a warning for each that is not.

        None when there are none at all.
        """
        problems = []
        for number in reversed(numbers):
            try:
                checkpoint = read_checkpoint(self.folder, number)
                self.events.check(checkpoint.document["events"])
            except DataError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(
                    f"{problem}; going on from checkpoint {number}, the one before.", stacklevel=4
                )
            return checkpoint
        if problems:
            raise DataError(
                f"{self.folder}: no checkpoint can be used: {'; '.join(problems)}. Restore one of"
                " them, or start again with another --out."
            )
        return None
