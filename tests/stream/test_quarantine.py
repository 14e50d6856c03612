"""The laws of quarantine (DESIGN.md §8), on files with real damage.

Rows are identified by the ids in their first two columns.
"""

import itertools
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamtrain
from streamtrain.cli.run_verbs import result_text
from streamtrain.config import TRAIN_FLAGS, flag_values, make_config, merge
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.order import hash_array
from streamtrain.records import PassEnded, started_record
from streamtrain.report.summary import summarize
from streamtrain.run.directory import RunDirectory
from streamtrain.run.train import train
from streamtrain.storage.readers import Forward, Readers
from streamtrain.storage.write.ingest import ingest
from streamtrain.stream.window import RECEIPT_KEY
from tests.stream.conftest import id_rows, row_ids

SMALL = {"window_rows": 90, "span_rows": 40, "memory": "64MiB"}
LAYOUT = [[7, 93, 1], [1], [200, 3], [64], [30, 30, 30]]
TOTAL = sum(map(sum, LAYOUT))


def write(folder: Path, layout=LAYOUT, rows: np.ndarray | None = None) -> Path:
    """Write shards whose pages carry checksums, with a row group per number."""
    folder.mkdir(parents=True)
    rows = id_rows(sum(map(sum, layout))) if rows is None else rows
    starts = iter(np.cumsum([0, *itertools.chain(*layout)]).tolist())
    for number, groups in enumerate(layout):
        schema = pa.schema([(f"c{k}", pa.float32()) for k in range(rows.shape[1])])
        path = folder / f"part-{number:04d}.parquet"
        with pq.ParquetWriter(
            path, schema, write_page_checksum=True, use_dictionary=False, compression="none"
        ) as writer:
            for group in groups:
                start = next(starts)
                writer.write_batch(
                    pa.record_batch(
                        list(np.ascontiguousarray(rows[start : start + group].T)), schema=schema
                    ),
                    group,
                )
    return folder


def spoil(folder: Path, shard: int, group: int) -> None:
    """Flip the last bit of a row group's first column, as a failing disk does: without a date."""
    path = folder / f"part-{shard:04d}.parquet"
    dates = os.stat(path)
    chunk = pq.read_metadata(path).row_group(group).column(0)
    whole = bytearray(path.read_bytes())
    whole[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))


def open_stream(folder: Path, **flags):
    return streamtrain.open_stream(
        folder, **{"on_bad_shard": "quarantine", "batch_size": 16, **SMALL, **flags}
    )


def minibatches(stream) -> list[np.ndarray]:
    return [torch.cat([x, y], dim=1).numpy() for x, y in stream]


def digest(ids) -> int:
    return int(
        hash_array(np.asarray(sorted(ids), dtype=np.int64), int(RECEIPT_KEY)).sum(dtype=np.uint64)
    )


def lost_ids(stream) -> set[int]:
    """Return the ids of the training rows in the spans that the stream skipped."""
    spans, ids = stream._source.spans, set()
    for entry in stream.quarantine()["spans"]:
        first = int(spans.first_id[entry["span"]])
        held = stream._source.holdout.of(entry["span"])
        ids |= set((first + np.delete(np.arange(entry["stop"] - entry["start"]), held)).tolist())
    return ids


@given(
    layout=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=5), min_size=1, max_size=4),
    bad=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=4),
    window_rows=st.integers(8, 200),
    span_rows=st.integers(1, 80),
    holdout=st.floats(0, 0.5),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_outside_of_bad_spans_comes_once_and_the_sum_is_exact(
    tmp_path_factory, layout, bad, window_rows, span_rows, holdout
):
    total = sum(map(sum, layout))
    bad = {
        (shard, group) for shard, group in bad if shard < len(layout) and group < len(layout[shard])
    }
    folder = write(tmp_path_factory.mktemp("law") / "data", layout)
    flags = {"window_rows": window_rows, "span_rows": span_rows, "holdout": holdout}
    clean = open_stream(folder, **flags)
    order = [batch.tobytes() for batch in minibatches(clean)]
    for shard, group in bad:
        spoil(folder, shard, group)
    stream = open_stream(folder, **flags)
    if not bad:
        assert [batch.tobytes() for batch in minibatches(stream)] == order
        assert stream.quarantine()["spans"] == []
        return
    first = np.cumsum([0, *itertools.chain(*layout)])
    groups = [(shard, group) for shard, rows in enumerate(layout) for group in range(len(rows))]
    damaged: set[int] = set()
    for number, group in enumerate(groups):
        if group in bad:
            damaged |= set(range(first[number], first[number + 1]))
    held = {
        int(clean._source.spans.first_id[span] + row)
        for span, rows in clean._source.holdout.positions.items()
        for row in rows
    }
    for epoch in range(2):
        try:
            ids = row_ids(np.concatenate(minibatches(stream)))
        except (DataError, ValueError) as error:
            assert "every span is quarantined" in str(error) or "at least one array" in str(error)
            return
        assert len(ids) == len(set(ids.tolist()))
        assert set(ids.tolist()) == set(range(total)) - held - lost_ids(stream)
        assert damaged - held <= lost_ids(stream)
        receipt = stream.receipt()
        assert (receipt.count, receipt.digest, receipt.quarantined) == (
            len(ids),
            digest(ids.tolist()),
            len(lost_ids(stream)),
        )
        assert receipt.count + len(held) + receipt.dropped + receipt.quarantined == total, epoch


