"""Failures that happen where they should: in the worker that was told, at the step that was
named.
"""

import os
import socket
import threading
from contextlib import suppress

from streamtrain.cluster.allreduce.lane_engine import LaneEngine
from streamtrain.cluster.local_sgd import round_worker as shares


def in_a_collective(step: int, how: int) -> None:
    """On a worker: get a signal before the sum of its nth step from now on."""
    original, left = LaneEngine._step, [step]

    def step_or_die(self):
        left[0] -= 1
        if not left[0]:
            LaneEngine._step = original
            os.kill(os.getpid(), how)
        original(self)

    LaneEngine._step = step_or_die


def in_a_share(number: int, how: int) -> None:
    """On a worker: get a signal at the beginning of its nth share from now on."""
    original, left = shares.share_engine, [number]

    def engine_or_die(*args):
        left[0] -= 1
        if not left[0]:
            shares.share_engine = original
            os.kill(os.getpid(), how)
        return original(*args)

    shares.share_engine = engine_or_die


def worker_pids(client) -> dict[str, int]:
    return client.run(os.getpid)


def whole_again(client, workers: int = 2) -> None:
    """Wait until nannies have started what was killed."""
    client.wait_for_workers(workers, timeout=60)


class Proxy:
    """A way to a scheduler that can be cut: a port on loopback that forwards to another one."""

    def __init__(self, address: str):
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self._to, self._ends = (host, int(port)), []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self, *, for_good: bool = True) -> None:
        """Every connection ends; with `for_good` nobody is let in again."""
        if for_good:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                there = socket.create_connection(self._to)
                self._ends += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(
                        target=self._forward, args=pair, name="proxy", daemon=True
                    ).start()

    @staticmethod
    def _forward(here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while data := here.recv(2**16):
                there.sendall(data)
        with suppress(OSError):
            there.shutdown(socket.SHUT_WR)
