"""Processes that have imported everything already: importing torch takes seconds.

A test that needs a process for its memory, its limits, or its death forks one from a server that
imported the package once. A test of whole commands starts Python anew.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

PRELOADED = (
    "distributed",
    "streamtrain.api",
    "streamtrain.cli.main",
    "streamtrain.cluster.runner",
    "data_gen.generate",
)


@dataclass(frozen=True)
class Ended:
    """`code`: the exit code, negative for a signal."""

    code: int
    out: str
    err: str


def start_server() -> ForkServerContext:
    """Return the context whose processes are forked from the server, which is started here.

    Its libraries start no threads: a fork has none of them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            patch.setenv(name, "1")
        forkserver.ensure_running()
    return context


def run_forked(
    context: ForkServerContext,
    folder: Path,
    function: Callable[..., int | None],
    *arguments: Any,
    timeout: float = 300,
) -> Ended:
    """Call a function of a module in a new process; keep what it prints in `folder`.

    The function may return an exit code.
    """
    out, err = folder / "stdout", folder / "stderr"
    process = start_forked(context, folder, function, *arguments)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"no end within {timeout:.0f} s: {err.read_text()[-3000:]}")
    code = process.exitcode
    process.close()
    return Ended(code, out.read_text(), err.read_text())


def run_together(
    context: ForkServerContext,
    folder: Path,
    number: int,
    function: Callable[..., int | None],
    *arguments: Any,
    timeout: float = 300,
) -> list[Ended]:
    """Call `function(folder, barrier, *arguments)` in `number` processes that start together.

    Each function waits at the barrier first.
    """
    barrier = context.Barrier(number)
    files = [(folder / f"stdout-{i}", folder / f"stderr-{i}") for i in range(number)]
    processes = [
        context.Process(target=_call, args=(*pair, function, (folder, barrier, *arguments)))
        for pair in files
    ]
    for process in processes:
        process.start()
    ends = []
    for process, (out, err) in zip(processes, files, strict=True):
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        ends.append(Ended(process.exitcode or 0, out.read_text(), err.read_text()))
        process.close()
    return ends


def start_forked(
    context: ForkServerContext, folder: Path, function: Callable[..., int | None], *arguments: Any
) -> BaseProcess:
    """Start a process that calls a function of a module.

    What it prints is in `stdout` and `stderr` of `folder`.
    """
    files = folder / "stdout", folder / "stderr"
    process = context.Process(target=_call, args=(*files, function, arguments))
    process.start()
    return process


def _call(out: Path, err: Path, function: Callable[..., int | None], arguments: tuple) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.exit(function(*arguments))
