"""`train` on real worker processes: the numbers do not depend on them.

No failure costs a row, a number, or more than a round.
"""

import signal

import pytest
from distributed import Client

from streamtrain.cluster.allreduce import allreduce_pass
from streamtrain.errors import ConfigError, ResourceError
from streamtrain.records import RoundEnded
from streamtrain.run.prepare import prepare
from tests.cluster.conftest import TRAIN, comparable, config, config_of, learned, records, the_pass
from tests.cluster.failing import (
    Proxy,
    drive_until_killed,
    signal_at_share,
    signal_at_step,
    wait_for_restarts,
    worker_pids,
)
from tests.cluster.test_lane_session import together
from tests.run.whole_runs import run_train

pytestmark = pytest.mark.usefixtures("short_commits")


def test_every_row_once_an_epoch_and_the_rows_of_one_machine(data, unbroken, tmp_path):
    alone = the_pass(run_train(config_of(data, TRAIN), tmp_path / "alone").out)
    assert unbroken["rounds"].receipt == unbroken["allreduce"].receipt == alone["receipt"]
    assert alone["receipt"]["count"] == TRAIN["epochs"] * 8000
    for sync in ("rounds", "allreduce"):
        losses = [
            record["holdout_loss"]
            for record in unbroken[sync].learned
            if record["event"] == "evaluation"
        ]
        assert losses[-1] < 0.2 * losses[0]
        assert "2 workers at tls://127.0.0.1" in unbroken[sync].notes[0]
        assert unbroken[sync].notes[1].endswith("requested with --sync")
        assert unbroken[sync].listening == {"127.0.0.1"}


def test_two_processes_have_the_losses_of_one(data, unbroken):
    """test_lane_session.py compares 1, 2 and 4 workers that are threads."""
    alone = together(prepare(config(data, "allreduce"), learners=1, rates=1), 1, 8)[0]
    evaluations = [
        record for record in unbroken["allreduce"].learned if record["event"] == "evaluation"
    ]
    assert evaluations == comparable([record.to_json() for record in alone.records])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_so_have_one_and_four(data, unbroken, tmp_path, workers):
    out = run_train(
        config(data, "allreduce", min_workers=workers, workers=workers), tmp_path / "a"
    ).out
    assert {ended["workers"] for ended in records(out, "round")} == {workers}
    assert learned(out) == unbroken["allreduce"].learned
    assert the_pass(out)["receipt"] == unbroken["allreduce"].receipt


@pytest.mark.parametrize(
    ("sync", "arm"),
    [("allreduce", signal_at_step), ("rounds", signal_at_share)],
    ids=["collective", "round"],
)
def test_a_worker_killed_at_work_costs_a_round_and_no_number(
    data, client, unbroken, tmp_path, sync, arm
):
    armed, notes = [], []

    def kill_in_the_next(record):
        if isinstance(record, RoundEnded) and record.round == 3:
            armed.append(sorted(worker_pids(client))[0])
            client.run(arm, 2, signal.SIGKILL, workers=armed)

    out = run_train(
        config(data, sync),
        tmp_path / "a",
        client=client,
        on_record=kill_in_the_next,
        on_note=notes.append,
    ).out
    assert armed
    assert learned(out) == unbroken[sync].learned
    ended = the_pass(out)
    assert ended["receipt"] == unbroken[sync].receipt
    assert ended["lost_workers"] >= 1
    assert ended["failed_tasks"] >= 1
    assert any("the worker is gone" in note for note in notes)
    wait_for_restarts(client)
    assert armed[0] not in worker_pids(client)


