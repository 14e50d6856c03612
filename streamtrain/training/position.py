"""The position of a pass: the next window and row, the counts so far, the state of its learners."""

import time

import numpy as np

from streamtrain.errors import DataError
from streamtrain.records import PassEnded, parse_pass
from streamtrain.stream.block import Block
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.stream.quarantine import Quarantine
from streamtrain.training.checkpoint import nest, unnest
from streamtrain.training.checkpointing import PassState, refusing_damage
from streamtrain.training.learner import Learner
from streamtrain.types import Json


class Position:
    """How far a pass has come; used by the thread that runs the pass.

    The next row is row `row` of window `window` of epoch `epoch`; `delivered` counts the windows
    before that one. `name` identifies the pass within its run. `active` are the learners whose
    outcome is not known yet. `record` is the pass's own record, once it has ended.
    """

    def __init__(self, name: str, learners: list[Learner], quarantine: Quarantine | None = None):
        self._quarantine = quarantine
        self.name = name
        self.learners = learners
        self.active = list(learners)
        self.epoch = self.window = self.row = 0
        self.delivered = DeliveredRows()
        self.started = self.first_block = self.trained = time.perf_counter()
        self.record: PassEnded | None = None

    @property
    def rows(self) -> int:
        """The rows that the furthest learner has trained on."""
        return max((learner.rows for learner in self.learners), default=0)

    @property
    def seconds(self) -> float:
        """The duration of the pass so far, without the time between interruption and resumption."""
        return time.perf_counter() - self.started

    def move_past(self, block: Block) -> None:
        """Count a block that every learner has trained on completely."""
        self.delivered.add_block(block)
        self.row = 0
        if block.ends_epoch:
            self.epoch, self.window = block.epoch + 1, 0
        else:
            self.epoch, self.window = block.epoch, block.index + 1
        self.trained = time.perf_counter()

    def state(self) -> PassState:
        """Return everything needed to resume here with learners constructed in the same way."""
        now = time.perf_counter()
        learners: dict[str, Json] = {}
        arrays: dict[str, np.ndarray] = {}
        for number, learner in enumerate(self.learners):
            if learner in self.active:
                learners[str(number)], learner_arrays = learner.state()
                arrays |= nest(str(number), learner_arrays)
        document = {
            "name": self.name,
            "epoch": self.epoch,
            "window": self.window,
            "row": self.row,
            **self.delivered.to_json(),
            "seconds": now - self.started,
            "fill_seconds": self.first_block - self.started,
            "training_seconds": self.trained - self.first_block,
            "learners": learners,
            "record": None if self.record is None else self.record.to_json(),
            "quarantine": None if self._quarantine is None else self._quarantine.to_json(),
        }
        return document, arrays

    @refusing_damage()
    def load_state(self, state: PassState) -> None:
        """Continue from a `state`. Raises DataError when it belongs to other learners."""
        document, arrays = state
        numbers = {str(number) for number in range(len(self.learners))}
        if not document["learners"].keys() <= numbers:
            raise DataError(
                f"the checkpoint's pass {document['name']} has other learners. Start the run again"
                " with another --out."
            )
        for number, learner_state in document["learners"].items():
            self.learners[int(number)].load_state(learner_state, unnest(number, arrays))
        self.active = [self.learners[int(number)] for number in document["learners"]]
        self.epoch, self.window, self.row = document["epoch"], document["window"], document["row"]
        self.delivered = DeliveredRows.from_json(document)
        self.started = time.perf_counter() - document["seconds"]
        self.first_block = self.started + document["fill_seconds"]
        self.trained = self.first_block + document["training_seconds"]
        self.record = parse_pass(document["record"])
        if self._quarantine is not None and document.get("quarantine") is not None:
            self._quarantine.restore(document["quarantine"])
