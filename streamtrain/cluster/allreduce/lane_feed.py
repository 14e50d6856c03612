"""The rows of one lane on the worker that reads it: blocks of its windows, epoch after epoch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import numpy as np

from streamtrain.base.budget import Budget
from streamtrain.base.units import format_bytes
from streamtrain.errors import ResourceError
from streamtrain.plan.plan import Plan, Window
from streamtrain.run.prepare import Prepared
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.stream.fetch import FetchStats, fetch

#: Windows of a lane in memory: one block is used, one is ready, one is built.
LANE_WINDOWS = 3

#: (epoch) → the plans of its lanes.
LanePlans = Callable[[int], list[Plan]]


class LaneFeed:
    """The rows of one lane, from row `row` of an epoch on.

    Owned by one thread; `close` ends the threads that it started.
    """

    def __init__(
        self,
        prepared: Prepared,
        plans_of: LanePlans,
        lane: int,
        budget: Budget,
        *,
        epoch: int,
        row: int,
        last_epoch: int | None,
    ):
        plan = plans_of(epoch)[lane]
        window = plan.window_at(row) if row < plan.num_rows else len(plan)
        self._start = row - int(plan.window_starts[window]) if window < len(plan) else 0
        self._block: Block | None = None
        self._delivered, self._stats = DeliveredRows(), FetchStats()
        self._reported_stats: dict[str, float] = {}

        def windows() -> Iterator[Window]:
            yield from plan.windows(window)
            later_epochs = count(epoch + 1) if last_epoch is None else range(epoch + 1, last_epoch)
            for number in later_epochs:
                yield from plans_of(number)[lane].windows()

        buffers = BufferPool(budget.window_rows, prepared.source.num_columns, keep=budget.windows)
        self._blocks = fetch(windows(), prepared.source, budget, self._stats, buffers)

    def take(self, rows: int) -> Iterator[tuple[np.ndarray, int, int]]:
        """Yield (block, start, stop) for the next `rows` rows, which must be of one epoch."""
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
        """Count the block in which the run ended, as a pass does.

        That includes a block started by an earlier group, of which this one took no row.
        """
        if self._start:
            self._block = self._block or next(self._blocks)
            self._finish_block()

    def take_delivered(self) -> DeliveredRows:
        """Return what was delivered since the last call: of rows, only blocks that were used up."""
        delivered, stats, reported = self._delivered, self._stats.to_json(), self._reported_stats
        delivered.stats.add(**{name: stats[name] - reported.get(name, 0) for name in stats})
        self._delivered, self._reported_stats = DeliveredRows(), stats
        return delivered

    def close(self) -> None:
        """End the threads that build blocks."""
        self._block = None
        self._blocks.close()

    def _finish_block(self) -> None:
        assert self._block is not None
        self._delivered.add_block(self._block)
        self._block, self._start = None, 0


def lane_budget(prepared: Prepared, lanes: int, owned: int) -> Budget:
    """Return the budget of each of the `owned` lanes of a worker.

    Raises ResourceError when they do not fit together.
    """
    budget, source = prepared.budget, prepared.source
    lane_rows = max(-(-prepared.source.window_rows // lanes), int(source.spans.num_rows.max()))
    rows = min(budget.window_rows, lane_rows)
    one_lane = replace(
        budget,
        window_rows=rows,
        window_bytes=rows * source.num_columns * 4,
        readers=1,
        windows=LANE_WINDOWS,
    )
    lane_bytes = LANE_WINDOWS * one_lane.window_bytes + one_lane.decode_bytes
    needed = owned * lane_bytes + one_lane.fixed_bytes
    if needed > budget.limit_bytes:
        raise ResourceError(
            f"{owned} lanes with windows of {rows:,} rows need {format_bytes(needed)} on one"
            f" worker; its budget is {format_bytes(budget.limit_bytes)}. Use more workers, raise"
            " --memory, or lower --window-rows."
        )
    return one_lane
