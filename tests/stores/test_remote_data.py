"""Data in an object store equals the data on a disk.

It has the same bytes, the same fingerprint, the same rows in the same order, and the same errors.
"""

import gzip
import json
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

import data_gen
import streamtrain as st
from streamtrain.base.redact import HIDDEN
from streamtrain.cli.main import run
from streamtrain.cluster.run_spec import RunSpec, open_run
from streamtrain.config import make_config
from streamtrain.errors import ConfigError, DataError
from streamtrain.records import Evaluation, PassEnded
from streamtrain.run.prepare import prepare
from streamtrain.storage.data_fingerprint import written_again
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.filesystem import (
    delete_file,
    list_files,
    open_filesystem,
    open_objects,
    read_file,
    write_file,
)
from streamtrain.storage.remote.store_options import OPTION_NAMES, make_storage
from streamtrain.storage.verify import verify
from tests.run.whole_runs import run_train
from tests.stores.conftest import ROWS, SECRET, SPAN_ROWS

FORMATS = pytest.mark.parametrize("format", ["parquet", "zarr"])
#: Small windows, so that a pass has several.
FLAGS = {"batch_size": 500, "window_rows": 2048, "holdout": 0.1}


def rows_of(path, **flags):
    """Return all rows of an epoch in order, the receipt, and the statistics."""
    stream = st.open_stream(str(path), **FLAGS, **flags)
    return (
        np.concatenate([np.concatenate([x.numpy(), y.numpy()], axis=1) for x, y in stream]),
        stream.receipt(),
        stream.stats(),
    )


@FORMATS
def test_what_is_generated_into_a_store_is_the_local_data_set_and_streams_the_same(
    bucket, local, format
):
    made = data_gen.generate(
        f"{bucket.url}/made",
        rows=ROWS,
        span_rows=SPAN_ROWS,
        format=format,
        storage_options=bucket.options,
    )
    assert (made.fingerprint, made.integrity, made.num_rows) == (
        local[format].fingerprint,
        "verified",
        ROWS,
    )
    folder = Path(local[format].url)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert list_files(made.url, bucket.storage) == sizes

    ours, receipt, stats = rows_of(f"{bucket.url}/made/", storage_options=bucket.options)
    theirs, their_receipt, their_stats = rows_of(local[format].url)
    assert ours.tobytes() == theirs.tobytes()
    assert receipt == their_receipt
    stored = sum(size for name, size in sizes.items() if name.endswith(("parquet", "/0")))
    assert 0.8 * stored < stats["read_bytes"] < 1.5 * stored
    assert stats["read_seconds"] > 0
    assert their_stats["read_bytes"] == their_stats["read_seconds"] == 0


