"""Data that changed between two parts of a run, where names, sizes and footers did not."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamtrain
from data_gen import generate
from streamtrain.errors import ConfigError
from streamtrain.storage.data_fingerprint import written_again
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.remote.remote_file import object_stamp
from streamtrain.storage.write.ingest import ingest
from streamtrain.training import checkpointing
from streamtrain.training.checkpointing import Checkpointer
from tests.run.whole_runs import run_train

TRAIN = {"batch_size": 16, "epochs": 2, "holdout": 200, "window_rows": 512, "hidden": "8"}


def write_rows(path: Path, order: np.ndarray) -> None:
    """Write rows whose file has the same size and footer in any order: no statistics, no codec."""
    columns = {"x": np.sin(order * 0.7), "y": np.cos(order * 1.3)}
    pq.write_table(
        pa.table(columns),
        path,
        row_group_size=500,
        use_dictionary=False,
        compression="none",
        write_statistics=False,
    )


def permute_within_a_row_group(path: Path) -> None:
    """Swap two rows of the file, which keeps its size and footer, and date it a minute later."""
    before = os.stat(path)
    order = np.arange(4000.0)
    order[[1001, 1002]] = order[[1002, 1001]]
    write_rows(path, order)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 60 * 10**9))


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A folder of one foreign file, and a run over it that was interrupted."""
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "a.parquet", np.arange(4000.0))
    interrupt_run(data, tmp_path / "out", monkeypatch)
    return data, tmp_path / "out"


def interrupt_run(data: Path, out: Path, monkeypatch) -> None:
    genuine, edges = Checkpointer.edge, []

    def edge(self, fraction, state):
        genuine(self, fraction, state)
        edges.append(fraction)
        if len(edges) == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "CHECKPOINT_FRACTION", 0)
        patch.setattr(checkpointing, "MAX_SAVE_OVERHEAD", np.inf)
        patch.setattr(Checkpointer, "edge", edge)
        with pytest.raises(KeyboardInterrupt):
            streamtrain.train(data, out=out, report=False, **TRAIN)


def resume(data: Path, out: Path, monkeypatch, **flags: object) -> None:
    config = streamtrain.api._config(data, TRAIN, streamtrain.api.TRAIN_FLAGS)
    checkpoint = config.checkpoint.model_copy(update=flags)
    config = config.model_copy(update={"checkpoint": checkpoint})
    run_train(config, out, resume=True, report=False)


def test_rows_that_changed_in_a_foreign_file_are_refused(interrupted, monkeypatch):
    data, out = interrupted
    was = open_shards(str(data))
    permute_within_a_row_group(data / "a.parquet")
    now = open_shards(str(data))
    assert (was.fingerprint, was.num_rows) == (now.fingerprint, now.num_rows), "as found"
    with pytest.raises(ConfigError, match=r"a\.parquet was written again at") as refused:
        resume(data, out, monkeypatch)
    assert "checkpoint.same_data=on" in str(refused.value)


def test_a_copied_file_has_a_way_out(interrupted, monkeypatch):
    data, out = interrupted
    os.utime(data / "a.parquet", (1.0, 1.0))
    with pytest.raises(ConfigError, match="other dates"):
        resume(data, out, monkeypatch)
    resume(data, out, monkeypatch, same_data=True)
    assert json.loads((out / "summary.json").read_text())["cells"]


def test_a_checkpoint_of_before_is_resumed(interrupted, monkeypatch):
    data, out = interrupted
    genuine = checkpointing.read_checkpoint

    def of_before(folder, number):
        checkpoint = genuine(folder, number)
        for name in ("the manifest", "file stamps"):
            checkpoint.document["fingerprint"].pop(name)
        return checkpoint

    monkeypatch.setattr(checkpointing, "read_checkpoint", of_before)
    os.utime(data / "a.parquet", (1.0, 1.0))
    resume(data, out, monkeypatch)


def test_shards_whose_manifest_has_other_hashes_are_refused(tmp_path, monkeypatch):
    """Ingested again after two rows were swapped: each footer and size is as before."""
    order = np.arange(4000.0)
    for name in ("first", "second"):
        write_rows(tmp_path / "a.parquet", order)
        ingest(tmp_path / "a.parquet", tmp_path / name, format="parquet", span_rows=500)
        order[[1001, 1002]] = order[[1002, 1001]]
    first, second = (open_shards(str(tmp_path / name)) for name in ("first", "second"))
    assert first.fingerprint == second.fingerprint, "as found"
    assert first.stamps is None
    opened = {"batch_size": 16, "window_rows": 512}
    state = streamtrain.open_stream(str(tmp_path / "first"), **opened).state_dict()
    with pytest.raises(ConfigError, match="manifest was"):
        streamtrain.open_stream(str(tmp_path / "second"), **opened).load_state_dict(state)
    interrupt_run(tmp_path / "first", tmp_path / "out", monkeypatch)
    with pytest.raises(ConfigError, match="the manifest was"):
        resume(tmp_path / "second", tmp_path / "out", monkeypatch)


def test_a_stream_is_not_resumed_over_changed_rows(tmp_path):
    write_rows(tmp_path / "a.parquet", np.arange(4000.0))
    opened = {"batch_size": 16, "window_rows": 512, "holdout": 0}
    stream = streamtrain.open_stream(str(tmp_path / "a.parquet"), **opened)
    state = json.loads(json.dumps(stream.state_dict()))
    permute_within_a_row_group(tmp_path / "a.parquet")
    changed = streamtrain.open_stream(str(tmp_path / "a.parquet"), **opened)
    with pytest.raises(ConfigError, match=r"a\.parquet was written again at"):
        changed.load_state_dict(state)
    state["order"]["stamps"] = None
    changed.load_state_dict(state)
    of_before = {k: v for k, v in state["order"].items() if k not in ("stamps", "manifest")}
    changed.load_state_dict({**state, "order": of_before})


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_stamps_follow_the_dates_of_foreign_files_only(tmp_path, format):
    generate(tmp_path / "data", kind="friedman2", rows=2000, span_rows=500)
    ingest(tmp_path / "data", tmp_path / "shards", format=format, span_rows=500)
    assert open_shards(str(tmp_path / "shards")).stamps is None
    (tmp_path / "shards" / "_manifest.json").unlink()
    was = open_shards(str(tmp_path / "shards")).stamps
    shutil.copytree(tmp_path / "shards", tmp_path / "same")
    assert not written_again(was, open_shards(str(tmp_path / "same")).stamps)
    last = max(path for path in (tmp_path / "same").rglob("*") if path.is_file())
    os.utime(last, (2e9, 2e9))
    text = written_again(was, open_shards(str(tmp_path / "same")).stamps)
    assert text.endswith("was written again at 2033-05-18 03:33:20 UTC")


def test_an_object_is_known_by_its_version_then_its_etag():
    assert object_stamp({"VersionId": "v7", "ETag": '"a"'}) == "v7"
    assert object_stamp({b"etag": b'"a"', b"Last-Modified": b"Sun"}) == '"a"'
    assert object_stamp({"version": None, "e_tag": '"b"', "last_modified": 1}) == '"b"'
    assert object_stamp({}) == object_stamp(None) == ""
