"""The script of peers: its table names missing peers, and every side delivers all rows.

No peer has to be installed.
"""

import importlib.util
from pathlib import Path

import pytest

import data_gen

PATH = Path(__file__).with_name("peers.py")


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table(peers, monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda package: None if package == "ray" else "1.0")
    hugging_face = "Hugging Face datasets, streaming, shuffle buffer"
    rates = {("streamtrain", 100): [10e6, 12e6, 11e6], (hugging_face, 100): [0.5e6]}
    lines = {
        line.split(" |")[0].removeprefix("| "): line
        for line in peers.table(rates, [100]).splitlines()
    }
    assert "| 11 |" in lines["streamtrain"]
    assert "| 0.5 (22 × slower) |" in lines[hugging_face]
    assert "not installed" in lines["Ray Data, local shuffle"]
    assert "failed" in lines["torch DataLoader, rows of an IterableDataset"]


@pytest.mark.parametrize("side", ["torch_rows", "torch_in_memory", "streamtrain"])
def test_every_side_at_hand_delivers_every_row_once(peers, side, tmp_path, monkeypatch):
    data_gen.generate(tmp_path / "data", kind="linear", rows=3000, span_rows=512)
    monkeypatch.setattr(peers, "WORKERS", 0)
    batches = list(getattr(peers, side)(str(tmp_path / "data"), 128))
    assert sum(len(x) for x, _ in batches) == 3000
    assert all(x.shape[1:] == (4,) and y.shape == (len(x), 1) for x, y in batches)
    # the values are random, so hardly two are equal
    assert len({float(value) for x, _ in batches for value in x[:, 0]}) > 2900
