"""The compute pool runs every task once, the costliest first, and helper tasks only if needed.

Errors are raised by the caller, and the pool keeps no task alive.
"""

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamtrain.errors import ResourceError
from streamtrain.training.compute_pool import CallerThread, ComputePool, Task


def note(seen: list, what: object, cost: float = 1.0) -> Task:
    return Task(cost=cost, work=lambda workspace: seen.append((what, len(workspace.floats(8)))))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_is_done_once_whoever_calls(threads):
    seen: list = []
    with ComputePool(threads) as pool, ThreadPoolExecutor(8) as callers:
        list(
            callers.map(
                lambda caller: pool.run([note(seen, (caller, i)) for i in range(20)]), range(8)
            )
        )
    assert sorted(seen) == [((caller, i), 8) for caller in range(8) for i in range(20)]


def test_the_costliest_waiting_task_starts_first():
    seen: list = []
    started, go = threading.Event(), threading.Event()

    def hold(workspace):
        started.set()
        go.wait(10)

    with ComputePool(1) as pool, ThreadPoolExecutor(2) as callers:
        callers.submit(pool.run, [Task(cost=1, work=hold)])
        started.wait(10)
        waiting = callers.submit(pool.run, [note(seen, cost, cost) for cost in (2, 9, 4, 0)])
        while len(pool._waiting) < 4:
            time.sleep(0.001)
        go.set()
        waiting.result(10)
    assert [what for what, _ in seen] == [9, 4, 2], (
        "the helper task, which nothing needed, was dropped"
    )


def test_threads_that_the_system_does_not_start_are_refused(monkeypatch):
    start, alive = threading.Thread.start, threading.active_count()

    def start_three(thread):
        if threading.active_count() >= alive + 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    with pytest.raises(ResourceError, match=r"threads is 1,000,.* no more than 3 threads"):
        ComputePool(1000).__enter__()
    assert threading.active_count() == alive


def test_an_error_comes_back_and_the_threads_go_on():
    def fail(workspace):
        raise MemoryError("full")

    seen: list = []
    with ComputePool(2) as pool:
        with pytest.raises(MemoryError, match="full"):
            pool.run([Task(cost=1, work=fail), note(seen, "other")])
        assert seen == [("other", 8)], "a batch ends when all of its tasks have ended"
        pool.run([note(seen, "next")])
    assert seen[1:] == [("next", 8)]


def test_hands_lend_themselves_and_are_waited_for():
    """A helper task that has started is waited for, since it may use the caller's arrays."""
    together, ended = threading.Barrier(2, timeout=10), []

    def help_out(workspace):
        together.wait()
        time.sleep(0.02)
        ended.append("helper")

    with ComputePool(2) as pool:
        pool.run(
            [Task(cost=1, work=lambda workspace: together.wait()), Task(cost=0, work=help_out)]
        )
        assert ended == ["helper"]


@pytest.mark.parametrize("helpers", [0, 3])
def test_nothing_holds_a_block_when_its_batch_has_ended(helpers):
    """Blocks are borrowed buffers: a thread that kept its last task would prevent their reuse."""
    block = np.zeros(4)
    gone = weakref.ref(block)
    with ComputePool(2) as pool:
        pool.run(
            [
                Task(cost=cost, work=lambda workspace, block=block: None)
                for cost in [1.0, 1.0] + [0.0] * helpers
            ]
        )
        del block
        until = time.monotonic() + 5
        while gone() is not None and time.monotonic() < until:
            time.sleep(0.001)
        assert gone() is None


def test_after_leaving_and_without_threads_the_caller_computes():
    seen: list = []
    with ComputePool(2) as pool:
        pass
    for runner in (pool, CallerThread()):
        runner.run(
            [
                Task(cost=1, work=lambda workspace: seen.append(threading.current_thread())),
                note([], "helper", 0),
            ]
        )
    assert seen == [threading.current_thread()] * 2
