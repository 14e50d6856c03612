"""Fixtures: one cluster of two worker processes on loopback, small data, and a run on one machine.

The run on one machine is what the runs on workers are compared with.
"""

import json
import os
import re
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module

import dask
import psutil
import pytest

import streamtrain
from data_gen import generate
from streamtrain import api
from streamtrain.cluster import runner
from streamtrain.cluster.connect import connect
from streamtrain.config import (
    SWEEP_FLAGS,
    TRAIN_FLAGS,
    ClusterConfig,
    Config,
    flag_values,
    make_config,
    merge,
)
from streamtrain.records import RoundEnded
from streamtrain.report.write import write_report
from tests.cluster.failing import shorten_commits, worker_pids
from tests.run.whole_runs import run_train

SWEEP = {
    "batch_sizes": [32, 256, 5000],
    "lr_grid": 2,
    "trials": 2,
    "holdout": 1000,
    "window_rows": 1024,
    "hidden": "8,8",
    "memory": "64MiB",
    "rerun": False,
    "extend_grid": False,
    "halving": False,
    "confirm": False,
    "measure": "none",
}

#: Eight epochs of 8,000 rows, in minibatches of 512; rounds of one window per share.
TRAIN = {
    "batch_size": 512,
    "epochs": 8,
    "lr": 0.01,
    "holdout": 1000,
    "window_rows": 1024,
    "hidden": "8,8",
    "memory": "64MiB",
}


#: Keys of a pass's record that depend on timing and on who did the work.
VARYING_PASS_KEYS = ("stats", "rows_read", "workers", "lost_workers", "failed_tasks")

#: Threads that Dask keeps for the life of the process, or of the cluster that all tests share.
_DASK_THREADS = re.compile(
    r"IO loop|Profile|Dask-|TCP-Executor|AsyncProcess|asyncio_|zarr_io|ThreadPoolExecutor|watch"
    r" message queue"
)


@pytest.fixture(autouse=True)
def no_leaks():
    """Check that no thread of streamtrain is left.

    It replaces the fixture of tests/conftest.py, which does not know Dask's threads.
    """
    before = set(threading.enumerate())
    yield
    left = [
        thread
        for thread in set(threading.enumerate()) - before
        if not _DASK_THREADS.search(thread.name)
    ]
    assert not [thread for thread in left if thread.name.startswith("streamtrain")], left


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "data"
    generate(folder, kind="friedman2", rows=9_000, span_rows=256)
    return folder


@pytest.fixture(scope="session")
def forked_workers(forked):
    """Dask's workers are forked too, and start in no time.

    The commands of docs/cluster.md (test_page.py) start theirs as users do.
    """
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="session")
def connection(forked_workers):
    """Two workers, each with a nanny that restarts it when it is killed.

    By itself, Dask would give up a worker that is not back in 0.1 s.
    """
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0.1s"}),
        connect(ClusterConfig(workers=2)) as connection,
    ):
        yield connection


@pytest.fixture(scope="session")
def client(connection):
    return connection.client


def config_of(data, flags: dict, **more) -> Config:
    """Return a config from flags, and from keys such as `cluster__slice_seconds=0.1`."""
    values = flag_values(flags, TRAIN_FLAGS | SWEEP_FLAGS)
    for key, value in {"data__path": str(data), **more}.items():
        section, name = key.split("__")
        values = merge(values, {section: {name: value}})
    return make_config(values)


def records(out, *events: str) -> list[dict]:
    """Return the records of a run's log, as JSON values; with `events` only those."""
    logged = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [record for record in logged if not events or record["event"] in events]


def convergence(out) -> list[dict]:
    """Return the records that show how a run learned, in order, without times and workers."""
    return plain(records(out, "baseline", "evaluation", "outcome", "pass", "winners"))


def plain(documents: list[dict]) -> list[dict]:
    """Return records as JSON values, without times and workers."""
    return [
        {
            key: value
            for key, value in document.items()
            if not key.endswith("seconds") and key not in VARYING_PASS_KEYS
        }
        for document in documents
    ]


@pytest.fixture(scope="session")
def alone(data, tmp_path_factory):
    """The records of the sweep on one machine."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch)
        return convergence(
            streamtrain.sweep(data, out=tmp_path_factory.mktemp("alone") / "run", **SWEEP).out
        )


def config(data, sync, **flags):
    return config_of(
        data, {**TRAIN, "sync": sync, **flags}, cluster__shares=2, cluster__round_rows=1024
    )


def learned(out) -> list[dict]:
    """Return the records that do not depend on the workers: evaluations and outcomes.

    Times are left out, and training losses, whose float64 sums are cut at other rows.
    """
    return comparable(records(out, "evaluation", "outcome"))


def comparable(documents: list[dict]) -> list[dict]:
    return [
        {key: value for key, value in document.items() if key not in ("seconds", "train_loss")}
        for document in documents
    ]


def the_pass(out) -> dict:
    (ended,) = records(out, "pass")
    return ended


@pytest.fixture
def short_commits(monkeypatch):
    """Commit an all-reduce after every four steps, so that there are many commits to fail in."""
    shorten_commits(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out what takes most of a short run and is compared nowhere in this folder.

    Dask's own report and the pages of ours, the measured throughput, and fsync, which matters only
    for a power failure.
    """
    leave_out(monkeypatch)


def leave_out(patch):
    patch.setattr(runner, "performance_report", lambda *_: nullcontext())
    patch.setattr(
        api, "write_report", lambda records, out, **_: write_report(records, out, pictures=False)
    )
    for verb in ("train", "sweep"):
        patch.setattr(
            import_module(f"streamtrain.run.{verb}"), "measure_throughput", lambda *_, **__: None
        )
    patch.setattr(os, "fsync", lambda file: None)


@dataclass
class Unbroken:
    receipt: dict
    learned: list
    notes: list
    listening: set


@pytest.fixture(scope="session")
def unbroken(data, client, tmp_path_factory):
    """Runs without a failure, and the addresses at which their processes listened meanwhile."""
    runs = {}
    for sync in ("rounds", "allreduce"):
        notes, listening = [], set()

        def look(record, listening=listening):
            if isinstance(record, RoundEnded) and record.round == 2:
                listening |= addresses_listened_at(client)

        with pytest.MonkeyPatch.context() as patch:
            leave_out(patch)
            out = run_train(
                config(data, sync),
                tmp_path_factory.mktemp(sync) / "run",
                client=client,
                on_record=look,
                on_note=notes.append,
            ).out
        runs[sync] = Unbroken(the_pass(out)["receipt"], learned(out), notes, listening)
    return runs


def addresses_listened_at(client) -> set[str]:
    pids = [os.getpid(), *worker_pids(client).values(), *client.run(os.getppid).values()]
    return {
        connection.laddr.ip
        for pid in set(pids)
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
