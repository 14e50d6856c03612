"""A minibatch size that changes during training: `batch_schedule`, and `batch_size` auto."""

from dataclasses import dataclass

from streamtrain.base.units import MAX_COUNT
from streamtrain.config import AUTO, TrainConfig
from streamtrain.plan.batch_sizes import growing_sizes
from streamtrain.records import BatchStage


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
        for size, row in train.sizes[1:]
    )


def with_sizes(train: TrainConfig, epoch_rows: int, last_row: int) -> TrainConfig:
    """Return the config with the sizes that `batch_size: auto` stands for; any other as it is.

    `epoch_rows`: the training rows of the data. Sizes that would not begin before `last_row`,
    where training ends at the latest, are left out.

    >>> with_sizes(TrainConfig(batch_size="auto"), 10_000, 200_000).sizes
    ((32, 0), (64, 131072))
    """
    if train.batch_size != AUTO:
        return train
    first, *later = growing_sizes(epoch_rows)
    sizes = (first, *(pair for pair in later if pair[1] < last_row))
    return train.model_copy(update={"batch_size": first[0], "batch_schedule": sizes})


def most_sizes(train: TrainConfig) -> int:
    """Return how many minibatch sizes a training has at most, whatever its rows.

    >>> most_sizes(TrainConfig()), most_sizes(TrainConfig(batch_schedule="8@0,16@9,8@99"))
    (1, 2)
    """
    sizes = growing_sizes(MAX_COUNT) if train.batch_size == AUTO else train.sizes
    return len({size for size, _ in sizes})


def all_stages(train: TrainConfig) -> tuple[BatchStage, ...]:
    """Return the sizes of a config as records have them; one where the size does not change."""
    return tuple(BatchStage(first_row=row, batch_size=size) for size, row in train.sizes)


def rows_to_edge(row: int, rows: int, taken: int, batch_size: int) -> int:
    """Return the rows from `rows` to the first minibatch edge at or after row `row`.

    `taken`: the rows that the current minibatch already has at `rows`.

    >>> rows_to_edge(100, 90, 8, 32), rows_to_edge(100, 104, 22, 32), rows_to_edge(100, 104, 0, 32)
    (24, 10, 0)
    """
    wait = max(0, row - rows)
    return wait + -(taken + wait) % batch_size
