"""Compute pool: every task is done once, costly ones first, errors come back, hands come only where
they are needed, nothing is kept alive.
"""

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamtrain.training.compute_pool import ComputePool, OneThread, Task


def record(seen: list, what: object, cost: float = 1.0) -> Task:
    return Task(cost=cost, work=lambda workspace: seen.append((what, len(workspace.floats(8)))))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_is_done_once_whoever_calls(threads):
    seen: list = []
    with ComputePool(threads) as cores, ThreadPoolExecutor(8) as callers:
        list(
            callers.map(
                lambda caller: cores.run([record(seen, (caller, i)) for i in range(20)]), range(8)
            )
        )
    assert sorted(seen) == [((caller, i), 8) for caller in range(8) for i in range(20)]


def test_the_costliest_waiting_task_starts_first():
    seen: list = []
    started, go = threading.Event(), threading.Event()

    def hold(workspace):
        started.set()
        go.wait(10)

    with ComputePool(1) as cores, ThreadPoolExecutor(2) as callers:
        callers.submit(cores.run, [Task(cost=1, work=hold)])
        started.wait(10)
        waiting = callers.submit(cores.run, [record(seen, cost, cost) for cost in (2, 9, 4, 0)])
        while len(cores._waiting) < 4:
            time.sleep(0.001)
        go.set()
        waiting.result(10)
    assert [what for what, _ in seen] == [9, 4, 2], "and the hand, which nothing needed, was let go"


def test_an_error_comes_back_and_the_threads_go_on():
    def fail(workspace):
        raise MemoryError("full")

    seen: list = []
    with ComputePool(2) as cores:
        with pytest.raises(MemoryError, match="full"):
            cores.run([Task(cost=1, work=fail), record(seen, "other")])
        assert seen == [("other", 8)], "a batch ends when all of it has ended"
        cores.run([record(seen, "next")])
    assert seen[1:] == [("next", 8)]


def test_hands_lend_themselves_and_are_waited_for():
    """A hand that started is waited for, since it may be at work on the caller's arrays."""
    together, ended = threading.Barrier(2, timeout=10), []

    def hand(workspace):
        together.wait()
        time.sleep(0.02)
        ended.append("hand")

    with ComputePool(2) as cores:
        cores.run([Task(cost=1, work=lambda workspace: together.wait()), Task(cost=0, work=hand)])
        assert ended == ["hand"]


@pytest.mark.parametrize("hands", [0, 3])
def test_nothing_holds_a_block_when_its_batch_has_ended(hands):
    """Blocks are buffers that are lent: a thread that remembers its last task would keep one from
    being used again.
    """
    block = np.zeros(4)
    gone = weakref.ref(block)
    with ComputePool(2) as cores:
        cores.run(
            [
                Task(cost=cost, work=lambda workspace, block=block: None)
                for cost in [1.0, 1.0] + [0.0] * hands
            ]
        )
        del block
        until = time.monotonic() + 5
        while gone() is not None and time.monotonic() < until:
            time.sleep(0.001)
        assert gone() is None


def test_after_leaving_and_without_threads_the_caller_computes():
    seen: list = []
    with ComputePool(2) as cores:
        pass
    for runner in (cores, OneThread()):
        runner.run(
            [
                Task(cost=1, work=lambda workspace: seen.append(threading.current_thread())),
                record([], "hand", 0),
            ]
        )
    assert seen == [threading.current_thread()] * 2
