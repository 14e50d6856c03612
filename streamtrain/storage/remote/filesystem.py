"""Files by URL: local paths, and `s3://`, `gs://`, `az://`, `http(s)://` and what else fsspec
knows. One table of option names.

Local files are opened by `open` and by path, as ever; only what has a scheme goes through here to
pyarrow.fs, or to obstore, which reads `http(s)://` and the chunks of Zarr arrays.
"""

import io
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.fs

from streamtrain.base.redact import HIDDEN, redact_url
from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, DataError, first_line, shown
from streamtrain.storage.remote.remote_file import RemoteFile, Traffic, count_attempts, failure
from streamtrain.storage.remote.urls import is_remote, is_web, normal_url, split
from streamtrain.types import LOCAL, Storage

CONNECT_SECONDS = 5.0

#: How often a request is made before its failure counts.
ATTEMPTS = 10

#: Of `fetch.timeout_seconds`, within which a read must end: a request that is silent for a tenth of
#: it is made again.
_REQUESTS_A_READ = 10

#: fsspec's name of an option → what pyarrow.fs and obstore call it. Schemes that are not here take
#: all of them, as fsspec does.
NAMES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "s3": {
        "key": ("access_key", "access_key_id"),
        "secret": ("secret_key", "secret_access_key"),
        "token": ("session_token", "session_token"),
        "endpoint_url": ("endpoint_override", "endpoint"),
        "region": ("region", "region"),
        "anon": ("anonymous", "skip_signature"),
    },
    "gs": {
        "token": ("access_token", "bearer_token"),
        "endpoint_url": ("endpoint_override", "base_url"),
        "anon": ("anonymous", "skip_signature"),
    },
    "az": {
        "key": ("account_name", "account_name"),
        "secret": ("account_key", "account_key"),
        "token": ("sas_token", "sas_key"),
        "endpoint_url": ("blob_storage_authority", "endpoint"),
    },
    "http": {},
    "https": {},
}
_ARROW, _OBSTORE = 0, 1
_STREAM_BYTES = 8 << 20


def make_storage(options: Mapping[str, str] | None, *, timeout_seconds: float = 300.0) -> Storage:
    """The options of an object store, with names that are known.

    Raises ConfigError for another name, or a secret that was redacted.

    `timeout_seconds`: `fetch.timeout_seconds`, of which a request may be silent for a tenth; left
    out: 300, so 30 a request.
    """
    known = sorted({name for names in NAMES.values() for name in names})
    given = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (options or {}).items()
    }
    for name, value in given.items():
        if name not in known:
            raise ConfigError(
                f"storage option {shown(name)!r} is unknown; there are"
                f" {', '.join(known)}.{did_you_mean(name, known)}"
            )
        if value == HIDDEN:
            raise ConfigError(
                f"storage option {name}: the config of a run keeps no secrets. Give it again:"
                f" --storage-option {name}=…"
            )
    return Storage(
        options=tuple(sorted(given.items())), request_seconds=timeout_seconds / _REQUESTS_A_READ
    )


def take_query(url: str, storage: Storage) -> tuple[str, Storage]:
    """A link without what it has behind `?`, which `storage` keeps.

    Raises ConfigError for a URL that carries a user or a password.
    """
    if not is_remote(url):
        return url, storage
    _scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"{redact_url(url)}: credentials in a URL are not read. Give them with"
            " --storage-option, or use a signed link."
        )
    if not is_web(url):
        return url, storage
    clean, _, query = url.partition("?")
    if not query:
        return clean, storage
    queries = (*storage.queries, (normal_url(clean), query))
    return clean, Storage(
        options=storage.options, queries=queries, request_seconds=storage.request_seconds
    )


@lru_cache(64)
def open_filesystem(scheme: str, storage: Storage) -> pa.fs.FileSystem:
    """Pyarrow's file system of a scheme, or fsspec's where pyarrow has none.

    Raises ConfigError for options that it cannot use.
    """
    try:
        return _make_filesystem(scheme, storage)
    except ConfigError:
        raise
    # half of a pair of keys, an endpoint that is no address
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{shown(scheme)}://: the storage options cannot be used:"
            f" {shown(storage.redact(first_line(error)))}."
        ) from None


