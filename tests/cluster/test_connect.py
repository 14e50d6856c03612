"""Connecting: our cluster or the user's, the versions, and no port open to other machines."""

import asyncio
import importlib
import os
import socket
import sys
import time
import tomllib
import warnings
from functools import partial
from pathlib import Path

import click
import distributed
import pytest
from click.testing import CliRunner

from streamtrain.base.redact import NO_SECRETS
from streamtrain.cli.dask_plugin import streamtrain as dask_command
from streamtrain.cluster import dask_backend
from streamtrain.cluster.choice import choose_runner, is_wanted
from streamtrain.cluster.connect import connect, performance_report
from streamtrain.cluster.dask_backend import DaskBackend
from streamtrain.cluster.versions import check_answer, check_versions, versions
from streamtrain.config import TRAIN_FLAGS, ClusterConfig, flag_values, make_config
from streamtrain.errors import ConfigError, ResourceError


def test_an_existing_client_is_used_and_left_open(client):
    with connect(ClusterConfig(), client) as connection:
        assert connection.client is client
        assert not connection.is_ours
    assert client.status == "running"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_time": "1s"}, "--max-time"),
        ({"batch_schedule": "8@0,16@99"}, "--batch-schedule is for one machine"),
        ({"batch_size": "auto"}, "--batch-size auto is for one machine"),
        ({"on_bad_shard": "quarantine"}, "--on-bad-shard quarantine is for one machine"),
        ({"sync": "allreduce", "batch_size": 1}, "--sync allreduce: a minibatch of 1 row cannot"),
        ({"sync": "allreduce", "on_null": "drop"}, "--sync allreduce: lanes count rows"),
    ],
)
def test_options_for_one_machine_are_refused_before_a_client_is_used(tmp_path, flags, message):
    config = make_config(flag_values(flags, TRAIN_FLAGS))
    with pytest.raises(ConfigError, match=f"^{message}"):
        choose_runner("train", config, tmp_path, client=object())


def test_shares_that_do_not_divide_are_refused_before_a_client_is_used(tmp_path):
    config = make_config({"cluster": {"sync": "rounds", "shares": 3}})
    with pytest.raises(ConfigError, match=r"shares is 3, which does not divide .* 256 rows"):
        choose_runner("train", config, tmp_path, client=object())


def test_a_run_that_is_refused_leaves_no_report_of_dask(client, tmp_path):
    """Its folder, which only has an empty log, is removed; with the report it was not."""
    (tmp_path / "events.jsonl").touch()
    with (
        pytest.raises(ConfigError),
        connect(ClusterConfig(), client) as connection,
        performance_report(connection, tmp_path / "dask-report.html", NO_SECRETS),
    ):
        raise ConfigError("no rows")
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]


def test_workers_import_what_their_first_task_needs_and_answer_meanwhile(
    client, tmp_path, monkeypatch
):
    (tmp_path / "slow_work.py").write_text("import time\ntime.sleep(10)\n")
    client.run(look_for_modules_in, str(tmp_path))
    monkeypatch.setattr("streamtrain.cluster.connect.WORK_MODULE", "slow_work")
    started = time.monotonic()
    with connect(ClusterConfig(), client):
        while not all(client.run(is_imported, "slow_work").values()):
            assert time.monotonic() < started + 8
    assert time.monotonic() < started + 8


def look_for_modules_in(folder: str) -> None:
    sys.path.append(folder)


def is_imported(module: str) -> bool:
    return module in sys.modules


def test_a_closed_client_is_refused(client):
    closed = distributed.Client(
        client.scheduler.address, security=client.security, set_as_default=False
    )
    closed.close()
    with (
        pytest.raises(ConfigError, match="client= is closed"),
        connect(ClusterConfig(), closed),
    ):
        pass


