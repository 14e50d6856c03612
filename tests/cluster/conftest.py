"""One cluster of two worker processes for all tests here, on loopback; small data; runs on one
machine to compare with.
"""

import json
import re
import threading

import pytest

import streamtrain
from data_gen import generate
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

#: What a pass's record says of times and of who did the work, which differ.
_OWN_OF_A_PASS = ("stats", "rows_read", "workers", "lost_workers", "failed_tasks")

#: Threads that Dask keeps for the life of a process or of a cluster that other tests use too.
_DASK_THREADS = re.compile(
    r"IO loop|Profile|Dask-|TCP-Executor|AsyncProcess|asyncio_|zarr_io|ThreadPoolExecutor|watch"
    r" message queue"
)


@pytest.fixture(autouse=True)
def no_leaks():
    """Of our own threads; in place of tests/conftest.py's, which knows no Dask."""
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
def connection():
    """Two workers with a nanny each, which starts a killed one again."""
    with connect(ClusterConfig(workers=2)) as connection:
        yield connection


@pytest.fixture(scope="session")
def client(connection):
    return connection.client


def config_of(data, flags: dict, **more) -> Config:
    """A config from flags, and from dotted keys with underscores doubled.

    `cluster__slice_seconds=0.1`.
    """
    values = flag_values(flags, TRAIN_FLAGS | SWEEP_FLAGS)
    for key, value in {"data__path": str(data), **more}.items():
        part, name = key.split("__")
        values = merge(values, {part: {name: value}})
    return make_config(values)


def records(out, *events: str) -> list[dict]:
    found = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [record for record in found if not events or record["event"] in events]


def convergence(out) -> list[dict]:
    """All that a run measured of learning, in its order, less times and who did the work."""
    kept = records(out, "baseline", "evaluation", "outcome", "pass", "winners")
    return [
        {
            key: value
            for key, value in record.items()
            if not key.endswith("seconds") and key not in _OWN_OF_A_PASS
        }
        for record in kept
    ]


@pytest.fixture(scope="session")
def alone(data, tmp_path_factory):
    """The sweep on one machine."""
    return convergence(
        streamtrain.sweep(data, out=tmp_path_factory.mktemp("alone") / "run", **SWEEP).out
    )
