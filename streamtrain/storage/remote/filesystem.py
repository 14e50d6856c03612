"""Files by URL: local paths, `s3://`, `gs://`, `az://`, `http(s)://`, and fsspec's other schemes.

URLs are opened by pyarrow.fs, or by obstore, which reads `http(s)://` and the chunks of Zarr
arrays. Local files are opened by path.
"""

import io
import os
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from streamtrain.errors import ConfigError, DataError, first_line, shown
from streamtrain.storage.remote.remote_file import (
    RemoteFile,
    Traffic,
    as_store_error,
    count_attempts,
    object_stamp,
)
from streamtrain.storage.remote.store_options import (
    ARROW,
    OBSTORE,
    OPTION_NAMES,
    REQUESTS_PER_READ,
    client_options,
)
from streamtrain.storage.remote.urls import is_remote, is_web, split
from streamtrain.types import LOCAL, Storage

CONNECT_SECONDS = 5.0

#: Attempts of a request before it fails.
ATTEMPTS = 10

_STREAM_BYTES = 8 << 20


@lru_cache(64)
def open_filesystem(scheme: str, storage: Storage) -> fs.FileSystem:
    """Return pyarrow's file system of a scheme, or fsspec's where pyarrow has none.

    Raises ConfigError for options that it cannot use.
    """
    try:
        return _make_filesystem(scheme, storage)
    except ConfigError:
        raise
    # half of a pair of keys, an invalid endpoint
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{shown(scheme)}://: the storage options cannot be used:"
            f" {shown(storage.redact(first_line(error)))}."
        ) from None


def _make_filesystem(scheme: str, storage: Storage) -> fs.FileSystem:
    if scheme not in OPTION_NAMES:
        import fsspec

        try:
            handler = fs.FSSpecHandler(fsspec.filesystem(scheme, **dict(storage.options)))
        except (ValueError, ImportError, TypeError, OSError) as error:
            raise ConfigError(
                f"{shown(scheme)}://: no file system is known or can be opened:"
                f" {storage.redact(str(error))}. Give a path of this machine."
            ) from None
        return fs.PyFileSystem(handler)
    options = client_options(scheme, storage, ARROW)
    if scheme == "s3":
        return _s3_filesystem(options, storage.request_seconds)
    if scheme == "gs":
        return _gcs_filesystem(options, storage.request_seconds)
    return _azure_filesystem(options)


def _s3_filesystem(options: dict[str, Any], request_seconds: float) -> fs.FileSystem:
    read_seconds = REQUESTS_PER_READ * request_seconds
    return fs.S3FileSystem(
        **options,
        request_timeout=request_seconds,
        connect_timeout=min(CONNECT_SECONDS, request_seconds),
        retry_strategy=fs.AwsStandardS3RetryStrategy(
            max_attempts=count_attempts(request_seconds, read_seconds, ATTEMPTS)
        ),
    )


def _gcs_filesystem(options: dict[str, Any], request_seconds: float) -> fs.FileSystem:
    endpoint = urlsplit(options.get("endpoint_override", ""))
    if endpoint.netloc:
        options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    if "access_token" in options:
        options["credential_token_expiration"] = datetime.now(UTC) + timedelta(hours=1)
    limit = timedelta(seconds=ATTEMPTS * request_seconds)
    return fs.GcsFileSystem(**options, retry_time_limit=limit)


def _azure_filesystem(options: dict[str, Any]) -> fs.FileSystem:
    endpoint = urlsplit(options.get("blob_storage_authority", ""))
    if endpoint.netloc:
        options["blob_storage_authority"] = endpoint.netloc
        options["blob_storage_scheme"] = endpoint.scheme
    if "account_name" not in options:
        raise ConfigError(
            "az:// needs the account name: --storage-option key=ACCOUNT (and secret=, or token= for"
            " a SAS)."
        )
    return fs.AzureFileSystem(**options)


def read_range(
    folder: str,
    name: str,
    start: int,
    length: int,
    storage: Storage,
    traffic: Traffic | None = None,
) -> bytes:
    """Return a range of a file below a remote folder.

    It takes one request where obstore knows the scheme. Raises as `open_binary` does.
    """
    if split(folder)[0] not in OPTION_NAMES:
        with open_binary(f"{folder}/{name}", storage, traffic) as file:
            file.seek(start)
            return file.read(length)
    objects = open_objects(folder, storage)
    started = time.perf_counter()
    import obstore  # from an extra; `open_objects` raises where it is missing

    with as_store_error(f"{folder}/{name}", storage):
        content = obstore.get_range(objects, name, start=start, length=length).to_bytes()
    if traffic is not None:
        traffic.add(len(content), time.perf_counter() - started)
    return content


@lru_cache(256)
def open_objects(url: str, storage: Storage) -> Any:
    """Return obstore's store whose root is `url`: a folder of a bucket, or one file over http(s).

    Raises ConfigError when obstore is not installed.
    """
    scheme, _, rest = url.partition("://")
    try:
        from obstore import store  # from the extras [s3], [gcs], [azure]
    except ImportError:
        raise ConfigError(
            f"{scheme}:// needs obstore for this: pip install 'streamtrain[s3]' (or [gcs],"
            " [azure])."
        ) from None
    client: Any = {
        "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, storage.request_seconds)),
        "read_timeout": timedelta(seconds=storage.request_seconds),
        "timeout": timedelta(seconds=ATTEMPTS * storage.request_seconds),
        "allow_http": True,
    }
    retry: Any = {
        "max_retries": ATTEMPTS - 1,
        "retry_timeout": timedelta(seconds=ATTEMPTS * storage.request_seconds),
    }
    options = client_options(scheme, storage, OBSTORE)
    if is_web(url):
        address = f"{url}?{query}" if (query := dict(storage.queries).get(url)) else url
        return store.HTTPStore(address, client_options=client, retry_config=retry)
    bucket, _, prefix = rest.partition("/")
    stores = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}
    return stores[scheme](
        bucket, prefix=prefix or None, **options, client_options=client, retry_config=retry
    )


