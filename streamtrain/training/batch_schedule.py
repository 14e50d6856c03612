"""A minibatch size that changes during training: `train.batch_schedule`."""

from dataclasses import dataclass

from streamtrain.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Minibatches of one size, from the first minibatch edge at or after `first_row`.

    `beta2`: Adam's β₂ per step of that size.
    """

    first_row: int
    batch_size: int
    beta2: float


def later_stages(train: TrainConfig) -> tuple[Stage, ...]:
    """Return the stages after the first one; empty when the size does not change.

    Raises ConfigError if beta2 is too close to 1 for float32 at one of the sizes.

    >>> later_stages(TrainConfig(batch_schedule="32@0,1024@64k"))
    (Stage(first_row=64000, batch_size=1024, beta2=0.999),)
    """
    return tuple(
        Stage(first_row=row, batch_size=size, beta2=train.at(size).beta2)
        for size, row in (train.batch_schedule or ())[1:]
    )


def rows_to_edge(row: int, rows: int, taken: int, batch_size: int) -> int:
    """Return the rows from `rows` to the first minibatch edge at or after row `row`.

    `taken`: the rows that the current minibatch already has at `rows`.

    >>> rows_to_edge(100, 90, 8, 32), rows_to_edge(100, 104, 22, 32), rows_to_edge(100, 104, 0, 32)
    (24, 10, 0)
    """
    wait = max(0, row - rows)
    return wait + -(taken + wait) % batch_size