def test_a_client_that_is_closed_during_a_run_is_a_lost_cluster(client):
    user = distributed.Client(
        client.scheduler.address, security=client.security, set_as_default=False
    )
    with DaskBackend(user, "run", None, None) as backend:
        worker = backend.wait(20)[0].worker
        user.close()
        with pytest.raises(ResourceError, match="client= was closed"):
            backend.submit(1, worker, None)


def write_tls(security, folder) -> dict[str, str]:
    """Write the certificates of a client to files; return them as keys of the config."""
    names = {
        "tls_ca_file": security.tls_ca_file,
        "tls_cert": security.tls_client_cert,
        "tls_key": security.tls_client_key,
    }
    for name, text in names.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in names}


def test_a_scheduler_by_address_file_and_environment(client, tmp_path, monkeypatch):
    address, files = client.scheduler.address, write_tls(client.security, tmp_path)
    client.write_scheduler_file(str(tmp_path / "scheduler.json"))
    assert not is_wanted(ClusterConfig())
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    assert is_wanted(ClusterConfig())
    for config in (
        ClusterConfig(scheduler=address, **files),
        ClusterConfig(scheduler_file=str(tmp_path / "scheduler.json"), **files),
        ClusterConfig(**files),
    ):
        with connect(config) as connection:
            assert connection.client.scheduler.address == address
            assert not connection.is_ours
    with (
        pytest.raises(ResourceError, match="TLS"),
        connect(ClusterConfig(scheduler=address)),
    ):
        pass