def open_binary(
    url: str, storage: Storage = LOCAL, traffic: Traffic | None = None
) -> BinaryIO | RemoteFile:
    """Open a file to read and seek in.

    Raises OSError for a local file, FileNotFoundError or StoreError for a remote one.
    """
    return open_remote(url, storage, traffic) if is_remote(url) else open(url, "rb")


def open_remote(url: str, storage: Storage, traffic: Traffic | None = None) -> RemoteFile:
    """Open a remote file to read and seek in. Raises FileNotFoundError, StoreError."""
    if is_web(url):
        objects = open_objects(url, storage)
        import obstore  # from an extra; `open_objects` raises where it is missing

        with as_store_error(url, storage):
            head = obstore.head(objects, "")
        size, stamp = head["size"], object_stamp(head)

        def read_range(start: int, length: int) -> pa.Buffer:
            return pa.py_buffer(obstore.get_range(objects, "", start=start, length=length))
    else:
        scheme, path = split(url)
        files = open_filesystem(scheme, storage)
        with as_store_error(url, storage):
            file = files.open_input_file(path)
            size = file.size()
            stamp = object_stamp(file.metadata())

        def read_range(start: int, length: int) -> pa.Buffer:
            return pa.py_buffer(file.read_at(length, start))

    return RemoteFile(url, storage, size, read_range, traffic, stamp=stamp)


def open_sequential(url: str, storage: Storage = LOCAL) -> io.BufferedReader:
    """Open a file to read from start to end; an object is fetched in requests of 8 MiB."""
    if not is_remote(url):
        return open(url, "rb")
    return io.BufferedReader(open_remote(url, storage), _STREAM_BYTES)


def read_file(url: str, storage: Storage = LOCAL) -> bytes:
    """Return all of a small file. Raises as `open_binary` does."""
    with open_binary(url, storage) as file:
        return file.read()


def file_size(url: str, storage: Storage = LOCAL) -> int | None:
    """Return the bytes of a file; None when it does not exist. Raises StoreError."""
    if not is_remote(url):
        return os.path.getsize(url) if os.path.isfile(url) else None
    if is_web(url):
        try:
            return open_remote(url, storage).size
        except FileNotFoundError:
            return None
    info = _info(url, storage)
    return info.size if info.is_file else None


def web_mark(url: str, storage: Storage) -> list[object]:
    """Return size, ETag and date of a file on a web server, from its answer to a HEAD request.

    Empty where the server gives neither ETag nor date. Raises FileNotFoundError, StoreError.
    """
    objects = open_objects(url, storage)
    import obstore  # from an extra; `open_objects` raises where it is missing

    with as_store_error(url, storage):
        found = obstore.head(objects, "")
    date = found["last_modified"].timestamp()  # 0 without the header
    return [found["size"], found["e_tag"], date] if found["e_tag"] or date else []


def is_folder(url: str, storage: Storage = LOCAL) -> bool:
    """Return whether `url` is a folder; False for http(s). Raises StoreError."""
    if not is_remote(url):
        return os.path.isdir(url)
    return not is_web(url) and _info(url, storage).type == fs.FileType.Directory


def list_files(url: str, storage: Storage) -> dict[str, int]:
    """Return relative name → size of every remote file below `url`. Raises StoreError."""
    return {name: info.size for name, info in list_infos(url, storage).items()}


def list_infos(url: str, storage: Storage) -> dict[str, fs.FileInfo]:
    """Return relative name → size and date of every remote file. Raises StoreError."""
    scheme, path = split(url)
    if is_web(url):
        raise DataError(
            f"{url}: the files of a web server cannot be listed. Name them in a .txt file, one URL"
            " per line."
        )
    files = open_filesystem(scheme, storage)
    with as_store_error(url, storage):
        infos = files.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    root = (path.rstrip("/") + "/").lstrip("/")
    return {info.path.lstrip("/").removeprefix(root): info for info in infos if info.is_file}


def write_file(path: Path, url: str, storage: Storage) -> None:
    """Copy a local file to a store. Raises StoreError."""
    scheme, target_path = split(url)
    files = open_filesystem(scheme, storage)
    with (
        as_store_error(url, storage),
        open(path, "rb") as source,
        files.open_output_stream(target_path, compression=None) as target,
    ):
        while block := source.read(_STREAM_BYTES):
            target.write(block)


def delete_file(url: str, storage: Storage) -> None:
    """Remove a file from a store. Raises StoreError, FileNotFoundError."""
    scheme, path = split(url)
    with as_store_error(url, storage):
        open_filesystem(scheme, storage).delete_file(path)


def _info(url: str, storage: Storage) -> fs.FileInfo:
    scheme, path = split(url)
    files = open_filesystem(scheme, storage)
    with as_store_error(url, storage):
        return files.get_file_info([path])[0]
