"""A failing network: no row is lost, retries are limited, and the final error is clear."""

import re
import socket
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import data_gen
import streamtrain as st
from streamtrain.cli.main import run
from streamtrain.errors import DataError, StoreError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.remote.filesystem import list_files, write_file
from streamtrain.storage.remote.store_options import make_storage
from tests.stores.conftest import ROWS, SECRET, SPAN_ROWS
from tests.stores.proxy import Fault

FORMATS = pytest.mark.parametrize("format", ["parquet", "zarr"])


@pytest.fixture
def few_attempts(monkeypatch):
    """Fail early: pyarrow waits up to a second before its second attempt, two before the third."""
    monkeypatch.setattr("streamtrain.storage.remote.filesystem.ATTEMPTS", 2)


def rows_of(path, **flags):
    stream = st.open_stream(str(path), batch_size=500, window_rows=2048, holdout=0.1, **flags)
    return (
        np.concatenate(
            [np.concatenate([x.numpy(), y.numpy()], axis=1) for x, y in stream]
        ).tobytes(),
        stream.receipt(),
    )


@FORMATS
@pytest.mark.parametrize("fault", ["drop", "503", "stall"])
def test_a_failing_network_costs_no_row_and_changes_no_order(bucket, local, proxy, format, fault):
    """Requests that open shards and requests that read rows fail, each once."""
    url = bucket.put(Path(local[format].url), "d")
    num_requests: Counter[str] = Counter()

    def plan(number: int, method: str, path: str) -> Fault:
        shard = re.search(r"shard-0000(\d)", path)
        if method != "GET" or shard is None:
            return None
        num_requests[shard[1]] += 1
        return fault if num_requests[shard[1]] == 1 + int(shard[1]) % 2 else None

    proxy.plan = plan
    read = rows_of(url, storage_options=bucket.through(proxy), timeout_seconds=10)
    assert read == rows_of(local[format].url)
    faults = [kind for _, _, kind in proxy.requests if kind]
    assert faults.count(fault) == len(faults) == len(num_requests) >= 2, "the faults did come"


@FORMATS
@pytest.mark.parametrize("what", ["rows", "footers", "manifest"])
def test_a_body_that_arrives_flipped_is_asked_for_again_once(bucket, local, proxy, format, what):
    """The first answer of one kind has a flipped bit."""
    url = bucket.put(Path(local[format].url), "d")
    kind = {"parquet": r"\.parquet$", "zarr": r"/c/\d|zarr\.json$"}[format]
    wanted = r"_manifest\.json$" if what == "manifest" else kind
    asked: list[str] = []
    opened = False

    def plan(number: int, method: str, path: str) -> Fault:
        path = path.partition("?")[0]
        if method != "GET" or not re.search(wanted, path) or opened != (what == "rows"):
            return None
        asked.append(path)
        return "flip" if len(asked) == 1 else None

    proxy.plan, proxy.flipped_at = plan, {"rows": 0.5, "footers": 1.0, "manifest": 0.0}[what]
    stream = st.open_stream(
        url, batch_size=500, window_rows=2048, storage_options=bucket.through(proxy)
    )
    opened = True
    rows = np.concatenate([np.concatenate([x, y], axis=1) for x, y in stream])
    local_stream = st.open_stream(local[format].url, batch_size=500, window_rows=2048)
    assert (
        rows.tobytes()
        == np.concatenate([np.concatenate([x, y], axis=1) for x, y in local_stream]).tobytes()
    )
    assert asked.count(asked[0]) >= 2, "it was asked for again"


def test_a_body_that_stays_flipped_is_asked_for_twice_and_then_bad(bucket, local, proxy):
    url = bucket.put(Path(local["parquet"].url), "d")
    stream = st.open_stream(
        url, batch_size=500, window_rows=2048, readers=1, storage_options=bucket.through(proxy)
    )
    proxy.requests.clear()
    proxy.plan = lambda number, method, path: "flip" if "shard-00001" in path else None
    with pytest.raises(DataError, match="shard-00001"):
        for _ in stream:
            pass
    flipped = [(method, path) for method, path, fault in proxy.requests if fault]
    # the footer once, whose request is flipped in its middle, among the pages; then the rows twice
    assert Counter(method for method, _ in flipped)["GET"] == 1 + 2, flipped