def test_a_quarantined_span_moves_no_other_window(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    clean = open_stream(folder)
    whole = np.concatenate(minibatches(clean))
    spoil(folder, 4, 1)
    stream = open_stream(folder)
    rows = np.concatenate(minibatches(stream))
    (lost,) = {entry["span"] for entry in stream.quarantine()["spans"]}
    starts, position = clean._position.plan.window_starts, 0
    changed_windows = 0
    for window in clean._position.plan.windows():
        expected = whole[starts[window.index] : starts[window.index + 1]]
        missing = 30 if lost in window.spans else 0
        delivered = rows[position : position + len(expected) - missing]
        position += len(delivered)
        if missing:
            changed_windows += 1
            assert set(row_ids(delivered)) == set(row_ids(expected)) - lost_ids(stream)
        else:
            np.testing.assert_array_equal(delivered, expected)
    assert position == len(rows)
    assert changed_windows == 1


@pytest.mark.parametrize("stop_after", [0, 1, 4, 7, 10])
def test_resume_anywhere_steps_over_the_same_rows(stop_after: int, tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    spoil(folder, 2, 0)  # larger than a window: a chain
    spoil(folder, 0, 1)
    unbroken = minibatches(open_stream(folder))
    stream = open_stream(folder)
    before = list(itertools.islice(_lazy(stream), stop_after))
    state = json.loads(json.dumps(stream.state_dict()))
    other = open_stream(folder)
    other.load_state_dict(state)
    after = minibatches(other)
    assert [batch.tobytes() for batch in before + after] == [batch.tobytes() for batch in unbroken]
    ids = row_ids(np.concatenate(unbroken))
    assert (other.receipt().count, other.receipt().digest) == (len(ids), digest(ids.tolist()))


def _lazy(stream):
    for x, y in stream:
        yield torch.cat([x, y], dim=1).numpy()


def test_a_span_that_was_quarantined_is_not_tried_again_after_a_resume(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    spoil(folder, 4, 1)
    stream = open_stream(folder)
    epoch = [np.concatenate(minibatches(stream)) for _ in range(2)]
    state = stream.state_dict()
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)  # the damage is gone
    other = open_stream(folder)
    other.load_state_dict(state)
    assert len(np.concatenate(minibatches(other))) == len(epoch[0]) == len(epoch[1]) == TOTAL - 30


def test_rows_of_a_window_that_was_half_delivered_cannot_go_missing_after_a_resume(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "data", [[30, 30]])
    stream = open_stream(folder, window_rows=1000)
    iterator = iter(stream)
    next(iterator)
    state = stream.state_dict()
    iterator.close()
    spoil(folder, 0, 1)
    other = open_stream(folder, window_rows=1000)
    other.load_state_dict(state)
    with pytest.raises(
        DataError, match="delivered before the run was resumed, so it cannot be quarantined now"
    ):
        minibatches(other)


def test_without_quarantine_the_same_fault_ends_the_stream(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    spoil(folder, 3, 0)
    stream = open_stream(folder, on_bad_shard="error")
    with pytest.raises(DataError, match=r"part-0003\.parquet: rows .*checksum"):
        minibatches(stream)
    with pytest.raises(ConfigError, match="on_bad_shard was 'error', is 'quarantine'"):
        open_stream(folder).load_state_dict(stream.state_dict())


def test_when_every_span_is_bad_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [[30], [30]])
    spoil(folder, 0, 0)
    spoil(folder, 1, 0)
    with pytest.raises(DataError, match="every span is quarantined"):
        minibatches(open_stream(folder))


def test_a_shard_that_a_manifest_describes_keeps_its_place_when_it_is_gone(tmp_path: Path) -> None:
    source = write(tmp_path / "source", [[4000]])
    made = ingest(source, tmp_path / "data", span_rows=50)
    assert len(made.shards) == 5
    clean = np.concatenate(minibatches(open_stream(tmp_path / "data")))
    Path(made.shards[2].url).unlink()
    Path(made.shards[1].url).write_bytes(b"PAR1")
    stream = open_stream(tmp_path / "data")
    rows = np.concatenate(minibatches(stream))
    assert stream.dataset.num_rows == 4000
    assert stream.quarantine()["rows"] == 1600
    assert set(row_ids(rows)) == set(row_ids(clean)) - set(range(800, 2400))
    with pytest.raises(DataError, match="2 problems"):
        open_stream(tmp_path / "data", on_bad_shard="error")


def test_a_shard_that_nobody_describes_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / "part-0001.parquet").write_bytes(b"no")
    pq.write_table(pa.table({"c0": [1.0] * 9, "other": [1.0] * 9}), folder / "part-0009.parquet")
    stream = open_stream(folder)
    rows = np.concatenate(minibatches(stream))
    report = stream.quarantine()
    assert report is not None
    assert [Path(shard["url"]).name for shard in report["left_out"]] == ["part-0001.parquet"]
    assert [Path(span["url"]).name for span in report["spans"]] == ["part-0009.parquet"]
    assert report["rows"] == 9
    assert len(rows) + report["rows"] == stream.dataset.num_rows == TOTAL - 1 + 9


def test_a_run_counts_and_lists_what_it_stepped_over(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(12_000, 4)).astype(np.float32)
    folder = write(tmp_path / "data", [[1000] * 6, [1000] * 6], rows)
    spoil(folder, 1, 3)
    flags = {
        "batch_size": 64,
        "span_rows": 500,
        "window_rows": 3000,
        "hidden": (4,),
        "holdout": 0.2,
        "epochs": 1,
        "on_bad_shard": "quarantine",
    }
    config = make_config(merge(flag_values(flags, TRAIN_FLAGS), {"data": {"path": str(folder)}}))
    with RunDirectory(tmp_path / "run") as directory:
        train(config, directory.log, {"command": "", "env": {}})
    events = directory.records
    header = started_record(events[0])
    assert (header.integrity or "").startswith("unverified: no manifest")
    listed = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert listed["rows"] == 1000
    assert [(span["start"], span["stop"]) for span in listed["spans"]] == [(3000, 4000)]
    assert "CRC checksum" in listed["spans"][0]["cause"]
    assert listed["spans"][0]["holdout_lost"]
    (done,) = [event for event in events if isinstance(event, PassEnded)]
    receipt = done.receipt
    assert receipt is not None
    visited = (
        receipt.count + (header.data.holdout_rows or 0) + receipt.dropped + receipt.quarantined
    )
    assert visited == header.data.num_rows == 12_000
    assert done.rows_read == receipt.count
    assert done.quarantined is not None
    assert done.quarantined["rows"] == 1000
    assert done.quarantined["spans"] == 1
    summary = summarize(event.to_json() for event in events)
    said = summary["warnings"][0]["text"]
    assert said.startswith("1,000 of 12,000 rows (8.3 %) could not be read and were left out.")
    assert "part-0001.parquet: rows 3,000 to" in said
    assert "no checksums" not in str(summary["warnings"]), "one of them found the flipped bit"
    assert "1,000 of 12,000 rows" in result_text(summary, tmp_path)


# --- reads that hang ---


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch):
    """`hang(kind, number)`: the read of that number does not return before the test is over."""
    released, calls = threading.Event(), itertools.count()

    def start(kind: str, number: int) -> None:
        cls = {"span": Readers, "slice": Forward}[kind]
        original_read = cls.read

        def read(*args):
            if next(calls) == number:
                assert released.wait(30)
            return original_read(*args)

        monkeypatch.setattr(cls, "read", read)

    yield start
    released.set()


