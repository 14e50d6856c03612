"""Where a pass stands: which block and row come next, what has been counted, and the learners that
are still at work.
"""

import time
from collections import Counter

from streamtrain.errors import DataError
from streamtrain.records import PassEnded, parse_pass
from streamtrain.stream.block import Block
from streamtrain.stream.fetch import FetchStats
from streamtrain.stream.nulls import NullCounts
from streamtrain.stream.quarantine import Quarantine
from streamtrain.training.checkpointing import PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Receipt


class Position:
    """`window` and `row` of it come next in `epoch`; counts are of the windows before.

    `name` tells passes of a run apart.

    `record`: the pass's own, once it has ended. Owned by the thread that runs the pass.
    """

    def __init__(self, name: str, learners: list[Learner], quarantine: Quarantine | None = None):
        self._quarantine = quarantine
        self.name, self.learners, self.active = name, learners, list(learners)
        self.epoch = self.window = self.row = self.rows_read = 0
        self.receipt, self.stats = Receipt(), FetchStats()
        self.nulls: NullCounts = Counter()
        self.started = self.first_block = self.trained = time.perf_counter()
        self.record: PassEnded | None = None

    @property
    def rows(self) -> int:
        """Rows that the furthest learner has trained on."""
        return max((learner.rows for learner in self.learners), default=0)

    @property
    def seconds(self) -> float:
        """Since the pass began, without the time between an interruption and its resumption."""
        return time.perf_counter() - self.started

    def move_past(self, block: Block) -> None:
        """Every learner has taken the whole of this block."""
        self.rows_read += len(block.rows)
        self.receipt += block.receipt
        self.nulls += block.nulls
        self.epoch, self.window, self.row = (
            (block.epoch + 1, 0, 0) if block.ends_epoch else (block.epoch, block.index + 1, 0)
        )
        self.trained = time.perf_counter()

    def state(self) -> PassState:
        """All that is needed to go on from here with other learners made alike."""
        now, learners, arrays = time.perf_counter(), {}, {}
        for number, learner in enumerate(self.learners):
            if learner in self.active:
                learners[str(number)], own = learner.state()
                arrays |= {f"{number}/{name}": array for name, array in own.items()}
        document = {
            "name": self.name,
            "epoch": self.epoch,
            "window": self.window,
            "row": self.row,
            "rows_read": self.rows_read,
            "receipt": self.receipt.to_json(),
            "nulls": [[*key, count] for key, count in sorted(self.nulls.items())],
            "stats": self.stats.to_json(),
            "seconds": now - self.started,
            "fill_seconds": self.first_block - self.started,
            "training_seconds": self.trained - self.first_block,
            "learners": learners,
            "record": None if self.record is None else self.record.to_json(),
            "quarantine": None if self._quarantine is None else self._quarantine.to_json(),
        }
        return document, arrays

    def load_state(self, state: PassState) -> None:
        """Go on from a `state`. Raises DataError when it is that of other learners."""
        document, arrays = state
        if not all(
            number.isdecimal() and int(number) < len(self.learners)
            for number in document["learners"]
        ):
            raise DataError(
                f"the checkpoint's pass {document['name']} has other learners. Begin the run again"
                " with another --out."
            )
        for number, about in document["learners"].items():
            prefix = f"{number}/"
            own = {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            self.learners[int(number)].load_state(about, own)
        self.active = [self.learners[int(number)] for number in document["learners"]]
        self.epoch, self.window, self.row = document["epoch"], document["window"], document["row"]
        self.rows_read, self.receipt = document["rows_read"], Receipt.from_json(document["receipt"])
        self.nulls = Counter({(shard, column): count for shard, column, count in document["nulls"]})
        self.stats = FetchStats(**document["stats"])
        self.started = time.perf_counter() - document["seconds"]
        self.first_block = self.started + document["fill_seconds"]
        self.trained = self.first_block + document["training_seconds"]
        self.record = parse_pass(document["record"])
        if self._quarantine is not None and document.get("quarantine") is not None:
            self._quarantine.restore(document["quarantine"])
