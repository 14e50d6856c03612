"""The position of an iterator of a Stream: what it has delivered of its epoch."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamtrain.plan.order import hash_array
from streamtrain.plan.plan import Plan
from streamtrain.stream.block import Block
from streamtrain.stream.source import Source
from streamtrain.stream.window import RECEIPT_KEY, window_ids
from streamtrain.types import Receipt


@dataclass(frozen=True, slots=True, eq=False)
class OpenWindow:
    """The window whose rows are being delivered.

    Attributes:
        index: Its number in the epoch; at the end of the epoch, the number of windows.
        before: The receipt of all windows before it.
        num_rows: The rows of its block; before it was read, those of the plan.
        dropped: What `Block.dropped` says; empty before the block was read.
    """

    index: int
    before: Receipt
    num_rows: int = 0
    dropped: tuple[np.ndarray, ...] = ()

    @staticmethod
    def of_plan(plan: Plan, index: int, before: Receipt) -> "OpenWindow":
        """Return window `index`, before its block was read."""
        rows = plan.window(index).num_rows if index < len(plan) else 0
        return OpenWindow(index, before, rows)


class Position:
    """How far one iterator has come. No two iterators share a position.

    One thread moves it; any thread may read it. `at` is the window and the number of its rows that
    were delivered: a tuple that is replaced as a whole, so that other threads never see a partial
    update.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        start: tuple[OpenWindow, int] | None = None,
        receipt: Receipt | None = None,
    ):
        self.plan, self.source = plan, source
        self.start = start or (OpenWindow.of_plan(plan, 0, Receipt()), 0)
        self.at = self.start
        #: Whether the iterator has ended by itself.
        self.finished = False
        self.blocks: Generator[Block, None, None] | None = None
        #: A place, and the receipt of the rows before it.
        self._counted = self.at, receipt or Receipt()
        self._ids: tuple[OpenWindow, np.ndarray] | None = None

    @property
    def untouched(self) -> bool:
        """Whether nothing was delivered from here yet."""
        return self.at is self.start and not self.finished

    def again(self) -> "Position":
        """Return a new position at the same place. Call it on an untouched position only."""
        return Position(self.plan, self.source, self.start, self._counted[1])

    def is_over(self, fewest_rows: int) -> bool:
        """Return whether the epoch has no minibatch left: fewer than `fewest_rows` rows."""
        window, row = self.at
        starts = self.plan.window_starts
        later_rows = int(starts[-1] - starts[min(window.index + 1, len(self.plan))])
        return self.finished or window.num_rows - row + later_rows < fewest_rows

    def place(self) -> tuple[Receipt, tuple[OpenWindow, int]]:
        """Return the receipt of the rows delivered in the epoch, and its `at`."""
        at = self.at
        counted, receipt = self._counted
        if counted is not at:
            window, row = at
            receipt = window.before + self._receipt_of(window, row)
            self._counted = at, receipt
        return receipt, at

    def _receipt_of(self, window: OpenWindow, row: int) -> Receipt:
        """Return the receipt of the first rows of a window.

        Their ids follow from the plan and from the rows that were dropped.
        """
        if row == 0:
            return Receipt()
        cached, ids = self._ids or (None, None)
        if cached is not window or ids is None:
            ids = window_ids(self.plan.window(window.index), self.source, window.dropped)
            self._ids = window, ids
        hashes = hash_array(ids[:row], int(RECEIPT_KEY))
        return Receipt(count=row, digest=int(hashes.sum(dtype=np.uint64)))

    def close(self) -> None:
        """Stop reading for this position's iterator, and free the windows read ahead."""
        # A generator that another thread is running is closed by that thread, when its iterator is
        # refused. Closing it here would crash CPython 3.11, which inspects the frame of a running
        # generator.
        blocks: Any = self.blocks  # `Generator` lacks gi_running
        if blocks is not None and not blocks.gi_running:
            blocks.close()
