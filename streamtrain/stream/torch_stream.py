"""The public Stream: an epoch of shuffled minibatches as torch tensors.

Also `torch.utils.data.IterableDataset`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from streamtrain.config import Config, flag_values, make_config
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.order import hash_array
from streamtrain.plan.plan import Plan, make_plan
from streamtrain.records import to_json
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.remote.filesystem import make_storage
from streamtrain.stream.block import BufferPool
from streamtrain.stream.fetch import FetchStats, fetch
from streamtrain.stream.nulls import NullCounts, summarize_nulls
from streamtrain.stream.open_source import open_source, stream_budget, with_fill
from streamtrain.stream.window import RECEIPT_KEY, shuffle_once, window_ids
from streamtrain.types import Json, Receipt, Span

_STREAM_FLAGS = {
    "features": "data.features",
    "target": "data.target",
    "holdout": "data.holdout",
    "seed": "order.seed",
    "span_rows": "order.span_rows",
    "window_rows": "order.window_rows",
    "memory": "fetch.memory",
    "readers": "fetch.readers",
    "batch_size": "train.batch_size",
    "device": "train.device",
    "on_null": "data.on_null",
    "transform": "data.transform",
    "on_bad_shard": "data.on_bad_shard",
    "timeout_seconds": "fetch.timeout_seconds",
    "storage_options": "data.storage_options",
}

#: What a position cannot do without.
_STATE_KEYS = ("epoch", "window", "row", "receipt", "receipt_before_window", "imputed", "order")


class Stream(IterableDataset):
    """Shuffled minibatches of a data set, out of core, each row exactly once an epoch.

    Iterating yields `(x, y)`: float32 tensors (batch, features) and (batch, 1) of raw values; the
    last minibatch of an epoch may be short unless `drop_last`. The tensors belong to the caller:
    their memory is used again only after they are dropped. An epoch that was iterated to its end
    moves the stream on to the next one, which has another order. One thread at a time may iterate;
    reading ahead happens on threads of the stream's own.

    Raises DataError for rows that cannot be used, ResourceError when two windows do not fit
    `memory`.
    """

    def __init__(self, path: str, config: Config, *, drop_last: bool = False):
        super().__init__()
        data, order = config.data, config.order
        self.batch_size, self.drop_last = config.train.batch_size, drop_last
        self.device = open_device(config.train.device)
        storage = make_storage(data.storage_options, timeout_seconds=config.fetch.timeout_seconds)
        dataset = open_shards(
            path,
            features=data.features,
            target=data.target,
            on_bad_shard=data.on_bad_shard,
            storage=storage,
        )
        source, self._window_rows = open_source(
            dataset,
            seed=order.seed,
            span_rows=order.span_rows,
            window_rows=order.window_rows,
            holdout=0 if data.holdout is None else data.holdout,
            eval_rows=config.eval.eval_rows,
            on_null=data.on_null,
            transform=data.transform,
            on_bad_shard=data.on_bad_shard,
            timeout_seconds=config.fetch.timeout_seconds,
            limit_bytes=config.fetch.memory,
        )
        self._source = with_fill(source)
        self.dataset = source.dataset
        self._seed = order.seed
        self._go_to(0)
        width = self._source.num_columns
        carried_bytes = 2 * min(self.batch_size, self.dataset.num_rows) * width * 4
        self.budget = stream_budget(
            self._source, self._window_rows, config.fetch, fixed_bytes=carried_bytes
        )
        self._pool = BufferPool(self.budget.window_rows, width, keep=self.budget.windows)
        self._stats = FetchStats()
        self._nulls: NullCounts = Counter()

    def __len__(self) -> int:
        """Minibatches in an epoch: known before it starts, the same in every epoch.

        With `on_null="drop"`, or spans in quarantine, an upper bound.
        """
        whole, rest = divmod(self._plan.num_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def num_rows(self) -> int:
        """Rows an epoch delivers: all but the held-out ones.

        With `on_null="drop"`, or spans in quarantine, an upper bound; `receipt` has the count.
        """
        return self._plan.num_rows

    @property
    def epoch(self) -> int:
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; naming the epoch that a loaded state is in keeps the state's
        position.
        """
        _refuse_position("epoch", epoch)
        if not (self._resumed and epoch == self._epoch):
            self._go_to(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain JSON values: epoch, window, rows of it delivered; and what the
        order of rows depends on.
        """
        epoch, window, row, receipt, before = (
            self._epoch,
            self._window,
            self._row,
            self.receipt(),
            self._receipts[self._window],
        )
        if self._finished:
            epoch, window, row, receipt, before = epoch + 1, 0, 0, Receipt(), Receipt()
        return {
            "epoch": epoch,
            "window": window,
            "row": row,
            "receipt": receipt.to_json(),
            "receipt_before_window": before.to_json(),
            "imputed": None if self._source.fill is None else self._source.fill.tolist(),
            "quarantine": self.quarantine(),
            "order": self._order(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position: the next iteration delivers the rows after it.

        The batch size may be another one.

        Raises ConfigError when the order of the rows would not be the one the position belongs to.
        """
        missing = [name for name in _STATE_KEYS if not isinstance(state, dict) or name not in state]
        if missing:
            raise ConfigError(
                f"this is not a Stream's state: {', '.join(missing)} missing. Use what state_dict()"
                " gave."
            )
        then = state["order"]
        changed = [
            f"{name} was {then.get(name)!r}, is {now!r}"
            for name, now in self._order().items()
            if then.get(name) != now
        ]
        if changed:
            raise ConfigError(
                f"this state belongs to another order of rows ({'; '.join(changed)}). Open the"
                " stream as it was then."
            )
        _refuse_position("epoch", state["epoch"])
        # spans of unlike sizes make other windows in another epoch
        plan = self._plan_of(state["epoch"])
        _refuse_position("window", state["window"], len(plan))
        _refuse_position(
            "row",
            state["row"],
            plan.window(state["window"]).num_rows if state["window"] < len(plan) else 0,
        )
        if state["imputed"] is not None:
            self._source = replace(self._source, fill=np.array(state["imputed"]))
        self._go_to(state["epoch"])
        if state.get("quarantine") is not None:
            self._source.quarantine.restore(state["quarantine"])
            if state["row"]:
                self._source.quarantine.seal(self._plan.window(state["window"]).spans)
        self._window, self._row, self._resumed = state["window"], state["row"], True
        self._receipts = {self._window: Receipt.from_json(state["receipt_before_window"])}
        self._known = self._window, self._row, Receipt.from_json(state["receipt"])

    def receipt(self) -> Receipt:
        """Count and order-free digest of the ids of the rows delivered in this epoch: exact at
        every minibatch, kept to the next epoch.
        """
        window, row, receipt = self._known
        if (window, row) != (self._window, self._row):
            receipt = self._receipts[self._window] + self._partial_receipt()
            self._known = self._window, self._row, receipt
        return receipt

    def warm_up(self) -> None:
        """Compile the shuffle's kernels, or load them from the disk's cache, on a few rows;
        iterating would do it otherwise.
        """
        span = self._source.spans[0]
        few = min(span.num_rows, 16)
        shuffle_once(
            self._source,
            Span(shard=span.shard, start=span.start, stop=span.start + few, first_id=span.first_id),
        )

    def nulls(self) -> Json:
        """Rows dropped or values imputed since the stream was opened: `{total, columns: {name: n},
        shards: {url: n}}`.

        A dropped row counts at its first bad column. The 16 shards with the most are named.
        """
        return to_json(summarize_nulls(self._nulls, self.dataset))

    def quarantine(self) -> Json | None:
        """The spans that could not be read, with files, rows and causes.

        None when `on_bad_shard` is "error".
        """
        return None if self._source.quarantine is None else self._source.quarantine.to_json()

    def stats(self) -> dict[str, float | int]:
        """Seconds worked and waited in each part, and bytes from object stores, over all epochs so
        far (stream/fetch.py).
        """
        return self._stats.to_json()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if get_worker_info() is not None:
            raise ConfigError(
                "a Stream inside a DataLoader with workers would deliver every row once per worker:"
                " use num_workers=0."
            )
        if not self._resumed:
            self._go_to(self._epoch + self._finished)
        self._resumed = False
        return self._minibatches()

    def _minibatches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size, skip = self.batch_size, self._row
        carried: list[torch.Tensor] = []  # rows of a minibatch that crosses a window's edge
        blocks = fetch(
            self._plan.windows(self._window), self._source, self.budget, self._stats, self._pool
        )
        try:
            for block in blocks:
                self._receipts[block.index + 1] = self._receipts[block.index] + block.receipt
                self._nulls += block.nulls
                self._dropped = {
                    w: dropped for w, dropped in self._dropped.items() if w >= self._window
                } | {block.index: block.dropped}
                rows = torch.from_numpy(block.rows).to(self.device)
                window, place = block.index, skip
                del block  # only tensors keep the buffer alive from here on
                skip = 0
                if carried:
                    place = size - sum(map(len, carried))
                    carried.append(rows[:place].clone())
                    if place > len(rows):
                        continue
                    self._window, self._row = window, place
                    yield _split(torch.cat(carried))
                    carried = []
                end = len(rows) - (len(rows) - place) % size
                for x, y in zip(
                    rows[place:end, :-1].split(size), rows[place:end, -1:].split(size), strict=True
                ):
                    if end > place:
                        self._window, self._row = window, self._row + size
                        yield x, y
                if end < len(rows):
                    carried = [rows[end:].clone()]
                else:
                    self._window, self._row = window + 1, 0
            if carried and not self.drop_last:
                self._window, self._row = len(self._plan), 0
                yield _split(torch.cat(carried))
        finally:
            blocks.close()
        done = self._receipts[len(self._plan)]
        if not done.count and done.dropped and self._plan.num_rows:
            raise DataError(
                f"{self.dataset.url}: every row has a bad value, so all were dropped. Leave columns"
                " out with --features."
            )
        self._finished = True

    def _go_to(self, epoch: int) -> None:
        self._epoch, self._window, self._row = epoch, 0, 0
        self._resumed = self._finished = False
        self._receipts = {0: Receipt()}
        self._known = 0, 0, Receipt()
        self._dropped: dict[int, tuple[np.ndarray, ...]] = {}
        self._ids: tuple[int, np.ndarray] | None = None
        self._plan = self._plan_of(epoch)

    def _plan_of(self, epoch: int) -> Plan:
        return make_plan(
            self._source.spans,
            self._source.holdout,
            seed=self._seed,
            trial=0,
            epoch=epoch,
            window_rows=self._window_rows,
        )

    def _order(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "window_rows": self._window_rows,
            "spans": self._source.spans.fingerprint,
            "holdout_rows": self._source.holdout.num_rows,
            "data": self.dataset.fingerprint,
            "columns": list(self.dataset.columns),
            "on_null": self._source.on_null,
            "on_bad_shard": "error" if self._source.quarantine is None else "quarantine",
            "transform": (
                None if self._source.transform is None else self._source.transform.record()
            ),
        }

    def _partial_receipt(self) -> Receipt:
        """Of the rows delivered from the current window: their ids follow from the plan and from
        what was dropped.
        """
        if self._row == 0:
            return Receipt()
        if self._ids is None or self._ids[0] != self._window:
            window = self._plan.window(self._window)
            self._ids = (
                self._window,
                window_ids(window, self._source, self._dropped[self._window]),
            )
        hashes = hash_array(self._ids[1][: self._row], int(RECEIPT_KEY))
        return Receipt(count=self._row, digest=int(hashes.sum(dtype=np.uint64)))


def _refuse_position(name: str, number: object, most: int | None = None) -> None:
    """Raise ConfigError for what is no whole number from 0 to `most`."""
    if (
        not isinstance(number, int)
        or isinstance(number, bool)
        or number < 0
        or (most is not None and number > most)
    ):
        raise ConfigError(
            f"{name} {number!r} is no position of this stream: a whole number from 0"
            + (f" to {most:,}." if most else ".")
        )


def open_device(name: str) -> torch.device:
    """The device of a stream's tensors.

    `auto` is the CPU. Raises ConfigError when it cannot be used here.
    """
    try:
        device = torch.device("cpu" if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"train.device {name!r} cannot be used here: {reason.rstrip('.')}. Use --device cpu."
        ) from None
    return device


def _split(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows[:, :-1], rows[:, -1:]


def open_stream(path: str, *, drop_last: bool = False, **flags: Any) -> Stream:
    """Open a data set as a `Stream` of minibatches.

    Flags: features, target, batch_size (1024), seed (0), holdout (0), memory, readers, device
    ("cpu"), span_rows, window_rows, on_null ("error"), transform, on_bad_shard ("error"),
    storage_options (of an object store, under fsspec's names), timeout_seconds (300); each as on
    the command line. `features` and `target` may be left out: the last column is the target. With
    `on_null="impute"` the survey's spans are read here, at most 64 of them or so.

    Raises ConfigError for a flag, DataError for the data, ResourceError for the memory.
    """
    config = make_config(flag_values(flags, _STREAM_FLAGS))
    return Stream(path, config, drop_last=drop_last)
