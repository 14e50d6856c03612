"""What a sweep's pass is cut into, and what a part costs: one unit a (batch size, trial), with all
its learning rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

#: Operations a row and parameter, of a step a parameter, and of any step at all: what one replica
#: costs on one core (kernels/: forward and backward passes in layers.py, the update in updates.py,
#: the call in mlp.py).
ROW_OPERATIONS, STEP_OPERATIONS, CALL_OPERATIONS = 6.0, 30.0, 2e3

#: Reading and shuffling a row, in the same operations: what every unit does once, however many
#: rates it has.
READ_OPERATIONS = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One learner of a pass.

    `number` is its place among the pass's learners, which its records come out in.
    """

    number: int
    batch_size: int
    lrs: tuple[float, ...]
    trial: int


def cut_units(lrs: Mapping[int, tuple[float, ...]], trial: int) -> list[Unit]:
    """The units of a pass, in the order of its learners.

    >>> [unit.batch_size for unit in cut_units({64: (0.1,), 256: (0.1, 0.2)}, trial=0)]
    [64, 256]
    """
    return [
        Unit(number=i, batch_size=size, lrs=rates, trial=trial)
        for i, (size, rates) in enumerate(lrs.items())
    ]


def expected_cost(unit: Unit, *, rows: int, num_parameters: int) -> float:
    """Of `rows` more rows, in operations: replicas share the reading, and small minibatches step
    more often.
    """
    steps = rows / unit.batch_size
    replica = (
        num_parameters * (ROW_OPERATIONS * rows + STEP_OPERATIONS * steps) + CALL_OPERATIONS * steps
    )
    return 1.0 + READ_OPERATIONS * rows + len(unit.lrs) * replica