@pytest.mark.parametrize("policy", ["error", "quarantine"])
@pytest.mark.parametrize(("kind", "number"), [("span", 0), ("span", 4), ("slice", 3)])
def test_a_read_that_hangs_is_found_in_time(
    kind: str, number: int, policy: str, hang, tmp_path: Path
) -> None:
    stream = open_stream(
        write(tmp_path / "data"), on_bad_shard=policy, timeout_seconds=0.3, readers=2
    )
    hang(kind, number)
    started = time.monotonic()
    with pytest.raises(
        DataError,
        match=(
            r"part-000\d\.parquet: reading rows .* has not ended within 0\.3 s\."
            r" .*fetch\.timeout_seconds"
        ),
    ):
        minibatches(stream)
    assert time.monotonic() - started < 5


def test_a_read_that_hangs_in_the_survey_is_found_in_time(hang, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [[7, 93, 1], [64]])
    hang("span", 1)
    with pytest.raises(DataError, match="has not ended within"):
        open_stream(folder, on_null="impute", timeout_seconds=0.3)


def test_a_slow_read_within_the_limit_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "data")
    expected = [batch.tobytes() for batch in minibatches(open_stream(folder))]
    original_read = Readers.read

    def read(*args):
        time.sleep(0.02)
        return original_read(*args)

    monkeypatch.setattr(Readers, "read", read)
    delivered = minibatches(open_stream(folder, timeout_seconds=5))
    assert [batch.tobytes() for batch in delivered] == expected
