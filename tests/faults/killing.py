"""Forks runs, kills them at random moments, and resumes them until they are done (test_kill.py).

Children are forked from a process that has imported everything and has no thread. They call what
`streamtrain train` and `sweep` call. Only the report, which is drawn after the last record, and the
measured throughput, which no comparison sees, are left out.
"""

import json
import math
import os
import random
import shutil
import signal
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path

import torch

from streamtrain import api
from streamtrain.base import atomic_files as files
from streamtrain.config import make_config
from streamtrain.run import at_once
from streamtrain.run.prepare import prepare
from streamtrain.run.warm_up import warm_up
from streamtrain.training import checkpointing
from streamtrain.training.cuda_fit import GpuRoom
from tests.faults.run_output import left_over, timeless_records, weights
from tests.run.whole_runs import run_sweep, run_train


def hasten() -> None:
    """Make runs of this process and its children fast: no report, no timings, many saves.

    Without fsync, which matters only for a power failure; a run is still killed at its calls.
    """
    torch.set_num_threads(1)
    os.fsync = lambda file: None
    api.write_report = lambda records, out, **_: {}
    for verb in ("train", "sweep"):
        import_module(f"streamtrain.run.{verb}").measure_throughput = lambda *_, **__: None
    checkpointing.MAX_SAVE_OVERHEAD = math.inf


class KillAtCall:
    """The module `os`, but the process is killed at one call: the n-th `replace` or `fsync`.

    `after`: right after that call, otherwise right before it.
    """

    def __init__(self, name: str, number: int, *, after: bool):
        self._name, self._left, self._after = name, number, after

    def __getattr__(self, name):
        return self._call if name == self._name else getattr(os, name)

    def _call(self, *arguments, **names):
        self._left -= 1
        if self._after:
            getattr(os, self._name)(*arguments, **names)
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if not self._after:
            getattr(os, self._name)(*arguments, **names)


def start(task: dict, out: Path, kill: KillAtCall | None = None) -> int:
    """Fork a child that starts or resumes the run; return its process id.

    The child exits with 0 when the run is done.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if kill is not None:
            files.os = kill
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if task.get("may_start_again", True) else "error")
            {"train": run_train, "sweep": run_sweep}[task["verb"]](
                make_config(task["config"]), out, resume=True
            )
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def print_killing(task: dict) -> None:
    """Kill and resume the run of a task; print the result.

    A task is {"verb": "train", "config": {…}, "whole": "a", "out": "b", "kills": 12, "renames": 4,
    "seed": 0}. With "at once", its passes share a GPU that is faked.
    """
    hasten()
    if task.get("at once"):
        room = GpuRoom(multiprocessors=1000, free_bytes=2**34)
        at_once.room_of = lambda _engine, _train: room
    print(json.dumps(kill_and_resume(task)))


def kill_and_resume(task: dict) -> dict:
    """Kill runs as a task says, resume them, and count those that differ from an unbroken run."""
    chance = random.Random(task["seed"])
    whole, out = Path(task["whole"]), Path(task["out"])
    warm_up(prepare(make_config(task["config"]), learners=1, rates=1))
    started = time.monotonic()
    if wait(start(task, whole)) != 0:
        raise RuntimeError("the unbroken run failed")
    run_seconds = time.monotonic() - started
    whole_records, whole_weights = timeless_records(whole), weights(whole)
    killed = broken = finished = 0
    saved: set[str] = set()
    moments = [*["time"] * task["kills"], *["replace", "after", "fsync"] * task["renames"]]
    chance.shuffle(moments)
    while moments or finished == 0:
        moment = moments[-1] if moments else None
        kill = None
        if moment in ("replace", "after", "fsync"):
            kill = KillAtCall(
                "fsync" if moment == "fsync" else "replace",
                chance.randint(4, 40),
                after=moment == "after",
            )
        child = start(task, out, kill)
        if moment == "time":
            time.sleep(chance.uniform(0, run_seconds))
            os.kill(child, signal.SIGKILL)
        code = wait(child)
        saved |= {path.name for path in out.glob("checkpoints/*.json")}
        if code == -signal.SIGKILL:
            killed += 1
            moments.pop()
        elif code != 0:
            raise RuntimeError(f"a run ended with {code} after {killed} kills")
        else:
            finished += 1
            same_records = timeless_records(out) == whole_records
            same = same_records and weights(out) == whole_weights
            broken += not same or bool(left_over(out))
            if moments:
                shutil.rmtree(out)
    return {
        "killed": killed,
        "finished": finished,
        "broken": broken,
        "run_seconds": run_seconds,
        "saved": len(saved),
    }
