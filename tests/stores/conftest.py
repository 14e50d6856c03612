"""A moto server on loopback for this folder's tests, with one bucket per test.

`local` has the same data sets on a disk.
"""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest

import data_gen
from streamtrain.storage.remote.filesystem import write_file
from streamtrain.storage.remote.store_options import make_storage
from tests.stores.proxy import Proxy

#: Must not occur in anything that a run writes.
SECRET = "moto-secret-zu9q4"
ROWS, SPAN_ROWS = 5_000, 512

_buckets = count()


@dataclass(frozen=True)
class Bucket:
    """An empty bucket: its URL, the server's port, and the options to reach it."""

    url: str
    port: int
    options: dict[str, str]

    @property
    def storage(self):
        return make_storage(self.options)

    @property
    def flags(self) -> list[str]:
        return [
            word
            for name, value in self.options.items()
            for word in ("--storage-option", f"{name}={value}")
        ]

    def put(self, folder, to: str) -> str:
        """Copy a local folder into the bucket; return its URL."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            write_file(path, f"{self.url}/{to}/{path.relative_to(folder).as_posix()}", self.storage)
        return f"{self.url}/{to}"

    def through(self, proxy: Proxy) -> dict[str, str]:
        return {**self.options, "endpoint_url": proxy.endpoint}


@pytest.fixture(autouse=True)
def four_spans_per_shard(monkeypatch):
    """Use small shards, since each test makes hundreds of requests.

    Undone after each test, because tests in other folders expect 16 spans per shard.
    """
    monkeypatch.setattr("streamtrain.storage.write.writer.SPANS_PER_SHARD", 4)


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert server.poll() is None, "the moto server did not start"
            assert time.monotonic() < deadline, "the moto server did not start"
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


@pytest.fixture
def bucket(moto_port) -> Bucket:
    name = f"bucket-{next(_buckets)}"
    urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{moto_port}/{name}", method="PUT"), timeout=10
    ).close()
    options = {
        "key": "moto-key-p2x",
        "secret": SECRET,
        "endpoint_url": f"http://127.0.0.1:{moto_port}",
        "region": "us-east-1",
    }
    return Bucket(f"s3://{name}", moto_port, options)


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """Return format → a local data set of three shards."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrain.storage.write.writer.SPANS_PER_SHARD", 4)
        return {
            format: data_gen.generate(
                folder / format, rows=ROWS, span_rows=SPAN_ROWS, format=format
            )
            for format in ("parquet", "zarr")
        }


@pytest.fixture
def proxy(moto_port) -> Iterator[Proxy]:
    with Proxy(moto_port) as running:
        yield running
