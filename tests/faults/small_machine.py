"""Opens and reads streams in a process with little memory or few descriptors (test_limits.py)."""

import json
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamtrain.cli.main import explain
from streamtrain.stream.torch_stream import open_stream

#: What limits the process from then on, the data, and flags.
Job = tuple[Callable[[], None], Path, dict[str, Any]]


def spare(megabytes: int) -> None:
    """Limit the address space to its present size plus `megabytes`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), -1))


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def no_descriptor() -> None:
    with suppress(OSError):
        while True:
            os.dup(1)


def read_all(jobs: list[Job]) -> None:
    """Do jobs one after another; print a JSON line with the result or the error of each."""
    for limit, path, flags in jobs:
        limit()
        try:
            stream = open_stream(str(path), batch_size=4096, readers=1, **flags)
            rows = sum(len(x) for x, _ in stream)
            print(json.dumps({"rows": rows, "receipt": stream.receipt().to_json()}))
        except Exception as error:
            print(json.dumps(dict(zip(("code", "error"), explain(error), strict=False))))
        stream = None