def test_every_verb_takes_a_url_and_no_file_of_a_run_holds_a_secret(
    bucket, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv.gz").write_bytes(
        gzip.compress(
            (
                "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 7 - i % 5}\n" for i in range(4000))
            ).encode()
        )
    )
    write_file(tmp_path / "table.csv.gz", f"{bucket.url}/table.csv.gz", bucket.storage)

    def command(*words):
        monkeypatch.setattr("sys.argv", ["streamtrain", *words, *bucket.flags])
        assert run([*words, *bucket.flags, "--quiet"]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    command("ingest", f"{bucket.url}/table.csv.gz", f"{bucket.url}/rows", "--span-rows", "512")
    assert "integrity    verified" in command("inspect", f"{bucket.url}/rows")
    assert "rows: verified" in command("verify", f"{bucket.url}/rows", "--fail-on", "unverified")
    command(
        "train",
        f"{bucket.url}/rows",
        "--out",
        "run",
        "--eval-data",
        f"{bucket.url}/rows",
        "--epochs",
        "1",
    )
    # the run is finished, so this reads it only
    command(
        "train",
        f"{bucket.url}/rows",
        "--out",
        "run",
        "--eval-data",
        f"{bucket.url}/rows",
        "--epochs",
        "1",
    )
    command("predict", "run", f"{bucket.url}/rows", "--out", "predictions.parquet")
    command("evaluate", "run", f"{bucket.url}/rows")
    command("init", f"{bucket.url}/rows", "--out", "made.yaml")
    command("config", "show", "-c", "made.yaml")

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    for path in written:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert b"moto-key-p2x" not in content, path
    kept = json.loads((tmp_path / "run/events.jsonl").read_text().splitlines()[0])
    assert kept["config"]["data"]["storage_options"] == {
        **bucket.options,
        "key": HIDDEN,
        "secret": HIDDEN,
    }
    assert f"secret={HIDDEN}" in kept["command"]
    assert "region=us-east-1" in kept["command"]
    assert json.loads((tmp_path / "run/summary.json").read_text())["read_bytes"] > 4000
    assert run(["train", "--resume", "run", "--quiet"]) == 0, "a finished run needs no data"
    assert run(["train", "-c", "run/config.resolved.yaml", "--out", "again", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "does not contain secrets. Give it again: --storage-option key=" in said


def test_an_interrupted_run_goes_on_with_other_secrets(bucket, local, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "streamtrain.api.write_report",
        lambda records, out, **_: {
            "receipts": [record.receipt for record in records if isinstance(record, PassEnded)]
        },
    )
    url = bucket.put(Path(local["parquet"].url), "d")
    values = {
        "data": {"path": url, "storage_options": bucket.options},
        "train": {"batch_size": 64, "epochs": 2},
        "order": {"window_rows": 2048},
        "checkpoint": {"every_seconds": 0.001},
    }

    class Stop(Exception):
        pass

    def stop(record):
        if isinstance(record, Evaluation) and record.rows > ROWS:
            raise Stop

    with pytest.raises(Stop):
        run_train(make_config(values), tmp_path / "run", on_record=stop)
    values["data"]["storage_options"] = {**bucket.options, "key": "another", "secret": "one"}
    resumed = run_train(make_config(values), tmp_path / "run", resume=True)
    values["data"] = {"path": local["parquet"].url}
    whole = run_train(make_config(values), tmp_path / "whole")
    assert resumed.summary["receipts"] == whole.summary["receipts"]
    assert all(
        (a == b).all()
        for a, b in zip(
            resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True
        )
    )


def test_a_worker_opens_the_same_data_by_its_blueprint(bucket, local, proxy):
    url = bucket.put(Path(local["parquet"].url), "d")
    prepared = prepare(
        make_config(
            {
                "data": {"path": url, "storage_options": bucket.through(proxy)},
                "order": {"window_rows": 2048},
            }
        ),
        learners=1,
        rates=1,
    )
    run_spec = pickle.loads(pickle.dumps(RunSpec.of(prepared)))
    assert SECRET not in repr(run_spec)
    assert SECRET not in run_spec.config.model_dump_json()
    assert SECRET not in repr(prepared.source.dataset.shards)
    proxy.requests.clear()
    worker = open_run(run_spec, threads=1, memory_limit=None)
    assert worker.source.dataset.fingerprint == local["parquet"].fingerprint
    assert proxy.requests == []
    assert len(worker.source.read(worker.source.spans[1])[0]) == 4 * SPAN_ROWS
    assert {Path(path).name for _, path, _ in proxy.requests} == {"shard-00001.parquet"}


@FORMATS
def test_paths_mean_what_they_mean_on_a_disk(bucket, local, tmp_path, format):
    folder = Path(local[format].url)
    url, shard = bucket.put(folder, "deep/er"), f"shard-00001.{format}"
    delete_file(f"{url}/_manifest.json", bucket.storage)

    def names(path):
        found = open_shards(str(path), storage=bucket.storage)
        return [each.url.rsplit("/", 1)[1] for each in found.shards], found.integrity

    everything = [f"shard-0000{i}.{format}" for i in range(3)]
    assert (
        names(url) == names(f"{bucket.url}/deep")
        if format == "parquet"
        else names(url) == (everything, "unverified")
    )
    assert names(f"{url}/{shard}")[0] == [shard]
    assert names(f"{url}/*[12].{format}")[0] == everything[1:]
    assert names(f"{bucket.url}/**/shard-0000?.{format}")[0] == everything
    (tmp_path / "list.txt").write_text(
        f"# two files\n{url}/{everything[2]}\n\n{folder / everything[0]}\n"
    )
    assert names(tmp_path / "list.txt")[0] == [everything[2], everything[0]]
    for path in (f"{url}/none", f"{url}/*.csv", "s3://no-such-bucket-here/x"):
        with pytest.raises(DataError, match="no such file or folder"):
            names(path)


@pytest.mark.parametrize(
    ("format", "damage", "message"),
    [
        pytest.param(
            "parquet", "missing", "listed in _manifest.json, but missing", id="missing file"
        ),
        pytest.param("parquet", "cut", "a Parquet file that is cut short", id="cut file"),
        pytest.param(
            "parquet", "swapped", "not the shard that _manifest.json describes", id="swapped file"
        ),
        pytest.param(
            "zarr", "missing", "not the shard that _manifest.json describes", id="missing chunk"
        ),
        pytest.param(
            "zarr", "swapped", "not the shard that _manifest.json describes", id="swapped chunk"
        ),
    ],
)
def test_every_bad_shard_of_a_store_is_listed_at_once(
    bucket, local, tmp_path, format, damage, message
):
    url = bucket.put(Path(local[format].url), "d")
    part = "" if format == "parquet" else "/c/0/0"
    for shard in range(2):
        victim, other = (
            f"{url}/shard-0000{shard}.{format}{part}",
            f"{url}/shard-0000{shard + 1}.{format}{part}",
        )
        content = read_file(other if damage == "swapped" else victim, bucket.storage)
        delete_file(victim, bucket.storage)
        if damage != "missing":
            (tmp_path / "new").write_bytes(content if damage == "swapped" else content[:-100])
            write_file(tmp_path / "new", victim, bucket.storage)
    with pytest.raises(DataError) as caught:
        open_shards(url, storage=bucket.storage)
    assert str(caught.value).startswith("2 problems in the shards:")
    assert str(caught.value).count(message) == 2
    assert len(verify(url, storage=bucket.storage).bad) == 2


@FORMATS
def test_an_object_that_was_written_again_is_noticed(bucket, local, tmp_path, format):
    """Without a manifest: by its ETag for Parquet, by its date for Zarr."""
    folder = tmp_path / "data"
    shutil.copytree(local[format].url, folder)
    (folder / "_manifest.json").unlink()
    url = bucket.put(folder, "d")
    was = open_shards(url, storage=bucket.storage).stamps
    assert not written_again(was, open_shards(url, storage=bucket.storage).stamps)
    path = next(path for path in sorted(folder.rglob("*")) if path.stat().st_size > 4096)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    time.sleep(1.0 if format == "zarr" else 0.0)  # dates of moto are whole seconds
    write_file(path, f"{url}/{path.relative_to(folder).as_posix()}", bucket.storage)
    assert written_again(was, open_shards(url, storage=bucket.storage).stamps)


@FORMATS
def test_a_flipped_bit_in_a_store_is_refused_and_can_be_quarantined(
    bucket, local, tmp_path, format
):
    url = bucket.put(Path(local[format].url), "d")
    victim = f"{url}/shard-00001.{format}" + ("" if format == "parquet" else "/c/1/0")
    content = bytearray(read_file(victim, bucket.storage))
    content[5000] ^= 4
    (tmp_path / "bad").write_bytes(content)
    write_file(tmp_path / "bad", victim, bucket.storage)
    with pytest.raises(DataError, match="shard-00001"):
        rows_of(url, storage_options=bucket.options)
    found = verify(url, storage=bucket.storage)
    assert [bad.rsplit("/", 1)[1] for bad in found.bad] == [f"shard-00001.{format}"]
    _, receipt, _ = rows_of(url, storage_options=bucket.options, on_bad_shard="quarantine")
    assert receipt.quarantined
    assert receipt.count + receipt.quarantined + 0.1 * ROWS >= ROWS


def test_a_chunk_that_vanishes_after_opening_is_refused(bucket, local):
    """Zarr itself would return fill values."""
    url = bucket.put(Path(local["zarr"].url), "d")
    readers = Readers(open_shards(url, storage=bucket.storage))
    assert len(readers.read(0, 0, SPAN_ROWS)[0]) == SPAN_ROWS
    delete_file(f"{url}/shard-00000.zarr/c/1/0", bucket.storage)
    with pytest.raises(DataError, match=r"shard-00000.zarr: chunk c/1/0 is missing"):
        readers.read(0, 0, 2 * SPAN_ROWS)


@pytest.mark.parametrize("version", [2, 3])
def test_a_group_with_chunks_left_out_is_read_as_on_a_disk(bucket, tmp_path, version):
    group = zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=version)
    values = np.arange(24) % 8 * (np.arange(24) // 8 % 2)  # of three chunks, only one is stored
    for name, column in (("a", values), ("y", values + 1)):
        array = group.create_array(name, shape=(24,), chunks=(8,), dtype="i2")
        array[:] = column
        array.attrs["scale_factor"] = 0.5
    group.create_array("crs", shape=(), dtype="i4")
    url = bucket.put(tmp_path / "g.zarr", "g.zarr")
    with pytest.warns(UserWarning, match="left out|missing") as caught:
        dataset = open_shards(url, target="y", storage=bucket.storage)
    messages = [str(warning.message).removeprefix(f"{url}: ") for warning in caught]
    assert [message[:26] for message in messages] == [
        "2 chunks are missing and r",
        "left out, since they are n",
    ]
    readers = Readers(dataset)
    np.testing.assert_array_equal(readers.read(0, 0, 24), [values / 2, (values + 1) / 2])
    delete_file(f"{url}/y/{'c/2' if version == 3 else '2'}", bucket.storage)
    with pytest.raises(DataError, match=r"chunk y/.*2 is missing"):
        readers.read(0, 0, 24)


def test_what_was_not_finished_is_not_read_and_nothing_is_overwritten(bucket, local, tmp_path):
    url = bucket.put(Path(local["parquet"].url), "d")
    with pytest.raises(ConfigError, match="not empty, and nothing is ever overwritten"):
        data_gen.generate(url, rows=10, storage_options=bucket.options)
    delete_file(f"{url}/_manifest.json", bucket.storage)
    (tmp_path / "mark").write_bytes(b"x")
    write_file(tmp_path / "mark", f"{url}/_unfinished", bucket.storage)
    for look in (open_shards, verify):
        with pytest.raises(DataError, match="writing was not finished"):
            look(url, storage=bucket.storage)


def test_files_of_a_web_server_are_read_from_a_list_or_a_manifest(bucket, local, tmp_path):
    bucket.put(Path(local["parquet"].url), "d")
    folder = f"http://127.0.0.1:{bucket.port}/{bucket.url.removeprefix('s3://')}/d"
    signature = "X-Amz-Signature=sig-w83k"
    (tmp_path / "list.txt").write_text(
        "".join(f"{folder}/shard-0000{i}.parquet?{signature}\n" for i in range(3))
    )
    ours, receipt, stats = rows_of(tmp_path / "list.txt")
    theirs, their_receipt, _ = rows_of(local["parquet"].url)
    assert ours.tobytes() == theirs.tobytes()
    assert receipt == their_receipt
    assert stats["read_bytes"] > 0
    one = open_shards(f"{folder}/shard-00000.parquet?{signature}")
    assert signature not in repr(one)
    assert one.shards[0].url == f"{folder}/shard-00000.parquet"
    assert open_shards(folder).fingerprint == local["parquet"].fingerprint
    assert verify(folder).integrity == "verified"
    with pytest.raises(DataError, match=r"the files of a web server cannot be listed. Name them"):
        open_shards(f"{folder}/nothing")
    with pytest.raises(ConfigError, match="read only"):
        data_gen.generate(f"{folder}/new", rows=10)
    with pytest.raises(DataError) as caught:
        open_shards(f"{folder}/none.parquet?{signature}")
    assert "none.parquet" in str(caught.value)
    assert "sig-w83k" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "url", "message"),
    [
        pytest.param(
            {"scret": "a"},
            "s3://b/x",
            "storage option 'scret' is unknown.*Did you mean secret?",
            id="did you mean",
        ),
        pytest.param(
            {"region": "a"},
            "https://h/x.parquet",
            "does not apply to https://; it takes none; use a signed link",
            id="of another scheme",
        ),
        pytest.param(
            {"key": "***"}, "s3://b/x", "does not contain secrets. Give it again", id="redacted"
        ),
        pytest.param({}, "az://container/x", "az:// needs the account name", id="no account"),
        pytest.param(
            {"key": "k"},
            "s3://b/x",
            "s3://: the storage options cannot be used: .*secret_key",
            id="half of a pair",
        ),
        pytest.param({}, "s3://", "not a URL of the form scheme://bucket/folder", id="no bucket"),
        pytest.param(
            {}, "s3://me:pw@b/x", r"s3://\*\*\*@b/x: credentials in a URL", id="credentials"
        ),
        pytest.param({}, "nothing://b/x", "nothing://: no file system is known", id="scheme"),
    ],
)
def test_what_cannot_be_used_is_refused(options, url, message):
    with pytest.raises(ConfigError, match=message):
        open_shards(url, storage=make_storage(options))


def test_every_option_has_a_name_that_both_libraries_take():
    """No network is used here; gs and az are documented as untested against a real store."""
    given = {
        "s3": {
            "key": "k",
            "secret": "s",
            "token": "t",
            "endpoint_url": "http://h:1",
            "region": "r",
            "anon": "false",
        },
        "gs": {"token": "t", "endpoint_url": "http://h:1"},
        "az": {"key": "account", "secret": "c2VjcmV0", "endpoint_url": "http://h:1"},
    }
    for scheme, options in given.items():
        assert set(options) <= set(OPTION_NAMES[scheme])
        storage = make_storage(options)
        assert open_filesystem(scheme, storage).type_name in ("s3", "gcs", "abfs")
        assert type(open_objects(f"{scheme}://bucket/x", storage)).__name__ in (
            "S3Store",
            "GCSStore",
            "AzureStore",
        )


@FORMATS
def test_a_scheme_that_only_fsspec_knows_works_too(local, format):
    import fsspec

    files = fsspec.filesystem("memory")
    try:
        files.put(local[format].url, f"/{format}", recursive=True)
        assert rows_of(f"memory://{format}")[0].tobytes() == rows_of(local[format].url)[0].tobytes()
        data_gen.generate(f"memory://new-{format}", rows=ROWS, span_rows=SPAN_ROWS, format=format)
        assert open_shards(f"memory://new-{format}").fingerprint == local[format].fingerprint
    finally:
        files.store.clear()


def test_an_archive_that_fsspec_cannot_open_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^zip://: no file system is known"):
        open_shards("zip://::/data/g.zarr.zip")
