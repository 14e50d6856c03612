"""The commands of docs/cluster.md, run as they are written there."""

import json
import shlex

import dask
import pytest

from streamtrain.cli.main import run
from streamtrain.cluster import runner
from streamtrain.cluster.connect import performance_report
from tests.test_docs import DOCS, blocks


@pytest.mark.slow
def test_its_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "performance_report", performance_report)
    monkeypatch.setenv("STREAMTRAIN_FETCH__MEMORY", "256MiB")
    for language, code in blocks(DOCS / "cluster.md"):
        for line in code.splitlines() if language == "sh" else ():
            # new processes, as users have them; see `forked_workers` in conftest.py
            with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}):
                assert run(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    printed = capsys.readouterr().err
    assert "cluster: 2 workers at tls://127.0.0.1" in printed
    assert "all-reduce: " in printed or "rounds of local SGD: " in printed
    workers = json.loads((tmp_path / "runs/w2/summary.json").read_text())["workers"]
    assert workers["most_workers"] == 2
    assert workers["by_workers"][0]["rows"] == workers["by_workers"][-1]["end_rows"]
    assert "## Workers" in (tmp_path / "runs/w2/report.md").read_text()