@pytest.mark.parametrize(
    ("format", "fault"),
    [
        pytest.param("parquet", "drop", marks=pytest.mark.slow),
        ("parquet", "503"),
        ("parquet", "stall"),
        ("zarr", "drop"),
        pytest.param("zarr", "503", marks=pytest.mark.slow),
        pytest.param("zarr", "stall", marks=pytest.mark.slow),
    ],
)
def test_a_store_that_fails_for_good_ends_the_run_with_its_file_and_soon(
    bucket, local, proxy, few_attempts, capsys, monkeypatch, tmp_path, format, fault
):
    monkeypatch.chdir(tmp_path)
    url = bucket.put(Path(local[format].url), "d")
    stream = st.open_stream(
        url,
        storage_options=bucket.through(proxy),
        batch_size=500,
        on_bad_shard="quarantine",
        timeout_seconds=10,
    )
    list(stream)
    proxy.requests.clear()
    proxy.plan = lambda number, method, path: fault
    started = time.monotonic()
    with pytest.raises(DataError, match=r"shard-0000\d") as caught:
        list(stream)
    assert type(caught.value).__name__ in ("StoreError", "ReadTimeout")
    assert caught.value.exit_code in (3, 4)
    assert stream.quarantine()["rows"] == 0, "rows lost to the network are not quarantined"
    flags = [
        word
        for name, value in bucket.through(proxy).items()
        for word in ("--storage-option", f"{name}={value}")
    ]
    assert run(["train", url, *flags, "--out", "run", "--set", "fetch.timeout_seconds=10"]) == 4
    said = capsys.readouterr().err
    assert re.search(r"error: s3://bucket-\d+/d\S*: the request failed after retries", said)
    assert SECRET not in said
    assert not (tmp_path / "run").exists()
    assert len(proxy.requests) < 60
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_process_whose_read_hangs_ends_when_it_has_said_so(bucket, local, proxy, tmp_path):
    """At exit pyarrow waits for its store for more than a minute, and then may abort."""
    url = bucket.put(Path(local["parquet"].url), "d")
    opened = count()
    proxy.plan = lambda number, method, path: (
        "stall" if method == "GET" and "shard-" in path and next(opened) > 8 else None
    )
    flags = [
        word
        for name, value in bucket.through(proxy).items()
        for word in ("--storage-option", f"{name}={value}")
    ]
    words = (
        "train",
        url,
        *flags,
        "--out",
        str(tmp_path / "run"),
        "--window-rows",
        "2048",
        "--epochs",
        "9",
        "--set",
        "fetch.timeout_seconds=10",
        "-q",
    )
    done = subprocess.run(
        [sys.executable, "-m", "streamtrain", *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(
        r"error: s3://\S+parquet: reading rows .* has not ended within 10 s\..*\n", done.stderr
    ), done.stderr


def test_many_footers_are_read_at_once(bucket, proxy, tmp_path):
    """The proxy waits for four concurrent requests, so that sequential ones would fail."""
    data = data_gen.generate(tmp_path / "d", rows=8 * 4 * 8, span_rows=8)
    bucket.put(Path(data.url), "d")
    proxy.min_concurrent = 4
    files = [f"{bucket.url}/d/shard-{i:05d}.parquet" for i in range(8)]
    (tmp_path / "list.txt").write_text("\n".join(files))
    found = open_shards(str(tmp_path / "list.txt"), storage=make_storage(bucket.through(proxy)))
    assert found.num_rows == data.num_rows


def test_an_upload_that_fails_leaves_nothing(bucket, proxy, few_attempts):
    proxy.plan = lambda number, method, path: (
        "503" if method in ("PUT", "POST") and "shard-00001" in path else None
    )
    with pytest.raises(StoreError, match=r"shard-00001.parquet: the request failed after retries"):
        data_gen.generate(
            f"{bucket.url}/d",
            rows=ROWS,
            span_rows=SPAN_ROWS,
            workers=1,
            storage_options=bucket.through(proxy),
        )
    assert any(method == "PUT" and "shard-00000" in path for method, path, _ in proxy.requests)
    assert list_files(bucket.url, bucket.storage) == {}


def test_an_upload_over_a_failing_network_is_whole(bucket, proxy, local):
    proxy.plan = lambda number, method, path: "503" if number in (4, 9) else None
    made = data_gen.generate(
        f"{bucket.url}/d", rows=ROWS, span_rows=SPAN_ROWS, storage_options=bucket.through(proxy)
    )
    assert made.fingerprint == local["parquet"].fingerprint
    assert [fault for _, _, fault in proxy.requests].count("503") == 2


def test_secrets_in_what_a_library_says_are_hidden(bucket, tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    # a secret that the library's own message contains
    storage = make_storage({**bucket.options, "secret": "bucket"})
    with pytest.raises(StoreError) as caught:
        write_file(tmp_path / "x", "s3://no-such-place/x", storage)
    assert "***" in str(caught.value)
    assert "bucket" not in str(caught.value)


def test_a_secret_of_a_letter_does_not_hide_the_message():
    said = "a bucket that is not there"
    assert make_storage({"key": "a", "secret": "is"}).redact(said) == said
    assert make_storage({"key": "there", "secret": "a"}).redact(said) == "a bucket that is not ***"


@pytest.mark.parametrize("name", ["d", pytest.param("d/shard-00000.zarr", marks=pytest.mark.slow)])
def test_a_store_that_is_silent_when_it_is_opened_is_given_up_in_time(name):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        storage = make_storage(
            {"key": "k", "secret": SECRET, "endpoint_url": endpoint, "region": "us-east-1"},
            timeout_seconds=2,
        )
        started = time.monotonic()
        with pytest.raises(
            StoreError,
            match=rf"s3://b/d.*the request failed after retries.*Check the endpoint {endpoint}",
        ):
            open_shards(f"s3://b/{name}", storage=storage)
    assert time.monotonic() - started < 10
