"""The seconds of a sweep's budget count from the start of its command."""

import time

import pytest

from data_gen import generate
from streamtrain import cli
from streamtrain.cli.command_clock import command_began, counting_from
from streamtrain.cli.main import run
from streamtrain.errors import ConfigError


def test_a_command_begins_when_it_is_told_or_now():
    assert command_began() is None
    with counting_from(5.0):
        assert command_began() == 5.0
        before = time.perf_counter()
        with counting_from(None):
            assert before <= command_began() <= time.perf_counter()
        assert command_began() == 5.0
    assert command_began() is None


def test_the_console_script_begins_before_its_imports(monkeypatch):
    began = []
    monkeypatch.setattr("streamtrain.cli.main.main", began.append)
    before = time.perf_counter()
    cli.start()
    assert before <= began[0] <= time.perf_counter()


@pytest.mark.parametrize("verb", ["sweep", "dry run"])
def test_a_sweep_counts_from_the_start_of_its_command(monkeypatch, tmp_path, verb):
    """Two to three seconds of imports were not in the budget."""
    seen, given = [], time.perf_counter() - 100

    def stop(*_, began=None, **__):
        seen.append(began)
        raise ConfigError("stop")

    generate(tmp_path / "data", kind="linear", rows=1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("streamtrain.run.sweep.sweep", stop)
    monkeypatch.setattr("streamtrain.api.plan_run", stop)
    more = ["--dry-run"] if verb == "dry run" else []
    assert run(["sweep", "data", "--quiet", *more], given) == 2
    assert seen == [given]
