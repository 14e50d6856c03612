"""Files by URL: local paths, `s3://`, `gs://`, `az://`, `http(s)://`, and fsspec's other schemes.

URLs are opened by pyarrow.fs, or by obstore, which reads `http(s)://` and the chunks of Zarr
arrays. One table has the option names of all three libraries. Local files are opened by path.
"""

import io
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from pyarrow import fs

from streamtrain.base.redact import HIDDEN, redact_url
from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, DataError, first_line, shown
from streamtrain.storage.remote.remote_file import (
    RemoteFile,
    Traffic,
    as_store_error,
    count_attempts,
)
from streamtrain.storage.remote.urls import is_remote, is_web, normal_url, split
from streamtrain.types import LOCAL, Storage

CONNECT_SECONDS = 5.0

#: Attempts of a request before it fails.
ATTEMPTS = 10

#: A read must end within `fetch.timeout_seconds`; a request that is silent for one tenth of that is
#: repeated.
_REQUESTS_PER_READ = 10

#: Scheme → option in fsspec's naming → its names in pyarrow.fs and obstore. A scheme that is not
#: listed takes all options, with fsspec's names.
OPTION_NAMES: Mapping[str, Mapping[str, tuple[str, str]]] = {
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
_ARROW, OBSTORE = 0, 1
_STREAM_BYTES = 8 << 20


def make_storage(options: Mapping[str, str] | None, *, timeout_seconds: float = 300.0) -> Storage:
    """Return the validated options of an object store.

    `timeout_seconds`: `fetch.timeout_seconds`; a request may be silent for one tenth of it.

    Raises ConfigError for an unknown name, and for a secret that was redacted.
    """
    option_names = sorted({name for names in OPTION_NAMES.values() for name in names})
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (options or {}).items()
    }
    for name, value in texts.items():
        if name not in option_names:
            raise ConfigError(
                f"storage option {shown(name)!r} is unknown; known are"
                f" {', '.join(option_names)}.{did_you_mean(name, option_names)}"
            )
        if value == HIDDEN:
            raise ConfigError(
                f"storage option {name}: the config of a run does not contain secrets. Give it"
                f" again: --storage-option {name}=…"
            )
    return Storage(
        options=tuple(sorted(texts.items())), request_seconds=timeout_seconds / _REQUESTS_PER_READ
    )


def take_query(url: str, storage: Storage) -> tuple[str, Storage]:
    """Return a link without its query, and a storage that knows the query.

    The query of a signed link is a secret. Other URLs are returned unchanged.

    Raises ConfigError for a URL with a user name or a password.
    """
    if not is_remote(url):
        return url, storage
    _scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"{redact_url(url)}: credentials in a URL are not supported. Give them with"
            " --storage-option, or use a signed link."
        )
    if not is_web(url):
        return url, storage
    clean, _, query = url.partition("?")
    if not query:
        return clean, storage
    queries = (*storage.queries, (normal_url(clean), query))
    return clean, replace(storage, queries=queries)


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
        try:
            handler = fs.FSSpecHandler(fsspec.filesystem(scheme, **dict(storage.options)))
        except (ValueError, ImportError, TypeError) as error:
            raise ConfigError(
                f"{shown(scheme)}://: no file system is known or can be opened:"
                f" {storage.redact(str(error))}."
            ) from None
        return fs.PyFileSystem(handler)
    options = client_options(scheme, storage, _ARROW)
    if scheme == "s3":
        return _s3_filesystem(options, storage.request_seconds)
    if scheme == "gs":
        return _gcs_filesystem(options, storage.request_seconds)
    return _azure_filesystem(options)


def _s3_filesystem(options: dict[str, Any], request_seconds: float) -> fs.FileSystem:
    read_seconds = _REQUESTS_PER_READ * request_seconds
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
    retry_seconds = ATTEMPTS * request_seconds
    return fs.GcsFileSystem(**options, retry_time_limit=timedelta(seconds=retry_seconds))


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


def client_options(scheme: str, storage: Storage, library: int) -> dict[str, Any]:
    """Return the options under the names of a library, `_ARROW` or `OBSTORE`.

    Raises ConfigError for an option that does not apply to the scheme.
    """
    names = OPTION_NAMES[scheme]
    options: dict[str, Any] = {}
    for name, value in storage.options:
        if name not in names:
            advice = f"it takes {', '.join(names)}" if names else "it takes none; use a signed link"
            raise ConfigError(f"storage option {name} does not apply to {scheme}://; {advice}.")
        is_flag = name == "anon"
        options[names[name][library]] = value in ("true", "1", "yes", "on") if is_flag else value
    if scheme == "s3" and "endpoint_url" not in dict(storage.options):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options[names["endpoint_url"][library]] = endpoint
    return options


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
        query = dict(storage.queries).get(url)
        address = f"{url}?{query}" if query else url
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
            size = obstore.head(objects, "")["size"]

        def read_range(start: int, length: int) -> pa.Buffer:
            return pa.py_buffer(obstore.get_range(objects, "", start=start, length=length))
    else:
        scheme, path = split(url)
        files = open_filesystem(scheme, storage)
        with as_store_error(url, storage):
            file = files.open_input_file(path)
            size = file.size()

        def read_range(start: int, length: int) -> pa.Buffer:
            return pa.py_buffer(file.read_at(length, start))

    return RemoteFile(url, storage, size, read_range, traffic)


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
    return {info.path.lstrip("/").removeprefix(root): info.size for info in infos if info.is_file}


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
