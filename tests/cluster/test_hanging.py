"""Workers that stop without dying, connections that come back, workers that join later.

They are real processes.
"""

import itertools
import os
import signal
from contextlib import contextmanager

import pytest
from distributed import Client

from streamtrain.cluster import worker_group
from streamtrain.cluster.allreduce import allreduce_pass
from streamtrain.records import Evaluation, RoundEnded
from tests.cluster.conftest import (
    SWEEP,
    config,
    config_of,
    convergence,
    learned,
    records,
    the_pass,
)
from tests.cluster.failing import (
    Proxy,
    signal_at_share,
    signal_at_step,
    wait_for_restarts,
    worker_pids,
)
from tests.run.whole_runs import run_sweep, run_train

pytestmark = pytest.mark.usefixtures("short_commits")


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.setattr("streamtrain.cluster.runner.COLLECTIVE_SECONDS", 2.0)
    monkeypatch.setattr(worker_group, "SLACK_SECONDS", 1.0)
    monkeypatch.setattr("streamtrain.cluster.connect.CONNECT_SECONDS", 5.0)


@pytest.fixture
def our_own(connection, monkeypatch):
    """Connect as to a cluster that we started, whose workers may be restarted."""

    @contextmanager
    def connect(config, client):
        yield connection

    monkeypatch.setattr("streamtrain.cluster.runner.connect", connect)


def stop_in(arm, client, stopped: dict):
    """Return a callback for records that stops a worker after round 3.

    The first worker stops in its second collective or share from then on.
    """

    def on_record(record):
        if isinstance(record, RoundEnded) and record.round == 3:
            address, pid = sorted(worker_pids(client).items())[0]
            stopped[address] = pid
            client.run(arm, 2, signal.SIGSTOP, workers=[address])

    return on_record


def test_a_worker_that_stops_in_a_collective_is_started_anew(
    data, client, unbroken, our_own, tmp_path
):
    stopped = {}
    out = run_train(
        config(data, "allreduce"),
        tmp_path / "a",
        client=client,
        on_record=stop_in(signal_at_step, client, stopped),
    ).out
    assert stopped
    assert learned(out) == unbroken["allreduce"].learned
    assert the_pass(out)["receipt"] == unbroken["allreduce"].receipt
    assert the_pass(out)["failed_tasks"] == 1
    wait_for_restarts(client)
    assert not stopped.keys() & worker_pids(client).keys()


@pytest.mark.slow
def test_a_share_that_hangs_is_done_by_another_worker(data, client, unbroken, tmp_path):
    stopped = {}
    try:
        out = run_train(
            config(data, "rounds"),
            tmp_path / "a",
            client=client,
            on_record=stop_in(signal_at_share, client, stopped),
        ).out
    finally:
        for pid in stopped.values():
            os.kill(pid, signal.SIGKILL)
    assert stopped
    assert learned(out) == unbroken["rounds"].learned
    assert the_pass(out)["receipt"] == unbroken["rounds"].receipt
    wait_for_restarts(client)


@pytest.mark.slow
def test_a_slice_of_a_sweep_that_hangs_is_done_by_another_worker(data, alone, client, tmp_path):
    stopped = []

    def stop_once(record):
        if isinstance(record, Evaluation) and record.rows > 1000 and not stopped:
            stopped.append(sorted(worker_pids(client).values())[0])
            os.kill(stopped[0], signal.SIGSTOP)

    try:
        out = run_sweep(
            config_of(data, SWEEP, cluster__slice_seconds=0.05),
            tmp_path / "a",
            client=client,
            on_record=stop_once,
        ).out
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
    assert stopped
    assert convergence(out) == alone
    wait_for_restarts(client)


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["rounds", "allreduce"])
def test_a_connection_that_comes_back_costs_no_number(data, client, unbroken, tmp_path, sync):
    proxy = Proxy(client.scheduler.address)

    def cut(record):
        if isinstance(record, RoundEnded) and record.round in (3, 6):
            proxy.cut(for_good=False)

    with Client(proxy.address, security=client.security, set_as_default=False) as through:
        out = run_train(config(data, sync), tmp_path / "a", client=through, on_record=cut).out
    proxy.cut()
    assert learned(out) == unbroken[sync].learned
    assert the_pass(out)["receipt"] == unbroken[sync].receipt


class Seen(Exception):
    """A round of three workers has ended."""


@pytest.mark.slow
def test_a_worker_that_comes_later_joins_at_a_commit(data, client, tmp_path, monkeypatch):
    monkeypatch.setattr(allreduce_pass, "COMMIT_SECONDS", 0.2)

    def look(record):
        if isinstance(record, RoundEnded):
            if record.round == 2:
                client.cluster.scale(3)
            if record.workers == 3:
                raise Seen

    try:
        with pytest.raises(Seen):
            run_train(
                config(data, "allreduce", epochs=100_000),
                tmp_path / "a",
                client=client,
                on_record=look,
            )
    finally:
        client.cluster.scale(2)
    rounds = records(tmp_path / "a", "round")
    assert rounds[0]["workers"] == 2
    assert rounds[-1]["workers"] == 3
    assert rounds[-1]["generation"] == 2
    assert all(early["rows"] < late["rows"] for early, late in itertools.pairwise(rounds))