def _make_filesystem(scheme: str, storage: Storage) -> pa.fs.FileSystem:
    if scheme not in NAMES:
        try:
            return pa.fs.PyFileSystem(
                pa.fs.FSSpecHandler(fsspec.filesystem(scheme, **dict(storage.options)))
            )
        except (ValueError, ImportError, TypeError) as error:
            raise ConfigError(
                f"{shown(scheme)}://: no file system is known or can be opened:"
                f" {storage.redact(str(error))}."
            ) from None
    names, end = translated(scheme, storage, _ARROW), _REQUESTS_A_READ * storage.request_seconds
    endpoint = urlsplit(names.get("endpoint_override", names.get("blob_storage_authority", "")))
    if scheme == "s3":
        return pa.fs.S3FileSystem(
            **names,
            request_timeout=storage.request_seconds,
            connect_timeout=min(CONNECT_SECONDS, storage.request_seconds),
            retry_strategy=pa.fs.AwsStandardS3RetryStrategy(
                max_attempts=count_attempts(storage.request_seconds, end, ATTEMPTS)
            ),
        )
    if scheme == "gs":
        if endpoint.netloc:
            names |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        if "access_token" in names:
            names["credential_token_expiration"] = datetime.now(UTC) + timedelta(hours=1)
        return pa.fs.GcsFileSystem(
            **names, retry_time_limit=timedelta(seconds=ATTEMPTS * storage.request_seconds)
        )
    if endpoint.netloc:
        names |= {"blob_storage_authority": endpoint.netloc, "blob_storage_scheme": endpoint.scheme}
    if "account_name" not in names:
        raise ConfigError(
            "az:// needs the account's name: --storage-option key=ACCOUNT (and secret=, or token="
            " for a SAS)."
        )
    return pa.fs.AzureFileSystem(**names)


def translated(scheme: str, storage: Storage, library: int) -> dict[str, Any]:
    """The options as a library calls them.

    Raises ConfigError for one that the scheme has no use for.
    """
    names, found = NAMES[scheme], {}
    for name, value in storage.options:
        if name not in names:
            use = f"it takes {', '.join(names)}" if names else "it takes none; use a signed link"
            raise ConfigError(f"storage option {name}: {scheme}:// has no use for it; {use}.")
        found[names[name][library]] = (
            value if name != "anon" else value in ("true", "1", "yes", "on")
        )
    if scheme == "s3" and "endpoint_url" not in dict(storage.options):
        elsewhere = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        found |= {names["endpoint_url"][library]: elsewhere} if elsewhere else {}
    return found


def read_range(
    folder: str,
    name: str,
    start: int,
    length: int,
    storage: Storage,
    traffic: Traffic | None = None,
) -> bytes:
    """A known range of a file below a remote folder, in one request where obstore knows the scheme.

    Raises as `open_binary` does.
    """
    if split(folder)[0] not in NAMES:
        with open_binary(f"{folder}/{name}", storage, traffic) as file:
            file.seek(start)
            return file.read(length)
    objects, started = open_objects(folder, storage), time.perf_counter()
    import obstore  # of the extras; `open_objects` says so where it is missing

    with failure(f"{folder}/{name}", storage):
        found = obstore.get_range(objects, name, start=start, length=length).to_bytes()
    if traffic is not None:
        traffic.add(len(found), time.perf_counter() - started)
    return found


@lru_cache(256)
def open_objects(url: str, storage: Storage) -> Any:
    """Obstore's store whose root is `url`: a folder of a bucket, or one file over http(s).

    Raises ConfigError when obstore is not there.
    """
    scheme, _, rest = url.partition("://")
    try:
        from obstore import store  # of the extras [s3], [gcs], [azure]
    except ImportError:
        raise ConfigError(
            f"{scheme}:// needs obstore for this: pip install 'streamtrain[s3]' (or [gcs],"
            " [azure])."
        ) from None
    client = {
        "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, storage.request_seconds)),
        "read_timeout": timedelta(seconds=storage.request_seconds),
        "timeout": timedelta(seconds=ATTEMPTS * storage.request_seconds),
        "allow_http": True,
    }
    retry = {
        "max_retries": ATTEMPTS - 1,
        "retry_timeout": timedelta(seconds=ATTEMPTS * storage.request_seconds),
    }
    names = translated(scheme, storage, _OBSTORE)
    if is_web(url):
        query = dict(storage.queries).get(url)
        return store.HTTPStore(
            f"{url}?{query}" if query else url, client_options=client, retry_config=retry
        )
    bucket, _, prefix = rest.partition("/")
    make = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}[scheme]
    return make(bucket, prefix=prefix or None, **names, client_options=client, retry_config=retry)


