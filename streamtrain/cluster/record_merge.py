"""Records of units that were done apart, in the order in which one machine would have told them.

One machine feeds a block to the pass's learners one after another, then the next block. So records
are ordered by block, then by the learner's place in the pass, then as the learner told them; and
what comes before a block is known once every unit is beyond it.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

from streamtrain.records import Record

Place = tuple[float, float]

#: Beyond every block.
END: Place = (math.inf, math.inf)


class Merge:
    """Records of `units` units come in any order of units; each unit's own come in theirs."""

    def __init__(self, units: int):
        self._waiting: list[deque[tuple[Place, Record]]] = [deque() for _ in range(units)]
        self._reached: list[Place] = [(0, 0)] * units

    def add(self, unit: int, told: Sequence[tuple[Place, Record]], reached: Place) -> None:
        """What a unit told, and the block that it comes to next: nothing before that one is still
        to come from it.
        """
        self._waiting[unit].extend(told)
        self._reached[unit] = reached

    def ready(self) -> Iterator[Record]:
        """The records whose turn it is; they are taken out."""
        known = min(self._reached)
        while True:
            place, unit = min(
                ((queue[0][0], unit) for unit, queue in enumerate(self._waiting) if queue),
                default=(END, -1),
            )
            if unit < 0 or (place >= known and known != END):
                return
            yield self._waiting[unit].popleft()[1]

    def waiting(self) -> list[list[tuple[Place, Record]]]:
        """What is not ready, by unit: for a checkpoint."""
        return [list(queue) for queue in self._waiting]
