"""Iceberg tables without a catalog, read by pyiceberg from their newest metadata file."""

import os
import re
from collections.abc import Generator, Sequence
from typing import Any

import pyarrow as pa

from streamtrain.errors import ConfigError, DataError
from streamtrain.storage.foreign.foreign_source import ForeignSource
from streamtrain.storage.foreign.foreign_table import (
    ForeignTable,
    library_errors,
    missing_extra,
)
from streamtrain.storage.foreign.table_marks import ICEBERG_METADATA, is_iceberg_metadata
from streamtrain.storage.remote.filesystem import list_files, read_file
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Storage

_HINT = "version-hint.text"
#: Option in fsspec's naming → its name in pyiceberg, by scheme.
_OPTION_NAMES = {
    "s3": {
        "key": "s3.access-key-id",
        "secret": "s3.secret-access-key",
        "token": "s3.session-token",
        "endpoint_url": "s3.endpoint",
        "region": "s3.region",
        "anon": "s3.anonymous",
    },
    "gs": {"token": "gcs.oauth2.token", "endpoint_url": "gcs.service.host"},
}


def open_iceberg(source: ForeignSource) -> ForeignTable:
    """Open an Iceberg table at its newest snapshot, or at the one that the source names.

    Raises DataError when it cannot be read, when two metadata files claim to be the newest, and
    for equality deletes, which pyiceberg does not apply; ConfigError when it is not installed.
    """
    try:
        from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
        from pyiceberg.table import StaticTable
    except ImportError:
        raise missing_extra(source, "pyiceberg", "iceberg") from None
    with library_errors(source):
        metadata = _newest_metadata(source)
        table = StaticTable.from_metadata(metadata, _options(source.url, source.storage))
        _require_snapshot(source, table)
        schema = schema_to_pyarrow(
            table.scan(snapshot_id=source.version).projection(), include_field_ids=False
        )

    def batches(chosen: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
        with library_errors(source):
            scan = table.scan(selected_fields=tuple(chosen), snapshot_id=source.version)
            try:
                files = list(scan.plan_files())
            except ValueError as error:
                if "equality delete" in str(error):
                    raise _equality_deletes(source) from error
                raise
            rows = ArrowScan(scan.table_metadata, scan.io, scan.projection(), scan.row_filter)
            for file in files:  # one at a time: pyiceberg decodes all files that it is given
                yield from rows.to_record_batches([file])

    return ForeignTable(name=source.name, schema=schema, batches=batches)


def _newest_metadata(source: ForeignSource) -> str:
    """Return the metadata file of a table: the hinted one, else that of the highest number."""
    if is_iceberg_metadata(os.path.basename(source.url)):
        return source.url
    folder = f"{source.url}/{ICEBERG_METADATA}"
    if is_remote(folder):
        names = [name for name in list_files(folder, source.storage) if "/" not in name]
    else:
        names = os.listdir(folder)
    numbers: dict[int, list[str]] = {}
    for name in filter(is_iceberg_metadata, names):
        match = re.match(r"v?(\d+)", name)
        assert match, "a metadata file starts with its number"
        numbers.setdefault(int(match[1]), []).append(name)
    if _HINT in names:
        hint = read_file(f"{folder}/{_HINT}", source.storage).decode("utf-8", "replace").strip()
        hinted = [name for name in names if name in (hint, f"{hint}.metadata.json")]
        if hint.isdigit():
            hinted = numbers.get(int(hint), [])
        if len(hinted) == 1:
            return f"{folder}/{hinted[0]}"
    newest = sorted(numbers[max(numbers)])
    if len(newest) > 1:
        raise DataError(
            f"{source.name}: {' and '.join(newest)} both claim to be its newest metadata, and only"
            " its catalog knows which is. Name that file instead of the folder."
        )
    return f"{folder}/{newest[0]}"


def _require_snapshot(source: ForeignSource, table: Any) -> None:
    known = [snapshot.snapshot_id for snapshot in table.metadata.snapshots]
    if source.version is not None and source.version not in known:
        newest = ", ".join(map(str, known[-3:])) or "none"
        raise DataError(
            f"{source.name}: no snapshot {source.version}; the newest are {newest}. Name one of"
            " them."
        )


def _equality_deletes(source: ForeignSource) -> DataError:
    return DataError(
        f"{source.name}: it has equality deletes, which pyiceberg does not apply, so deleted rows"
        " would be read. Rewrite its data files (Spark: CALL rewrite_data_files), then read it."
    )


def _options(url: str, storage: Storage) -> dict[str, str]:
    """Return the storage options under pyiceberg's names.

    Raises ConfigError for a store whose options pyiceberg is not given.
    """
    if not is_remote(url):
        return {}
    scheme = url.partition("://")[0]
    if scheme not in _OPTION_NAMES:
        raise ConfigError(
            f"{scheme}://: Iceberg tables are read from disks, s3:// and gs://. Copy the table."
        )
    names = _OPTION_NAMES[scheme]
    options = {names[name]: value for name, value in storage.options if name in names}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:
        options.setdefault("s3.endpoint", endpoint)
    return options
