"""Merge the records of separately trained learners into the order of one machine.

One machine feeds a block to the learners of a pass one after another, then the next block. So
records are ordered by block, then by the learner's index in the pass, then as the learner emitted
them. The records before a block are complete once every learner is past it.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

from streamtrain.records import Record

#: (epoch, window): the block at which a record was emitted.
BlockPosition = tuple[float, float]

START: BlockPosition = (0, 0)

#: After every block.
END: BlockPosition = (math.inf, math.inf)


class RecordMerge:
    """Merges the records of `learners` learners.

    Records of different learners may come in any order; the records of one learner come in
    sequence.
    """

    def __init__(self, learners: int):
        self._waiting: list[deque[tuple[BlockPosition, Record]]] = [
            deque() for _ in range(learners)
        ]
        self._reached = [START] * learners

    def add(
        self,
        learner: int,
        records: Sequence[tuple[BlockPosition, Record]],
        reached: BlockPosition,
    ) -> None:
        """Add records of a learner that comes to the block `reached` next.

        It will emit no more records of earlier blocks.
        """
        self._waiting[learner].extend(records)
        self._reached[learner] = reached

    def ready(self) -> Iterator[Record]:
        """Remove and return the records that no other record can precede any more."""
        complete = min(self._reached)
        while True:
            position, learner = min(
                ((queue[0][0], learner) for learner, queue in enumerate(self._waiting) if queue),
                default=(END, -1),
            )
            if learner < 0 or (position >= complete and complete != END):
                return
            yield self._waiting[learner].popleft()[1]

    def waiting(self) -> list[list[tuple[BlockPosition, Record]]]:
        """Return the records that are not ready, per learner, for a checkpoint."""
        return [list(queue) for queue in self._waiting]
