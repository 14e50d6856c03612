"""Sweeps on real worker processes: bit-equal records, also when a worker is killed."""

import os
import signal

import streamtrain
from streamtrain.cluster import runner
from streamtrain.cluster.connect import performance_report
from streamtrain.records import Evaluation
from tests.cluster.conftest import SWEEP, config_of, convergence, records
from tests.run.whole_runs import run_sweep


def worker_pids(client) -> list[int]:
    return sorted(client.run(os.getpid).values())


def test_a_sweep_over_workers_has_the_records_of_one_machine(
    data, alone, client, tmp_path, monkeypatch
):
    notes = []
    monkeypatch.setattr(runner, "performance_report", performance_report)
    # the batch size is the key of `train`, whose config file a sweep may share
    config = config_of(data, SWEEP, cluster__slice_seconds=0.2, train__batch_size="auto")
    result = run_sweep(config, tmp_path / "a", client=client, on_note=notes.append)
    assert convergence(result.out) == alone
    passes = records(result.out, "pass")
    for ended in passes:
        assert ended["workers"] == 2
        assert ended["rows_read"] == 3 * ended["receipt"]["count"] == 24_000
    assert "2 workers at tls://127.0.0.1" in notes[0]
    assert (result.out / "dask-report.html").stat().st_size > 1000
    assert result.summary["cells"]


def test_a_killed_worker_costs_a_slice_and_no_number(data, alone, client, tmp_path):
    before, killed = worker_pids(client), []

    def kill_once(record):
        if isinstance(record, Evaluation) and record.rows > 1000 and not killed:
            killed.append(before[0])
            os.kill(before[0], signal.SIGKILL)

    config = config_of(data, SWEEP, cluster__slice_seconds=0.05)
    result = run_sweep(config, tmp_path / "a", client=client, on_record=kill_once)
    assert killed
    assert convergence(result.out) == alone
    assert sum(ended["lost_workers"] for ended in records(result.out, "pass")) == 1
    client.wait_for_workers(2, timeout=60)
    assert before[0] not in worker_pids(client)


def test_the_python_door_takes_a_client(data, alone, client, tmp_path):
    result = streamtrain.sweep(data, out=tmp_path / "a", client=client, **{**SWEEP, "trials": 1})
    measured = [
        record for record in convergence(result.out) if record["event"] in ("evaluation", "outcome")
    ]
    assert measured == [
        record
        for record in alone
        if record["event"] in ("evaluation", "outcome") and record["trial"] == 0
    ]
