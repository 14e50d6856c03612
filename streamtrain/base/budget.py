"""Bytes as a number computed before the run: what is in flight, what `--memory` allows, what is
refused.
"""

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from streamtrain.base.units import format_bytes
from streamtrain.errors import ResourceError

#: A span being decoded holds the stored pages, the decoder's table and the columns cast from it.
DECODE_COPIES = 3

#: Thread stacks, allocator arenas and decoder tables of a stream, beside what is counted row by row
#: (24 to 36 MiB were measured).
RUNTIME_BYTES = 40 * 2**20

#: Windows beyond those being built while the consumer works: the one in its hands, and, once it
#: asks for the next, the one that its variables still hold.
SPARE_WINDOWS = 2

#: Windows in flight are never fewer: one is built while the consumer's variables still hold the one
#: before.
MIN_WINDOWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may hold at once, in bytes.

    `windows` counts the one being used, those ready and those being built.
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
        """Blocks in flight, a decode in every reader, and what stays: hold-out, learners, the
        runtime's own.
        """
        return (
            self.windows * self.window_bytes + self.readers * self.decode_bytes + self.fixed_bytes
        )


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
    """How many windows may be in flight. The order never depends on it.

    `window_rows` and `span_rows` are the largest of the plan. `decoded_columns`: columns in memory
    while a span is decoded, where a transform makes that another number. Raises ResourceError when
    two windows do not fit: the message gives both numbers.
    """
    fixed_bytes += RUNTIME_BYTES
    window_bytes = window_rows * num_columns * 4
    decode_bytes = DECODE_COPIES * span_rows * (decoded_columns or num_columns) * decoded_itemsize
    for active in range(readers, 0, -1):
        windows = min(
            (limit_bytes - fixed_bytes - active * decode_bytes) // window_bytes,
            active + SPARE_WINDOWS,
        )
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
        f"two windows of {window_rows:,} rows need {format_bytes(needed)} with their decoding"
        f" ({format_bytes(decode_bytes)}) and what stays in memory ({format_bytes(fixed_bytes)});"
        f" the budget is {format_bytes(limit_bytes)}. Raise --memory, or lower --window-rows or"
        " --span-rows (which changes the order of the rows)."
    )


#: Of each version of control groups: the file of the limit, of what is used, and the line of
#: memory.stat for cached pages that the kernel gives up when memory is asked for.
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def default_limit_bytes(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """A quarter of the memory that is available now; control groups count, but not the files that
    they hold in the page cache.

    A group counts every page of a file that was read as used until something else wants it: whoever
    streams files would else find its group full.
    """
    available = psutil.virtual_memory().available
    for limit_file, used_file, cached in _GROUPS:
        try:
            limit = (groups / limit_file).read_text().strip()
            if limit != "max":
                used = int((groups / used_file).read_text())
                available = min(
                    available,
                    int(limit)
                    - max(
                        0,
                        used
                        - _cached_bytes((groups / limit_file).with_name("memory.stat"), cached),
                    ),
                )
        except (OSError, ValueError):
            continue
    return max(available // 4, 1)


def _cached_bytes(statistics: Path, name: str) -> int:
    try:
        return next(
            (
                int(line.split()[1])
                for line in statistics.read_text().splitlines()
                if line.split()[0] == name
            ),
            0,
        )
    except (OSError, ValueError, IndexError):
        return 0


def default_readers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rss_bytes() -> int:
    """Resident memory of this process now."""
    return psutil.Process().memory_info().rss


def reset_peak_rss() -> None:
    """Forget the peak so far, where the system can (Linux); elsewhere the peak is of the whole
    process.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int:
    """The most resident memory this process has had since `reset_peak_rss`."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