def test_a_factory_of_the_users(client, tmp_path, monkeypatch):
    (tmp_path / "site_cluster.py").write_text("def nothing(): return 7\ndef broken(queue): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    again = partial(distributed.Client, client.scheduler.address, security=client.security)
    monkeypatch.setattr(importlib.import_module("site_cluster"), "client", again, raising=False)
    with connect(ClusterConfig(factory="site_cluster:client")) as connection:
        assert connection.client.scheduler.address == client.scheduler.address
    with (
        pytest.raises(ConfigError, match=r"returned int. Return a Dask cluster"),
        connect(ClusterConfig(factory="site_cluster:nothing")),
    ):
        pass
    with (
        pytest.raises(
            ConfigError, match=r"--cluster site_cluster:broken raised TypeError: .*queue"
        ),
        connect(ClusterConfig(factory="site_cluster:broken")),
    ):
        pass


def test_what_cannot_be_reached_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("streamtrain.cluster.connect.CONNECT_SECONDS", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with (
            pytest.raises(ResourceError, match="does not answer") as caught,
            connect(ClusterConfig(scheduler=address)),
        ):
            pass
    assert address in str(caught.value)
    assert caught.value.exit_code == 4
    with (
        pytest.raises(ResourceError, match="does not answer") as caught,
        connect(ClusterConfig(scheduler="tcp://user:PassWord7@127.0.0.1:1")),
    ):
        pass
    assert "PassWord7" not in str(caught.value)  # Dask quotes an address that it cannot parse
    with (
        pytest.raises(ConfigError, match="--scheduler-file"),
        connect(ClusterConfig(scheduler_file=str(tmp_path / "none.json"))),
    ):
        pass
    config = ClusterConfig(scheduler="tls://127.0.0.1:1", tls_cert=str(tmp_path / "none.pem"))
    with (
        pytest.raises(ConfigError, match=r"cluster.tls_cert is .*, which is not a file"),
        connect(config),
    ):
        pass
    with pytest.raises(ConfigError, match="workers and factory each name a cluster"):
        make_config({"cluster": {"workers": 2, "factory": "a:b"}})
    with pytest.raises(ConfigError, match=r"cluster\.scheduler"):
        make_config({"cluster": {"scheduler": ""}})


def test_a_port_that_lets_everybody_in_and_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("streamtrain.cluster.connect.CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with (
            pytest.raises(ResourceError, match="did not complete the Dask handshake"),
            connect(ClusterConfig(scheduler=f"tcp://127.0.0.1:{silent.getsockname()[1]}")),
        ):
            pass
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', '{"address": 7}'])
def test_a_scheduler_file_without_an_address_is_refused(tmp_path, text, monkeypatch):
    monkeypatch.setattr("streamtrain.cluster.connect._READ_RETRY_SECONDS", 0.001)
    (tmp_path / "scheduler.json").write_text(text)
    with (
        pytest.raises(ConfigError, match="does not contain a scheduler's address"),
        connect(ClusterConfig(scheduler_file=str(tmp_path / "scheduler.json"))),
    ):
        pass


def test_versions_are_compared():
    here = versions()
    assert check_versions(here, here, "tcp://a") == []
    assert check_versions(here, {**here, "numpy": "1.0"}, "tcp://a") == [
        f"numpy is {here['numpy']} here and 1.0 on tcp://a"
    ]
    with pytest.raises(ConfigError, match="not installed on tcp://a"):
        check_versions(here, {**here, "streamtrain": None}, "tcp://a")
    assert (
        check_answer(here, here, "tcp://a")
        == check_answer(here, OSError("it left"), "tcp://a")
        == []
    )
    # Dask reports what a worker raised as a plain Exception.
    with pytest.raises(ConfigError, match="cannot be imported on tcp://a"):
        check_answer(
            here, Exception("""ModuleNotFoundError("No module named 'streamtrain'")"""), "tcp://a"
        )


def test_dask_streamtrain_is_the_same_command(capsys):
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "entry-points"
    ]["dask_cli"]
    assert declared == {"streamtrain": "streamtrain.cli.dask_plugin:streamtrain"}
    assert isinstance(dask_command, click.Command)
    with warnings.catch_warnings():
        done = CliRunner().invoke(
            dask_command,
            ["bench", "cluster", "--simulate", "--rows", "20M", "--workers", "2", "--json"],
        )
    assert done.exit_code == 0
    assert '"workers": 2' in done.output
    assert CliRunner().invoke(dask_command, ["bench", "cluster"]).exit_code == 2
    assert "Usage" in CliRunner().invoke(dask_command, ["sweep", "--help"]).output


def test_a_scheduler_without_streamtrain_is_refused_before_it_refuses_every_task(
    client, monkeypatch
):
    async def run_on_scheduler(function):
        raise Exception("""ModuleNotFoundError("No module named 'streamtrain'")""")

    monkeypatch.setattr(client, "run_on_scheduler", run_on_scheduler)
    with (
        pytest.raises(ConfigError, match="cannot be imported on the scheduler"),
        connect(ClusterConfig(), client),
    ):
        pass


def test_a_worker_that_comes_without_streamtrain_is_given_nothing(client, monkeypatch):
    """Its first task would fail, and so would three attempts at every learner."""
    bad, notes = sorted(client.run(os.getpid))[0], []
    original = client.run

    async def answer(function, workers, on_error):
        answers = await original(function, workers=workers, on_error=on_error)
        return {
            worker: Exception("""ImportError('no streamtrain')""") if worker == bad else installed
            for worker, installed in answers.items()
        }

    with DaskBackend(client, "run", None, None, notify=notes.append) as backend:
        monkeypatch.setattr(client, "run", answer)
        joined = backend.wait(20)
        monkeypatch.undo()
    assert [event.worker for event in joined] == sorted(client.run(os.getpid))[1:]
    assert len(notes) == 1
    assert notes[0].startswith(f"worker {bad} excluded: streamtrain cannot be imported")


def test_a_scheduler_that_falls_silent_is_lost_and_not_waited_for(client, monkeypatch):
    """Its connections stay open, as they do when the process is stopped."""

    async def never(**_):
        await asyncio.sleep(600)

    monkeypatch.setattr(dask_backend, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(dask_backend, "SILENT_SECONDS", 0.5)
    with DaskBackend(client, "run", None, None) as backend:
        monkeypatch.setattr(client.scheduler, "identity", never, raising=False)
        with pytest.raises(ResourceError, match="its scheduler has not answered for"):
            backend.wait(20)
