"""When a run is saved, and how it is resumed.

The last few checkpoints of a run's folder are kept. Each knows how long the log of records was when
it was made, so that log and state agree after resuming.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field

from streamtrain.base.atomic_files import make_folder, sync_folder
from streamtrain.base.interrupt import Interrupt
from streamtrain.config import with_holdout_seed
from streamtrain.errors import (
    ConfigError,
    DataError,
    ResourceError,
    StreamTrainError,
    first_line,
    shown,
)
from streamtrain.records import Record, parse, to_json
from streamtrain.storage.data_fingerprint import written_again
from streamtrain.training.checkpoint import (
    Checkpoint,
    Mark,
    list_checkpoints,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from streamtrain.training.fingerprint import NEW_ENTRIES, check_unchanged, differences
from streamtrain.types import Json

#: A run is saved every `every_seconds`, or whenever this fraction of a pass has been done since the
#: last checkpoint, whichever comes first …
CHECKPOINT_FRACTION = 0.02
#: … but not before saving takes at most this fraction of the time since.
MAX_SAVE_OVERHEAD = 0.05

#: How far a pass has come, and the state of its learners: JSON values, and arrays by name.
PassState = tuple[Json, dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The document of a checkpoint; see `Checkpointer.save`."""

    fingerprint: Json
    versions: Json
    events: Mark
    seconds: Annotated[float, Field(ge=0)]
    state: Json


def _about(checkpoint: Checkpoint) -> About:
    """Return the document of a checkpoint; raises DataError for a field of another type."""
    return parse(About, checkpoint.document, f"checkpoint {checkpoint.number}")


@contextmanager
def refusing_damage() -> Iterator[None]:
    """Turn what goes wrong while saved state is loaded into a DataError; also a decorator.

    The hash of a checkpoint finds damage, but somebody else may have written the file.
    """
    try:
        yield
    except StreamTrainError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise DataError(
            f"a checkpoint or the log does not fit the run ({type(e).__name__}: {first_line(e)})."
            " Start again with another --out."
        ) from e


class Events(Protocol):
    """The log of a run's records, as far as checkpoints need it."""

    def mark(self) -> Mark:
        """Make the log durable so far, and return the mark of its end. Raises OSError."""
        ...

    def check(self, mark: Mark) -> None:
        """Raise DataError when the log no longer starts with the marked content."""
        ...

    def rewind(self, mark: Mark) -> list[Record]:
        """Cut the log at a mark, and return the records before it."""
        ...


class Checkpointing(Protocol):
    """What a pass needs in order to be saved, interrupted and resumed.

    A pass calls `take` once, enters `listening`, calls `edge` wherever its state is consistent, and
    `save` at its end. `Checkpointer` saves to disk; a worker of a cluster keeps the state in memory
    and sends it back.
    """

    def take(self, name: str, /) -> PassState | None:
        """Return the state to resume the pass of this name from; None to start it."""
        ...

    def listening(self) -> AbstractContextManager[None]:
        """Make signals wait for the next `edge` while inside."""
        ...

    def edge(self, fraction: float, state: Callable[[], PassState], /) -> None:
        """Save if it is time to, and end the pass by an exception if it is asked to stop."""
        ...

    def save(self, state: PassState, /) -> None:
        """Save now."""
        ...


