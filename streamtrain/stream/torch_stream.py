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
from streamtrain.errors import ConfigError, DataError, StreamTrainError
from streamtrain.plan.plan import Plan, default_window_rows, make_plan
from streamtrain.records import to_json
from streamtrain.stream.block import BufferPool
from streamtrain.stream.fetch import FetchStats, fetch
from streamtrain.stream.nulls import NullCounts, summarize_nulls
from streamtrain.stream.open_source import (
    open_dataset,
    open_source,
    stream_budget,
    with_imputed_values,
)
from streamtrain.stream.pinned_copy import to_device
from streamtrain.stream.source import Source
from streamtrain.stream.stream_position import OpenWindow, Position
from streamtrain.stream.stream_state import (
    check_order,
    check_place,
    check_position,
    order_of,
    saved_window_rows,
)
from streamtrain.stream.window import shuffle_few_rows
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

_ONE_PROCESS = (
    "a Stream cannot be copied, pickled or used inside the workers of a DataLoader, which would"
    " deliver every row once per copy: use num_workers=0. Elsewhere call open_stream where the rows"
    " are needed, and pass the position by state_dict()."
)


class Stream(IterableDataset[Minibatch]):
    """Shuffled minibatches of a data set, out of core, each row exactly once per epoch.

    Iterating yields `(x, y)`: float32 tensors (batch, features) and (batch, 1) of raw values. The
    last minibatch of an epoch may be short unless `drop_last`. The tensors belong to the caller:
    their memory is reused only after they are dropped. After the last minibatch of an epoch, the
    next iteration is the next epoch, in another order.

    A Stream has one position, which its newest iterator moves. `iter`, `set_epoch` and
    `load_state_dict` supersede the iterator before: its reading ends, and its next `next` raises
    ConfigError. To iterate twice at the same time, open two Streams. One thread may iterate; others
    may ask for state and receipt. A Stream cannot be pickled or copied.

    Raises DataError for rows that cannot be used, and ResourceError when two windows do not fit
    `memory`.
    """

    def __init__(self, path: str, config: Config, *, drop_last: bool = False):
        super().__init__()
        self._config = config
        self.batch_size, self.drop_last = config.train.constant_size, drop_last
        self.device = open_device(config.train.device)
        self._shards = open_dataset(path, config)
        self._stats = FetchStats()
        self._nulls: NullCounts = Counter()
        self._use(self._open())
        self._position = Position(self._plan_of(self._source, 0), self._source)

    def _open(self, window_rows: int | None = None) -> Source:
        """Open a source, with windows of `window_rows` rows where the config leaves them open."""
        holdout = self._config.data.holdout or 0
        source = open_source(self._shards, self._config, holdout=holdout, window_rows=window_rows)
        return with_imputed_values(source)

    def _use(self, source: Source) -> None:
        width = source.num_columns
        carried_bytes = 2 * min(self.batch_size, source.dataset.num_rows) * width * 4
        self.budget = stream_budget(source, self._config.fetch, fixed_bytes=carried_bytes)
        self._pool = BufferPool(self.budget.window_rows, width, keep=self.budget.windows)
        self._source, self.dataset = source, source.dataset

    def __len__(self) -> int:
        """The number of minibatches per epoch; the same for every epoch.

        With `on_null="drop"`, or with spans in quarantine, it is an upper bound.
        """
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def num_rows(self) -> int:
        """The rows that an epoch delivers: all but the held-out ones.

        With `on_null="drop"`, or with spans in quarantine, it is an upper bound; the receipt has
        the exact count.
        """
        return self._position.plan.num_rows

    @property
    def epoch(self) -> int:
        """The epoch being delivered, or delivered last."""
        return self._position.plan.epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch.

        Naming the epoch of a position from which nothing was delivered yet keeps that position, as
        after `load_state_dict`.
        """
        check_position("epoch", epoch)
        if not (self._position.untouched and epoch == self.epoch):
            self._go_to(self._start_of(epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain JSON values, with all that the row order depends on.

        The position is the epoch, the window, and the rows of that window that were delivered.
        """
        position = self._position
        if position.finished:
            position = self._start_of(self.epoch + 1)
        receipt, (window, row) = position.place()
        return {
            "epoch": position.plan.epoch,
            "window": window.index,
            "row": row,
            "receipt": receipt.to_json(),
            "receipt_before_window": window.before.to_json(),
            "imputed": None if self._source.fill is None else self._source.fill.tolist(),
            "quarantine": self.quarantine(),
            "order": self._order(self._source),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position: the next iteration delivers the rows after it.

        The batch size may differ from the one that the state was saved with.

        Raises ConfigError when the state is malformed or belongs to another order of rows; the
        Stream then stays where it was.
        """
        window_rows, source = saved_window_rows(state), self._source
        if window_rows != source.window_rows and window_rows in self._other_defaults():
            source = self._open(window_rows)
        check_order(state, self._order(source))
        check_position("epoch", state["epoch"])
        # of this epoch: where spans differ in size, another epoch has other windows
        plan = self._plan_of(source, state["epoch"])
        before, receipt = check_place(state, plan)
        quarantine = source.quarantine
        if quarantine is not None and state.get("quarantine") is not None:
            quarantine.restore(state["quarantine"])
            if state["row"]:
                quarantine.seal(plan.window(state["window"]).spans)
        if source is not self._source:
            self._use(source)
        if state["imputed"] is not None:
            self._source = replace(source, fill=np.array(state["imputed"]))
        start = OpenWindow.of_plan(plan, state["window"], before), state["row"]
        self._go_to(Position(plan, self._source, start, receipt))

    def receipt(self) -> Receipt:
        """Return the count and order-independent digest of the row ids delivered in this epoch.

        It is exact after every minibatch, and kept until the next epoch starts.
        """
        return self._position.place()[0]

    def warm_up(self) -> None:
        """Compile the shuffle's kernels, or load them from the disk cache, on a few rows.

        Otherwise the first iteration does.
        """
        shuffle_few_rows(self._source)

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
            raise ConfigError(_ONE_PROCESS)
        position = self._position
        if position.untouched:
            position = position.again()
        else:
            fewest_rows = self.batch_size if self.drop_last else 1
            position = self._start_of(self.epoch + position.is_over(fewest_rows))
        self._go_to(position)
        return self._minibatches(position)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ConfigError(_ONE_PROCESS)

    def _minibatches(self, position: Position) -> Generator[Minibatch, None, None]:
        size, (window, start) = self.batch_size, position.at
        delivered, row = window.before, start
        carried: list[torch.Tensor] = []  # rows of a minibatch that crosses a window's edge
        self._check_newest(position)
        windows = position.plan.windows(window.index)
        position.blocks = fetch(windows, position.source, self.budget, self._stats, self._pool)
        try:
            for block in position.blocks:
                position.source.rounding.warn()
                window = OpenWindow(block.index, delivered, len(block.rows), block.dropped)
                delivered += block.receipt
                self._nulls += block.nulls
                rows = to_device(block.rows, self.device)
                del block  # only tensors keep the buffer alive from here on
                if carried:
                    start = row = size - sum(map(len, carried))
                    carried.append(rows[:start].clone())
                    if start > len(rows):
                        continue
                    position.at = window, row
                    yield _split(torch.cat(carried))
                    self._check_newest(position)
                    carried = []
                end = len(rows) - (len(rows) - start) % size
                inputs, targets = _split(rows[start:end])
                for x, y in zip(inputs.split(size), targets.split(size), strict=True):
                    if end > start:
                        row += size
                        position.at = window, row
                        yield x, y
                        if self._position is not position:
                            self._check_newest(position)
                if end < len(rows):
                    carried = [rows[end:].clone()]
                else:
                    position.at = OpenWindow(window.index + 1, delivered), 0
                start = row = 0
            self._check_newest(position)  # another thread may have ended its reading
            if carried and not self.drop_last:
                position.at = OpenWindow(len(position.plan), delivered), 0
                yield _split(torch.cat(carried))
                self._check_newest(position)
        except ValueError as error:  # "already executing": another thread is ending its reading
            if not isinstance(error, StreamTrainError):
                self._check_newest(position)
            raise
        finally:
            position.close()
        if not delivered.count and delivered.dropped and self.num_rows:
            raise DataError(
                f"{self.dataset.url}: every row has a bad value, so all were dropped. Leave columns"
                " out with --features."
            )
        position.finished = True

    def _check_newest(self, position: Position) -> None:
        """Raise ConfigError for an iterator that another one has superseded."""
        if self._position is not position:
            raise ConfigError(
                "this iterator of the Stream ended when iter(), set_epoch() or load_state_dict()"
                " was called after it: a Stream has one position. Open another Stream to read twice"
                " at a time."
            )

    def _go_to(self, position: Position) -> None:
        """Make a position the Stream's own, and end the reading of the iterator before."""
        before, self._position = self._position, position
        before.close()

    def _start_of(self, epoch: int) -> Position:
        return Position(self._plan_of(self._source, epoch), self._source)

    def _plan_of(self, source: Source, epoch: int) -> Plan:
        return make_plan(
            source.spans,
            source.holdout,
            seed=self._config.order.seed,
            trial=0,
            epoch=epoch,
            window_rows=source.window_rows,
        )

    def _order(self, source: Source) -> dict[str, Any]:
        return order_of(source, self._config.order.seed, self._config.eval.holdout_seed)

    def _other_defaults(self) -> tuple[int, ...]:
        """Return the windows that the same options give with other memory, or gave before."""
        if self._config.order.window_rows is not None:
            return ()
        return self.dataset.num_rows, default_window_rows(len(self.dataset.columns))


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
