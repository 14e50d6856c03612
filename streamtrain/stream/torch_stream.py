"""The public Stream: epochs of shuffled minibatches as torch tensors.

`open_stream` opens one; it is a `torch.utils.data.IterableDataset`.
"""

import os
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from streamtrain.config import TEXT_FLAGS, Config, flag_values, make_config
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.order import hash_array
from streamtrain.plan.plan import Plan, default_window_rows, make_plan
from streamtrain.records import to_json
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.remote.filesystem import make_storage
from streamtrain.stream.block import BufferPool
from streamtrain.stream.fetch import FetchStats, fetch
from streamtrain.stream.nulls import NullCounts, summarize_nulls
from streamtrain.stream.open_source import open_source, stream_budget, with_imputed_values
from streamtrain.stream.stream_state import check_order, check_position, saved_window_rows
from streamtrain.stream.window import RECEIPT_KEY, shuffle_once, window_ids
from streamtrain.types import Json, Receipt

#: Parameter of `open_stream` → key of the config.
STREAM_FLAGS = {
    "features": "data.features",
    "target": "data.target",
    "holdout": "data.holdout",
    "holdout_seed": "eval.holdout_seed",
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
    **TEXT_FLAGS,
}

Minibatch = tuple[torch.Tensor, torch.Tensor]