def open_binary(
    url: str, storage: Storage = LOCAL, traffic: Traffic | None = None
) -> BinaryIO | RemoteFile:
    """A file to read and seek in.

    Raises OSError for a local file, FileNotFoundError or StoreError for a remote one.
    """
    if not is_remote(url):
        return open(url, "rb")
    scheme, path = split(url)
    if is_web(url):
        objects = open_objects(url, storage)
        import obstore  # of the extras; `open_objects` says so where it is missing

        with failure(url, storage):
            size = obstore.head(objects, "")["size"]
        return RemoteFile(
            url,
            storage,
            size,
            lambda start, length: pa.py_buffer(
                obstore.get_range(objects, "", start=start, length=length)
            ),
            traffic,
        )
    files = open_filesystem(scheme, storage)
    with failure(url, storage):
        file = files.open_input_file(path)
        return RemoteFile(
            url,
            storage,
            file.size(),
            lambda start, length: pa.py_buffer(file.read_at(length, start)),
            traffic,
        )


def open_sequential(url: str, storage: Storage = LOCAL) -> BinaryIO:
    """As `open_binary`, for reading from start to end: an object comes in requests of 8 MiB."""
    file = open_binary(url, storage)
    return io.BufferedReader(file, _STREAM_BYTES) if is_remote(url) else file


def open_stream(url: str, storage: Storage = LOCAL) -> Any:
    """A file to read from its start on, decompressed where its name says so: for pyarrow's readers
    of CSV.
    """
    if not is_remote(url):
        return url
    scheme, path = split(url)
    if is_web(url):
        return (
            pa.CompressedInputStream(pa.PythonFile(open_binary(url, storage)), "gzip")
            if path.endswith(".gz")
            else pa.PythonFile(open_binary(url, storage))
        )
    with failure(url, storage):
        return open_filesystem(scheme, storage).open_input_stream(path)


def read_file(url: str, storage: Storage = LOCAL) -> bytes:
    """All of a small file. Raises as `open_binary` does."""
    with open_binary(url, storage) as file:
        return file.read()


def file_size(url: str, storage: Storage = LOCAL) -> int | None:
    """Bytes of a file; None when there is no file by this name. Raises StoreError."""
    if not is_remote(url):
        return os.path.getsize(url) if os.path.isfile(url) else None
    if is_web(url):
        try:
            return open_binary(url, storage).size
        except FileNotFoundError:
            return None
    info = _info(url, storage)
    return info.size if info.is_file else None


def is_folder(url: str, storage: Storage = LOCAL) -> bool:
    """Whether there are files below `url`; nobody knows of http(s). Raises StoreError."""
    if not is_remote(url):
        return os.path.isdir(url)
    return not is_web(url) and _info(url, storage).type == pa.fs.FileType.Directory


def list_files(url: str, storage: Storage) -> dict[str, int]:
    """Relative name → size of every remote file below `url`. Raises StoreError."""
    scheme, path = split(url)
    if is_web(url):
        raise DataError(
            f"{url}: a web server does not say which files it has. Name the files: one URL a line"
            " in a .txt file."
        )
    files = open_filesystem(scheme, storage)
    with failure(url, storage):
        found = files.get_file_info(pa.fs.FileSelector(path, recursive=True, allow_not_found=True))
    root = path.rstrip("/") + "/"
    return {
        info.path.lstrip("/").removeprefix(root.lstrip("/")): info.size
        for info in found
        if info.is_file
    }


def write_file(path: Path, url: str, storage: Storage) -> None:
    """Copy a local file to a store. Raises StoreError."""
    scheme, to = split(url)
    files = open_filesystem(scheme, storage)
    with (
        failure(url, storage),
        open(path, "rb") as source,
        files.open_output_stream(to, compression=None) as target,
    ):
        while block := source.read(_STREAM_BYTES):
            target.write(block)


def delete_file(url: str, storage: Storage) -> None:
    """Remove a file from a store. Raises StoreError, FileNotFoundError."""
    scheme, path = split(url)
    with failure(url, storage):
        open_filesystem(scheme, storage).delete_file(path)


def refuse_read_only(url: str) -> None:
    """Raise ConfigError where nothing can be written."""
    if is_web(url):
        raise ConfigError(
            f"{redact_url(url)}: http(s) is read only. Write to a folder or an object store."
        )


def _info(url: str, storage: Storage) -> pa.fs.FileInfo:
    scheme, path = split(url)
    files = open_filesystem(scheme, storage)
    with failure(url, storage):
        return files.get_file_info([path])[0]