@pytest.mark.parametrize("sync", ["allreduce", pytest.param("rounds", marks=pytest.mark.slow)])
def test_a_killed_driver_goes_on_from_its_last_commit(
    data, client, unbroken, forked, tmp_path, sync
):
    given = config(data, sync)
    words = (given.model_dump_json(), tmp_path / "a", client.scheduler.address, client.security, 4)
    driver = forked.Process(target=drive_until_killed, args=words)
    driver.start()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    rows = records(tmp_path / "a", "round")[-1]["rows"]
    result = run_train(
        given,
        tmp_path / "a",
        resume=True,
        client=client,
    )
    assert learned(result.out) == unbroken[sync].learned
    assert the_pass(result.out)["receipt"] == unbroken[sync].receipt
    committed = [ended["rows"] for ended in records(result.out, "round")]
    # At most one round was repeated.
    assert (committed == sorted(set(committed)) and rows in committed) or sync == "allreduce"


def test_a_cut_connection_ends_the_run_saved_and_it_goes_on(
    data, client, unbroken, tmp_path, monkeypatch
):
    monkeypatch.setattr("streamtrain.cluster.dask_backend.CUT_SECONDS", 0.5)
    proxy = Proxy(client.scheduler.address)

    def cut(record):
        if isinstance(record, RoundEnded) and record.round == 5:
            proxy.cut()

    given = config(data, "rounds")
    with (
        Client(proxy.address, security=client.security, set_as_default=False) as through,
        pytest.raises(ResourceError, match=r"scheduler cannot be reached.*--resume auto"),
    ):
        run_train(given, tmp_path / "a", client=through, on_record=cut)
    result = run_train(given, tmp_path / "a", resume=True, client=client)
    assert learned(result.out) == unbroken["rounds"].learned
    assert the_pass(result.out)["receipt"] == unbroken["rounds"].receipt
    rows = [ended["rows"] for ended in records(result.out, "round")]
    assert len(rows) == len(set(rows))


def test_what_allreduce_cannot_do_is_refused_with_the_next_move(data, client, tmp_path):
    for flags, message in (
        ({"batch_size": 500}, "500 rows cannot be cut into 8 lanes"),
        ({"on_null": "drop"}, "--on-null impute"),
    ):
        with pytest.raises(ConfigError, match=message):
            out = tmp_path / message[:3]
            run_train(config(data, "allreduce", **flags), out, client=client)


def test_until_flat_allreduce_ends_at_a_row_that_the_length_of_commits_does_not_decide(
    data, client, tmp_path, monkeypatch
):
    monkeypatch.setattr("streamtrain.training.until_flat.LEAST_ROWS", 0)
    flags, outs = {"epochs": None, "hidden": [], "lr": 0.1}, []
    for steps in (4, 50):
        monkeypatch.setattr(allreduce_pass, "FIRST_STEPS", steps)
        folder = tmp_path / str(steps)
        outs.append(run_train(config(data, "allreduce", **flags), folder, client=client).out)
    assert learned(outs[0]) == learned(outs[1])
    ended, rows = records(outs[0], "outcome")[0], the_pass(outs[0])["receipt"]["count"]
    assert ended["reason"].startswith("flat: ")
    assert ended["rows"] <= rows < ended["rows"] + 8000
    assert the_pass(outs[0])["receipt"] == the_pass(outs[1])["receipt"]


def test_early_stop_ends_an_allreduce_at_a_row_that_the_length_of_commits_does_not_decide(
    data, client, tmp_path, monkeypatch
):
    flags, outs = {"epochs": 40, "hidden": [], "lr": 3.0, "early_stop": 2}, []
    for steps in (4, 50):
        monkeypatch.setattr(allreduce_pass, "FIRST_STEPS", steps)
        folder = tmp_path / str(steps)
        outs.append(run_train(config(data, "allreduce", **flags), folder, client=client).out)
    assert learned(outs[0]) == learned(outs[1])
    ended = records(outs[0], "outcome")[0]
    assert ended["rows"] < 40 * 8000, ended
    assert ended["reason"] == "stopped early: no smaller held-out loss in 2 evaluations"
    assert the_pass(outs[0])["receipt"] == the_pass(outs[1])["receipt"]