class Checkpointer:
    """Writes and reads the checkpoints of one run; used by one thread.

    Call `begin` once, then `listening` around each pass, with `edge` inside.

    `seconds` is how long the run had taken when it was interrupted, 0 for a new one. `versions` are
    compared on resuming, and a change only causes a warning: the same bits are promised only with
    the same versions on the same machine. `same_data`: resume although files of the data were
    written again.
    """

    def __init__(
        self,
        folder: Path,
        events: Events,
        *,
        versions: Json,
        keep: int = 3,
        every_seconds: float = 30.0,
        same_data: bool = False,
        interrupt: Interrupt | None = None,
    ):
        self.folder = folder
        self.events = events
        self.versions = versions
        self.keep = keep
        self.every_seconds = every_seconds
        self.same_data = same_data
        self.interrupt = interrupt or Interrupt()
        self.seconds = 0.0
        self._started = time.perf_counter()
        self._fingerprint: Json = {}
        self._next = 0
        self._resume_state: PassState | None = None
        self._saved_at = -float("inf")
        self._saved_fraction = 0.0
        self._save_seconds = 0.0

    def window_rows(self) -> int | None:
        """Return the size of the windows of the run that is resumed; None for a new run.

        What the default was when it started may have been decided by another rule, or memory.
        """
        rows = self._saved("window_rows")
        return rows if isinstance(rows, int) and rows > 0 else None

    def engine(self) -> str | None:
        """Return the engine of the run that is resumed; None for a new run."""
        engine = self._saved("engine")
        return engine if isinstance(engine, str) else None

    def _saved(self, entry: str) -> object:
        """Return an entry of the fingerprint of the run that is resumed; None for a new run."""
        for number in reversed(list_checkpoints(self.folder)):
            with suppress(DataError):  # `begin` reports it
                return _about(read_checkpoint(self.folder, number)).fingerprint.get(entry)
        return None

    def begin(self, fingerprint: Json) -> list[Record]:
        """Return the records of an interrupted run up to its last undamaged checkpoint.

        The list is empty when nothing was saved. Raises ConfigError, with each difference, when the
        run had another `fingerprint`; DataError when every checkpoint is damaged. Nothing on disk
        is changed until it is clear that the run can be resumed.
        """
        self._fingerprint = fingerprint
        numbers = list_checkpoints(self.folder)
        checkpoint = self._newest(numbers)
        if checkpoint is None:
            return []
        about = _about(checkpoint)
        with refusing_damage():
            self._check_fingerprint(with_holdout_seed(about.fingerprint))
        if changed := differences(about.versions, self.versions):
            warnings.warn(
                f"{self.folder.parent} is resumed under other versions, so the last bits of its"
                f" numbers may differ: {'; '.join(changed)}.",
                stacklevel=3,
            )
        records = self.events.rewind(about.events)
        for number in numbers[numbers.index(checkpoint.number) + 1 :]:
            remove_checkpoint(self.folder, number)
        self._next = checkpoint.number + 1
        self._resume_state = (about.state, checkpoint.arrays)
        self.seconds = about.seconds
        self._started -= self.seconds
        return records

    def _check_fingerprint(self, was: Json) -> None:
        """Raise ConfigError when the run was saved under another fingerprint."""
        run = self.folder.parent
        was = {name: self._fingerprint.get(name) for name in NEW_ENTRIES} | was
        stamps, now = was.pop("file stamps"), dict(self._fingerprint)
        stamps_now = now.pop("file stamps", None)
        check_unchanged(run, was, now)
        changed = written_again(stamps, stamps_now)
        if changed and not self.same_data:
            raise ConfigError(
                f"{run} cannot be resumed: {changed}, so rows may differ although sizes and footers"
                " do not. If it was only copied or touched, add --set checkpoint.same_data=on; if"
                " not, restore it, or choose another --out."
            )

    def take(self, name: str) -> PassState | None:
        """Return the state to resume the pass of this name from; None for a pass that starts.

        A state is returned once. Raises DataError when the run was saved within another pass that
        had not ended.
        """
        state, self._resume_state = self._resume_state, None
        if state is None or state[0].get("name") == name:
            return state
        if state[0].get("record") is None:
            saved = shown(str(state[0].get("name")))[:200]
            raise DataError(
                f"{self.folder}: it was saved in the pass {saved}, not in {name}. Resume"
                " it where it was started, on one machine or on workers, or start again with"
                " another --out."
            )
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Make signals such as Ctrl-C wait for the next `edge` while inside."""
        with self.interrupt.listening():
            yield

    def edge(self, fraction: float, state: Callable[[], PassState]) -> None:
        """Save if a save is due, or if a signal asked the run to stop, and then act on the signal.

        `fraction` is how much of the pass is done, from 0 to 1. Raises ResourceError when the disk
        is full.
        """
        now = time.perf_counter()
        asked = self.interrupt.asked is not None
        since = now - self._saved_at
        cheap = since >= self._save_seconds / MAX_SAVE_OVERHEAD
        far = abs(fraction - self._saved_fraction) >= CHECKPOINT_FRACTION
        if asked or (cheap and (far or since >= self.every_seconds)):
            self.save(state())
            self._saved_at, self._saved_fraction = time.perf_counter(), fraction
            self._save_seconds = self._saved_at - now
        if asked:
            self.interrupt.leave()

    def save(self, state: PassState) -> None:
        """Write a checkpoint now, and remove all but the last few.

        Raises ResourceError; earlier checkpoints stay as they are.
        """
        document, arrays = state
        try:
            if not self.folder.is_dir():
                make_folder(self.folder, within=self.folder.parent)
                sync_folder(self.folder.parent)
            about = {
                "fingerprint": self._fingerprint,
                "versions": self.versions,
                "events": to_json(self.events.mark()),
                "seconds": time.perf_counter() - self._started,
                "state": document,
            }
            write_checkpoint(
                self.folder, Checkpoint(number=self._next, document=about, arrays=arrays)
            )
        except OSError as error:
            raise ResourceError(
                f"{self.folder}: checkpoint {self._next} cannot be written"
                f" ({error.strerror or error}); earlier ones are intact. Free some space, then"
                " continue with --resume auto."
            ) from error
        self._next += 1
        self._prune()

    def _prune(self) -> None:
        """Remove old checkpoints. A failure does no harm, and the next save tries again."""
        with suppress(OSError):
            for number in list_checkpoints(self.folder)[: -self.keep]:
                remove_checkpoint(self.folder, number)

    def _newest(self, numbers: list[int]) -> Checkpoint | None:
        """Return the last undamaged checkpoint, with a warning for each damaged one after it.

        Returns None when there are no checkpoints, and raises DataError when all are damaged.
        """
        problems: list[str] = []
        for number in reversed(numbers):
            try:
                checkpoint = read_checkpoint(self.folder, number)
                self.events.check(_about(checkpoint).events)
            except DataError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(
                    f"{problem}; resuming from checkpoint {number}, the one before.", stacklevel=4
                )
            return checkpoint
        if problems:
            raise DataError(
                f"{self.folder}: no checkpoint can be used: {'; '.join(problems)}. Restore one of"
                " them, or start again with another --out."
            )
        return None
