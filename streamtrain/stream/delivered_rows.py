"""The rows that a pass, or a worker's part of one, has read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamtrain.stream.block import Block
from streamtrain.stream.fetch import FetchStats
from streamtrain.stream.nulls import NullCounts
from streamtrain.types import Json, Receipt


@dataclass(slots=True)
class DeliveredRows:
    """Which rows were delivered, the values dropped or imputed in them, and the work it took."""

    receipt: Receipt = field(default_factory=Receipt)
    nulls: NullCounts = field(default_factory=Counter)
    stats: FetchStats = field(default_factory=FetchStats)

    def add_block(self, block: Block) -> None:
        """Count a block; its `stats` are counted by the stream."""
        self.receipt += block.receipt
        self.nulls += block.nulls

    def add(self, other: "DeliveredRows") -> None:
        """Count what another one has."""
        self.receipt += other.receipt
        self.nulls += other.nulls
        self.stats.add(**other.stats.to_json())

    def to_json(self) -> Json:
        """Return a JSON document for a checkpoint."""
        return {
            "receipt": self.receipt.to_json(),
            "nulls": [[*key, count] for key, count in sorted(self.nulls.items())],
            "stats": self.stats.to_json(),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "DeliveredRows":
        """Return what `to_json` described; other keys are ignored.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        return DeliveredRows(
            receipt=Receipt.from_json(document["receipt"]),
            nulls=Counter({(shard, column): count for shard, column, count in document["nulls"]}),
            stats=FetchStats(**document["stats"]),
        )
