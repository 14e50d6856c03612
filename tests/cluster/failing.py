"""Failures at a chosen point of a run: kill a worker or the driver, or cut a connection."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distributed import Client, Security

from streamtrain.cluster.allreduce import allreduce_pass
from streamtrain.cluster.allreduce.lane_engine import LaneEngine
from streamtrain.cluster.local_sgd import round_worker
from streamtrain.config import Config
from streamtrain.records import RoundEnded
from tests.run.whole_runs import run_train


def signal_at_step(step: int, signal_number: int) -> None:
    """Send this worker a signal before the sum of its `step`-th step from now."""
    original, steps_left = LaneEngine._step, [step]

    def step_or_die(self):
        steps_left[0] -= 1
        if not steps_left[0]:
            LaneEngine._step = original
            os.kill(os.getpid(), signal_number)
        original(self)

    LaneEngine._step = step_or_die


def signal_at_share(number: int, signal_number: int) -> None:
    """Send this worker a signal at the start of its `number`-th share from now."""
    original, shares_left = round_worker.fetch, [number]

    def fetch_or_die(*args):
        shares_left[0] -= 1
        if not shares_left[0]:
            round_worker.fetch = original
            os.kill(os.getpid(), signal_number)
        return original(*args)

    round_worker.fetch = fetch_or_die


def shorten_commits(set_attribute: Callable[[object, str, int], None]) -> None:
    """Commit an all-reduce after every four steps."""
    set_attribute(allreduce_pass, "FIRST_STEPS", 4)
    set_attribute(allreduce_pass, "MAX_GROWTH", 1)


def drive_until_killed(
    config: str, out: Path, address: str, security: Security, round: int
) -> None:
    """Train on a scheduler's workers; kill this process after a round. `config`: as JSON."""
    shorten_commits(setattr)

    def kill(record):
        if isinstance(record, RoundEnded) and record.round == round:
            os.kill(os.getpid(), signal.SIGKILL)

    with Client(address, security=security) as client:
        run_train(Config.model_validate_json(config), out, client=client, on_record=kill)


def worker_pids(client) -> dict[str, int]:
    return client.run(os.getpid)


def wait_for_restarts(client, workers: int = 2) -> None:
    """Wait until the nannies have restarted the workers that were killed."""
    client.wait_for_workers(workers, timeout=60)


class Proxy:
    """A connection to a scheduler that can be cut: a port on loopback that forwards to it."""

    def __init__(self, address: str):
        host, port = address.removeprefix("tls://").rsplit(":", 1)
        self._target = (host, int(port))
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tls://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self, *, for_good: bool = True) -> None:
        """End every connection; with `for_good` new ones are refused too."""
        if for_good:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._sockets.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                there = socket.create_connection(self._target)
                self._sockets += [here, there]
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
