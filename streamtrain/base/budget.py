"""The memory budget: how many windows and readers fit into `--memory`, computed before the run."""

import math
import os
import resource
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from streamtrain.base.control_group import PROC, cpu_quota, memory_left
from streamtrain.base.units import format_bytes
from streamtrain.errors import ResourceError

#: Copies of a span in memory while it is decoded: the stored pages, the decoder's table, and the
#: columns cast from it.
DECODE_COPIES = 3

#: Thread stacks, allocator arenas and decoder tables of a stream, beyond what is counted per row
#: (24 to 36 MiB measured).
RUNTIME_BYTES = 40 * 2**20

#: Windows in memory beyond those being built: the one that the consumer uses, and the previous one,
#: which its variables still refer to when it asks for the next.
SPARE_WINDOWS = 2

#: The fewest windows in flight: one is built while the consumer's variables still refer to the
#: previous one.
MIN_WINDOWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may hold in memory at once, in bytes.

    Attributes:
        limit_bytes: The limit, from `--memory` or `default_limit_bytes`.
        window_rows: Rows of the largest window.
        window_bytes: Bytes of the largest window as a block of float32.
        decode_bytes: Bytes that decoding the largest span takes.
        fixed_bytes: What stays in memory for the whole run, `RUNTIME_BYTES` included.
        readers: Windows built at once, each by one reader.
        windows: Windows in memory: the one in use, those ready and those being built.
    """

    limit_bytes: int
    window_rows: int
    window_bytes: int
    decode_bytes: int
    fixed_bytes: int
    readers: int
    windows: int

    @property
    def projected_bytes(self) -> int:
        """Peak bytes: all windows, one decode per reader, and what stays in memory.

        What stays is the hold-out, the learners and the runtime's own memory.
        """
        windows_bytes = self.windows * self.window_bytes
        return windows_bytes + self.readers * self.decode_bytes + self.fixed_bytes


def make_budget(
    *,
    limit_bytes: int,
    window_rows: int,
    span_rows: int,
    num_columns: int,
    decoded_itemsize: int,
    readers: int,
    fixed_bytes: int = 0,
    decoded_columns: int | None = None,
) -> Budget:
    """Compute how many windows may be in flight; the row order does not depend on it.

    Args:
        limit_bytes: The most memory that the run may take.
        window_rows: Rows of the largest window of the plan.
        span_rows: Rows of the largest span of the plan.
        num_columns: Columns of a block, the target included.
        decoded_itemsize: Bytes per value of the decoded columns.
        readers: The most windows to build at once; fewer are used if memory is short.
        fixed_bytes: What the caller keeps in memory for the whole run.
        decoded_columns: Columns in memory while a span is decoded, if a transform makes their
            number differ from `num_columns`.

    Raises:
        ResourceError: Two windows do not fit; the message gives the bytes needed and the limit.
    """
    fixed_bytes += RUNTIME_BYTES
    window_bytes = window_rows * num_columns * 4
    decode_bytes = DECODE_COPIES * span_rows * (decoded_columns or num_columns) * decoded_itemsize
    for active in range(readers, 0, -1):
        fitting = (limit_bytes - fixed_bytes - active * decode_bytes) // window_bytes
        windows = min(fitting, active + SPARE_WINDOWS)
        if windows >= MIN_WINDOWS:
            return Budget(
                limit_bytes=limit_bytes,
                window_rows=window_rows,
                window_bytes=window_bytes,
                decode_bytes=decode_bytes,
                fixed_bytes=fixed_bytes,
                readers=active,
                windows=windows,
            )
    needed = MIN_WINDOWS * window_bytes + decode_bytes + fixed_bytes
    raise ResourceError(
        f"two windows of {window_rows:,} rows need {format_bytes(needed)}, including decoding"
        f" ({format_bytes(decode_bytes)}) and what stays in memory ({format_bytes(fixed_bytes)});"
        f" the budget is {format_bytes(limit_bytes)}. Raise --memory, or lower --window-rows or"
        " --span-rows (either changes the row order)."
    )


def share_budget(budget: Budget, streams: int, more_bytes: int) -> Budget | None:
    """Return the budget of each of several equal streams at once; None if they do not fit.

    `budget` is that of one of them alone, whose readers they share: each has one at least. What the
    others hold counts as fixed memory, with the `more_bytes` that each further one needs beside its
    windows and decodes.
    """
    for readers in range(budget.readers // streams, 0, -1):
        for windows in range(readers + SPARE_WINDOWS, MIN_WINDOWS - 1, -1):
            each = windows * budget.window_bytes + readers * budget.decode_bytes
            others = (streams - 1) * (each + more_bytes)
            if budget.fixed_bytes + others + each <= budget.limit_bytes:
                fixed_bytes = budget.fixed_bytes + others
                return replace(budget, fixed_bytes=fixed_bytes, readers=readers, windows=windows)
    return None


def default_limit_bytes(proc: Path = PROC) -> int:
    """Return a quarter of `available_bytes`, at least 1."""
    return max(available_bytes(proc) // 4, 1)


def available_bytes(proc: Path = PROC) -> int:
    """Return the memory available now, within the limits of control groups."""
    available, left = psutil.virtual_memory().available, memory_left(proc)
    return available if left is None else min(available, left)


def default_readers(proc: Path = PROC) -> int:
    """Return the number of cores that this process may use.

    These are the cores that it may run on, or as many as its quota of processor time fills.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota(proc)
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def rss_bytes() -> int:
    """Return the resident memory of this process now, in bytes."""
    return psutil.Process().memory_info().rss


def reset_peak_rss() -> None:
    """Reset the peak of resident memory.

    Only Linux can; elsewhere `peak_rss_bytes` returns the peak of the whole life of the process.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int:
    """Return the peak resident memory since `reset_peak_rss`, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
