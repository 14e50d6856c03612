"""What the driver and the workers of a synchronous run tell each other."""

from collections import Counter
from dataclasses import dataclass, field

from streamtrain.records import Record
from streamtrain.stream.nulls import NullCounts
from streamtrain.training.checkpointing import PassState
from streamtrain.types import Json, Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Who takes part.

    `rank` of `size` workers, who meet at `address`. `run` and `generation` together are no other
    group's.
    """

    run: str
    generation: int
    rank: int
    size: int
    address: tuple[str, int]
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaneWork:
    """So many `steps` from a committed place.

    `done` minibatches of `epoch`, and the learner's state there (None: the beginning).
    """

    batch_size: int
    lrs: tuple[float, ...]
    trial: int
    lanes: int
    keeps_best: bool
    group: Group
    epoch: int = 0
    done: int = 0
    state: PassState | None = None
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LanesDone:
    """Where the group is now.

    `told` and `state` are the first worker's alone: all have the same. The rest is each one's own:
    receipts and what was dropped are of blocks used to their end since the last commit, and so are
    `stats`. `backend`: what sums.
    """

    told: list[Record]
    state: PassState | None
    epoch: int
    done: int
    steps: int
    seconds: float
    backend: str
    receipt: Receipt = field(default_factory=Receipt)
    nulls: NullCounts = field(default_factory=Counter)
    stats: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """A task that came to nothing because of others: what was seen of it."""

    why: str
