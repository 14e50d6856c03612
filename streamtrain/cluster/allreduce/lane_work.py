"""What the driver and the workers of a synchronous run send each other."""

from dataclasses import dataclass

from streamtrain.records import Record
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.training.checkpointing import PassState


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """One worker's place in a group: `rank` of `size` workers, whose store is at `address`.

    No two groups have the same `run` and `generation`.
    """

    run: str
    generation: int
    rank: int
    size: int
    address: tuple[str, int]
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaneTask:
    """`steps` more steps from a commit.

    The commit is `done` minibatches of `epoch`, and the learner's state there (None: the start).
    `ends_run`: training ends there, so the block in which it ends counts.
    """

    batch_size: int
    lrs: tuple[float, ...]
    trial: int
    lanes: int
    keeps_best: bool
    group: RankInfo
    epoch: int = 0
    done: int = 0
    state: PassState | None = None
    steps: int = 0
    ends_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaneResult:
    """Where the group is after a task.

    `records` and `state` come from the first worker only, since all workers have the same.
    `delivered` is each worker's own: the blocks used to their end since the last commit. `backend`:
    the library that sums gradients.
    """

    records: list[Record]
    state: PassState | None
    epoch: int
    done: int
    steps: int
    seconds: float
    backend: str
    delivered: DeliveredRows
