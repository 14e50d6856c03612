"""The rows of one lane on the worker that reads it: blocks of its windows, epoch after epoch, taken
a few rows at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import numpy as np

from streamtrain.base.budget import Budget
from streamtrain.base.units import format_bytes
from streamtrain.errors import ResourceError
from streamtrain.plan.plan import Plan
from streamtrain.run.prepare import Prepared
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.fetch import FetchStats, fetch
from streamtrain.stream.nulls import NullCounts
from streamtrain.types import Receipt

#: Of a lane: one block is used, one is ready, one is built.
LANE_WINDOWS = 3

#: (epoch) → the plans of its lanes.
Lanes = Callable[[int], list[Plan]]


class LaneFeed:
    """One lane from row `row` of an epoch on. Owned by one thread; `close` ends its own."""

    def __init__(
        self,
        prepared: Prepared,
        lanes: Lanes,
        lane: int,
        budget: Budget,
        *,
        epoch: int,
        row: int,
        last_epoch: int | None,
    ):
        plan = lanes(epoch)[lane]
        window = plan.window_at(row) if row < plan.num_rows else len(plan)
        self._start = row - int(plan.window_starts[window]) if window < len(plan) else 0
        self._block: Block | None = None
        self.receipt, self.stats = Receipt(), FetchStats()
        self.nulls: NullCounts = Counter()
        self._told: dict[str, float] = {}
        epochs = count(epoch + 1) if last_epoch is None else range(epoch + 1, last_epoch)
        later = (one for number in epochs for one in lanes(number)[lane].windows())
        windows = (one for part in (plan.windows(window), later) for one in part)
        pool = BufferPool(budget.window_rows, prepared.source.num_columns, keep=budget.windows)
        self._blocks = fetch(windows, prepared.source, budget, self.stats, pool)

    def take(self, rows: int) -> Iterator[tuple[np.ndarray, int, int]]:
        """(block, start, stop) for the lane's next rows; they lie in one epoch."""
        while rows:
            if self._block is None:
                self._block = next(self._blocks)
            block, start = self._block.rows, self._start
            stop = min(len(block), start + rows)
            if stop > start:
                yield block, start, stop
            rows -= stop - start
            self._start = stop
            if stop == len(block):
                self._finish_block()

    def end_run(self) -> None:
        """Count the block that the run ended in, as a pass does; also one that another group began
        and this one took no row of.
        """
        if self._start:
            self._block = self._block or next(self._blocks)
            self._finish_block()

    def delivered(self) -> tuple[Receipt, NullCounts, dict[str, float]]:
        """What was counted since the last call, of blocks that were used to their end; and what the
        parts of delivery took since.
        """
        stats = self.stats.to_json()
        counted = (
            self.receipt,
            self.nulls,
            {name: value - self._told.get(name, 0) for name, value in stats.items()},
        )
        self.receipt, self.nulls, self._told = Receipt(), Counter(), stats
        return counted

    def close(self) -> None:
        self._block = None
        self._blocks.close()

    def _finish_block(self) -> None:
        assert self._block is not None
        self.receipt += self._block.receipt
        self.nulls = self.nulls + self._block.nulls
        self._block, self._start = None, 0


def lane_budget(prepared: Prepared, lanes: int, owned: int) -> Budget:
    """What each of the `owned` lanes of a worker may hold.

    Raises ResourceError when they do not fit together.
    """
    budget, source = prepared.budget, prepared.source
    rows = min(
        budget.window_rows, max(-(-prepared.window_rows // lanes), int(source.spans.num_rows.max()))
    )
    one = replace(
        budget,
        window_rows=rows,
        window_bytes=rows * source.num_columns * 4,
        readers=1,
        windows=LANE_WINDOWS,
    )
    needed = owned * (LANE_WINDOWS * one.window_bytes + one.decode_bytes) + one.fixed_bytes
    if needed > budget.limit_bytes:
        raise ResourceError(
            f"{owned} lanes of {rows:,} rows a window need {format_bytes(needed)} on one worker;"
            f" its budget is {format_bytes(budget.limit_bytes)}. Use more workers, raise --memory,"
            " or lower --window-rows."
        )
    return one