class Stream(IterableDataset[Minibatch]):
    """Shuffled minibatches of a data set, out of core, each row exactly once per epoch.

    Iterating yields `(x, y)`: float32 tensors (batch, features) and (batch, 1) of raw values. The
    last minibatch of an epoch may be short unless `drop_last`. The tensors belong to the caller:
    their memory is reused only after they are dropped. After the end of an epoch, the next
    iteration is the next one, in another order. One thread may iterate; others read ahead.

    Raises DataError for rows that cannot be used, and ResourceError when two windows do not fit
    `memory`.
    """

    def __init__(self, path: str, config: Config, *, drop_last: bool = False):
        super().__init__()
        self._config = config
        data = config.data
        self.batch_size, self.drop_last = config.train.batch_size, drop_last
        self.device = open_device(config.train.device)
        storage = make_storage(data.storage_options, timeout_seconds=config.fetch.timeout_seconds)
        storage = replace(storage, reading=data.reading)
        self._shards = open_shards(
            path,
            features=data.features,
            target=data.target,
            on_bad_shard=data.on_bad_shard,
            storage=storage,
        )
        self._seed, self._holdout_seed = config.order.seed, config.eval.holdout_seed
        self._open()
        self._stats = FetchStats()
        self._nulls: NullCounts = Counter()

    def _open(self, window_rows: int | None = None) -> None:
        """Open the source, with windows of `window_rows` rows where the config leaves them open."""
        config = self._config
        source = open_source(
            self._shards, config, holdout=config.data.holdout or 0, window_rows=window_rows
        )
        self._source = with_imputed_values(source)
        self.dataset = source.dataset
        self._go_to(0)
        width = self._source.num_columns
        carried_bytes = 2 * min(self.batch_size, self.dataset.num_rows) * width * 4
        self.budget = stream_budget(self._source, config.fetch, fixed_bytes=carried_bytes)
        self._pool = BufferPool(self.budget.window_rows, width, keep=self.budget.windows)

    def __len__(self) -> int:
        """The number of minibatches per epoch; the same for every epoch.

        With `on_null="drop"`, or with spans in quarantine, it is an upper bound.
        """
        whole, rest = divmod(self._plan.num_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def num_rows(self) -> int:
        """The rows that an epoch delivers: all but the held-out ones.

        With `on_null="drop"`, or with spans in quarantine, it is an upper bound; the receipt has
        the exact count.
        """
        return self._plan.num_rows

    @property
    def epoch(self) -> int:
        """The epoch being delivered, or delivered last."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch.

        After `load_state_dict`, naming the epoch of the state keeps the state's position.
        """
        check_position("epoch", epoch)
        if not (self._resumed and epoch == self._epoch):
            self._go_to(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain JSON values, with all that the row order depends on.

        The position is the epoch, the window, and the rows of that window that were delivered.
        """
        epoch, window, row = self._epoch, self._window, self._row
        receipt, receipt_before_window = self.receipt(), self._receipts[self._window]
        if self._finished:
            epoch, window, row = epoch + 1, 0, 0
            receipt = receipt_before_window = Receipt()
        return {
            "epoch": epoch,
            "window": window,
            "row": row,
            "receipt": receipt.to_json(),
            "receipt_before_window": receipt_before_window.to_json(),
            "imputed": None if self._source.fill is None else self._source.fill.tolist(),
            "quarantine": self.quarantine(),
            "order": self._order(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position: the next iteration delivers the rows after it.

        The batch size may differ from the one that the state was saved with.

        Raises ConfigError when the state is malformed or belongs to another order of rows.
        """
        window_rows = saved_window_rows(state)
        if window_rows != self._source.window_rows and window_rows in self._other_defaults():
            self._open(window_rows)
        check_order(state, self._order())
        epoch, window, row = state["epoch"], state["window"], state["row"]
        check_position("epoch", epoch)
        # of this epoch: where spans differ in size, another epoch has other windows
        plan = self._plan_of(epoch)
        check_position("window", window, len(plan))
        window_rows = plan.window(window).num_rows if window < len(plan) else 0
        check_position("row", row, window_rows)
        if state["imputed"] is not None:
            self._source = replace(self._source, fill=np.array(state["imputed"]))
        self._go_to(epoch)
        quarantine = self._source.quarantine
        if quarantine is not None and state.get("quarantine") is not None:
            quarantine.restore(state["quarantine"])
            if row:
                quarantine.seal(self._plan.window(window).spans)
        self._window, self._row, self._resumed = window, row, True
        self._receipts = {window: Receipt.from_json(state["receipt_before_window"])}
        self._counted = window, row, Receipt.from_json(state["receipt"])

    def receipt(self) -> Receipt:
        """Return the count and order-independent digest of the row ids delivered in this epoch.

        It is exact after every minibatch, and kept until the next epoch starts.
        """
        window, row, receipt = self._counted
        if (window, row) != (self._window, self._row):
            receipt = self._receipts[self._window] + self._partial_receipt()
            self._counted = self._window, self._row, receipt
        return receipt

    def warm_up(self) -> None:
        """Compile the shuffle's kernels, or load them from the disk cache, on a few rows.

        Otherwise the first iteration does.
        """
        span = self._source.spans[0]
        stop = span.start + min(span.num_rows, 16)
        shuffle_once(self._source, replace(span, stop=stop))

    def nulls(self) -> Json:
        """Return the rows dropped or values imputed since the stream was opened.

        The form is `{total, columns: {name: n}, shards: {url: n}}`. A dropped row counts at its
        first bad column. Only the 16 shards with the most are named.
        """
        return to_json(summarize_nulls(self._nulls, self.dataset))

    def quarantine(self) -> Json | None:
        """Return the spans that could not be read, with files, rows and causes.

        None when `on_bad_shard` is "error".
        """
        return None if self._source.quarantine is None else self._source.quarantine.to_json()

    def stats(self) -> dict[str, float | int]:
        """Return the seconds, counts and bytes of all epochs so far; see `FetchStats`."""
        return self._stats.to_json()

    def __iter__(self) -> Generator[Minibatch, None, None]:
        if get_worker_info() is not None:
            raise ConfigError(
                "a Stream inside a DataLoader with workers would deliver every row once per worker:"
                " use num_workers=0."
            )
        if not self._resumed:
            self._go_to(self._epoch + self._finished)
        self._resumed = False
        return self._minibatches()

    def _minibatches(self) -> Generator[Minibatch, None, None]:
        size, start = self.batch_size, self._row
        carried: list[torch.Tensor] = []  # rows of a minibatch that crosses a window's edge
        windows = self._plan.windows(self._window)
        blocks = fetch(windows, self._source, self.budget, self._stats, self._pool)
        try:
            for block in blocks:
                window = block.index
                self._source.rounding.warn()
                self._receipts[window + 1] = self._receipts[window] + block.receipt
                self._nulls += block.nulls
                needed = {w: spans for w, spans in self._dropped.items() if w >= self._window}
                self._dropped = needed | {window: block.dropped}
                rows = torch.from_numpy(block.rows).to(self.device)
                del block  # only tensors keep the buffer alive from here on
                if carried:
                    start = size - sum(map(len, carried))
                    carried.append(rows[:start].clone())
                    if start > len(rows):
                        continue
                    self._window, self._row = window, start
                    yield _split(torch.cat(carried))
                    carried = []
                end = len(rows) - (len(rows) - start) % size
                inputs, targets = _split(rows[start:end])
                for x, y in zip(inputs.split(size), targets.split(size), strict=True):
                    if end > start:
                        self._window, self._row = window, self._row + size
                        yield x, y
                if end < len(rows):
                    carried = [rows[end:].clone()]
                else:
                    self._window, self._row = window + 1, 0
                start = 0
            if carried and not self.drop_last:
                self._window, self._row = len(self._plan), 0
                yield _split(torch.cat(carried))
        finally:
            blocks.close()
        delivered = self._receipts[len(self._plan)]
        if not delivered.count and delivered.dropped and self._plan.num_rows:
            raise DataError(
                f"{self.dataset.url}: every row has a bad value, so all were dropped. Leave columns"
                " out with --features."
            )
        self._finished = True

    def _go_to(self, epoch: int) -> None:
        self._epoch, self._window, self._row = epoch, 0, 0
        self._resumed = self._finished = False
        #: Window → the receipt of all windows before it.
        self._receipts = {0: Receipt()}
        #: The position that a receipt was computed for, and that receipt.
        self._counted = 0, 0, Receipt()
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
            window_rows=self._source.window_rows,
        )

    def _order(self) -> dict[str, Any]:
        source = self._source
        return {
            "seed": self._seed,
            "window_rows": source.window_rows,
            "spans": source.spans.fingerprint,
            "holdout_rows": source.holdout.num_rows,
            **({"holdout_seed": self._holdout_seed} if source.holdout.num_rows else {}),
            "data": self.dataset.fingerprint,
            "columns": list(self.dataset.columns),
            "on_null": source.on_null,
            "on_bad_shard": "error" if source.quarantine is None else "quarantine",
            "transform": None if source.transform is None else source.transform.record(),
        }

    def _other_defaults(self) -> tuple[int, ...]:
        """Return the windows that the same options give with other memory, or gave before."""
        if self._config.order.window_rows is not None:
            return ()
        return self.dataset.num_rows, default_window_rows(len(self.dataset.columns))

    def _partial_receipt(self) -> Receipt:
        """Return the receipt of the rows delivered from the current window.

        Their ids follow from the plan and from the rows that were dropped.
        """
        if self._row == 0:
            return Receipt()
        if self._ids is None or self._ids[0] != self._window:
            window = self._plan.window(self._window)
            ids = window_ids(window, self._source, self._dropped[self._window])
            self._ids = self._window, ids
        hashes = hash_array(self._ids[1][: self._row], int(RECEIPT_KEY))
        return Receipt(count=self._row, digest=int(hashes.sum(dtype=np.uint64)))


def open_device(name: str) -> torch.device:
    """Return the torch device of that name; `auto` is the CPU.

    Raises ConfigError when it cannot be used on this machine.
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


def _split(rows: torch.Tensor) -> Minibatch:
    return rows[:, :-1], rows[:, -1:]


def open_stream(
    path: str | os.PathLike[str],
    *,
    drop_last: bool = False,
    features: str | Sequence[str] | None = None,
    target: str | None = None,
    batch_size: int | float | str | None = None,
    holdout: int | float | str | None = None,
    holdout_seed: int | str | None = None,
    seed: int | str | None = None,
    device: str | None = None,
    memory: int | str | None = None,
    readers: int | None = None,
    span_rows: int | float | str | None = None,
    window_rows: int | float | str | None = None,
    on_null: Literal["error", "drop", "impute"] | None = None,
    on_bad_shard: Literal["error", "quarantine"] | None = None,
    transform: str | None = None,
    timeout_seconds: float | str | None = None,
    storage_options: dict[str, str | bool] | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    na_values: str | Sequence[str] | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    datetime: Literal["epoch", "parts"] | None = None,
) -> Stream:
    """Open a data set as a `Stream` of minibatches.

    None means the default: all columns, the last as the target, minibatches of 1,024 rows, seed 0,
    nothing held out, the CPU. Values may be written as on the command line: `"64Ki"` rows,
    `"2GiB"`. `storage_options` are those of an object store, under fsspec's names. With
    `on_null="impute"` the survey is read here. A warning names integers that float32 rounds.

    Raises ConfigError for a wrong value, DataError for the data, ResourceError for the memory.
    """
    flags = {name: value for name, value in locals().items() if name in STREAM_FLAGS}
    config = make_config(flag_values(flags, STREAM_FLAGS))
    return Stream(os.fspath(path), config, drop_last=drop_last)
