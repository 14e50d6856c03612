"""Verify a data set: every footer, page, chunk and hash, in parallel and in bounded memory.

Every bad shard is listed. The bytes of a shard are verified by its SHA-256 in the manifest, or by
its own checksums (Parquet pages, Zarr's crc32c). A shard that has neither is decoded, its counts
and extremes are compared with its footer, and it is reported as unverified.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.base.budget import default_limit_bytes, default_readers
from streamtrain.errors import DataError, StoreError, first_line, shown
from streamtrain.storage.dataset import describe_shard, present_shards
from streamtrain.storage.decode import min_max
from streamtrain.storage.locate import read_list
from streamtrain.storage.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    compact_boundaries,
    exists,
    hash_shard,
    read_manifest,
    refuse_unfinished,
    safe_path,
)
from streamtrain.storage.parquet.guard import Chunk, max_decoded_bytes, walk_pages
from streamtrain.storage.parquet.parquet_footer import read_metadata
from streamtrain.storage.parquet.parquet_reader import BATCH_ROWS, BUFFER_BYTES, open_file
from streamtrain.storage.remote.filesystem import is_folder, open_sequential
from streamtrain.storage.remote.store_options import take_query
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.storage.table_files import find_files, is_table
from streamtrain.storage.zarr.zarr_reader import decode_all_chunks
from streamtrain.types import LOCAL, Json, Shard, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault: the file, the place in it (row group and column, or chunk), and the cause."""

    url: str
    place: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of `verify`.

    `unvouched`: URLs of good shards that have neither a hash nor checksums.
    """

    url: str
    num_shards: int
    num_rows: int
    num_bytes: int
    findings: tuple[Finding, ...]
    unvouched: tuple[str, ...]

    @property
    def bad(self) -> tuple[str, ...]:
        """The files with a fault, each once, in order."""
        return tuple(dict.fromkeys(finding.url for finding in self.findings))

    @property
    def integrity(self) -> str:
        """`verified`, `bad: why` or `unverified: why`."""
        if self.findings:
            return f"bad: {len(self.bad):,} of {self.num_shards:,} files have faults"
        if self.unvouched:
            return (
                f"unverified: {len(self.unvouched):,} of {self.num_shards:,} shards have neither"
                " checksums nor a hash in a manifest"
            )
        return "verified"

    def to_json(self) -> Json:
        """Return everything, with findings as dicts, for `--json`."""
        return {
            "url": self.url,
            "integrity": self.integrity,
            "num_shards": self.num_shards,
            "num_rows": self.num_rows,
            "num_bytes": self.num_bytes,
            "unvouched": list(self.unvouched),
            "findings": [
                {"url": finding.url, "place": finding.place, "cause": finding.cause}
                for finding in self.findings
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    """What a data set has to check.

    `work`: its shards by URL, each with its entry in the manifest. `findings`: faults of the
    manifest. `columns`: those that the manifest names.
    """

    work: Sequence[tuple[str, ShardEntry | None]]
    findings: Sequence[Finding] = ()
    columns: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardResult:
    """The result for one shard.

    `vouched`: a hash or checksums verify its bytes. `shard`: None when it cannot be described.
    """

    findings: list[Finding]
    vouched: bool
    shard: Shard | None


def verify(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    limit_bytes: int | None = None,
    storage: Storage = LOCAL,
) -> Verification:
    """Check all of a data set.

    `limit_bytes`: memory for decoding, by default a quarter of the available memory.

    A fault of a shard is a finding. Raises DataError only when the path means nothing, and
    StoreError when a store does not answer.
    """
    path, storage = take_query(os.fspath(path), storage)
    path = normal_url(path)
    threads = threads or default_readers()
    limit = (limit_bytes or default_limit_bytes()) // threads
    if (listed := read_list(path, storage)) is not None:
        urls, storage = listed
        contents = _Contents(work=[(url, None) for url in urls])
    else:
        contents = _contents(path, storage)

    def check(item: tuple[str, ShardEntry | None]) -> _ShardResult:
        url, entry = item
        result = _check_shard(url, entry, limit, storage)
        if result.findings and is_remote(url):
            # bytes may have been damaged on their way
            result = _check_shard(url, entry, limit, storage)
        return result

    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        results = list(pool.map(check, contents.work))
    findings = list(contents.findings)
    for result in results:
        findings += result.findings
    shards = [result.shard for result in results if result.shard is not None]
    findings += _missing_columns(shards, contents.columns)
    bad = {finding.url for finding in findings}
    unvouched = [
        result.shard.url
        for result in results
        if result.shard is not None and not result.vouched and result.shard.url not in bad
    ]
    return Verification(
        url=path,
        num_shards=len(contents.work),
        num_rows=sum(shard.num_rows for shard in shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        findings=tuple(findings),
        unvouched=tuple(unvouched),
    )


def _contents(path: str, storage: Storage) -> _Contents:
    """Return what a path that is no list of files has to check, by its manifest or its files.

    Raises DataError, StoreError.
    """
    manifest, findings = None, []
    try:
        manifest = read_manifest(path, storage)
    except StoreError:
        raise
    except DataError as error:
        findings = [_manifest_finding(os.path.join(path, MANIFEST_NAME), error)]
    if manifest is None:
        refuse_unfinished(path, storage)
        urls, storage = find_files(path, storage)
        if is_table(urls[0]):
            raise DataError(
                f"{path}: is a table without checksums, so there is nothing to verify. Write it as"
                " shards with streamtrain ingest first."
            )
        return _Contents(work=[(url, None) for url in urls], findings=findings)
    entries, findings = _check_manifest(path, manifest, storage)
    return _Contents(work=list(entries.items()), findings=findings, columns=manifest.columns)


def _check_manifest(
    path: str, manifest: Manifest, storage: Storage
) -> tuple[dict[str, ShardEntry], list[Finding]]:
    """Return the entries of a manifest by URL, and its own faults.

    Faults are names outside the folder, repeated names, unlisted files, and wrong totals.
    """
    entries: dict[str, ShardEntry] = {}
    findings: list[Finding] = []
    manifest_url = os.path.join(path, MANIFEST_NAME)
    for entry in manifest.shards:
        try:
            url = normal_url(safe_path(path, entry.name))
        except DataError as error:
            findings.append(_manifest_finding(manifest_url, error))
            continue
        if url in entries:
            findings.append(Finding(url=url, place="manifest", cause="listed twice"))
        entries[url] = entry
    rows = sum(entry.rows for entry in manifest.shards)
    if rows != manifest.rows:
        cause = f"claims {manifest.rows:,} rows, but its shards have {rows:,}"
        findings.append(Finding(url=manifest_url, place="manifest", cause=cause))
    for url in present_shards(path, storage):
        if url not in entries:
            cause = f"not listed in {MANIFEST_NAME}"
            findings.append(Finding(url=url, place="file", cause=cause))
    return entries, findings


def _check_shard(url: str, entry: ShardEntry | None, limit: int, storage: Storage) -> _ShardResult:
    """Check one shard; `entry`: its entry in the manifest, if there is one."""
    findings: list[Finding] = []

    def add(place: str, cause: str) -> None:
        findings.append(Finding(url=url, place=place, cause=cause.removeprefix(f"{url}: ")))

    if not exists(url, storage):
        add("file", f"listed in {MANIFEST_NAME}, but missing")
        return _ShardResult(findings=findings, vouched=False, shard=None)
    hash_matches = False
    try:
        if entry is not None:
            hash_matches = hash_shard(url, storage) == entry.sha256
            if not hash_matches:
                add("file", f"its SHA-256 differs from the one in {MANIFEST_NAME}")
        shard = describe_shard(url, storage)
    except StoreError:
        raise
    except (DataError, OSError) as error:
        add("chunks" if is_folder(url, storage) else "footer", first_line(error))
        return _ShardResult(findings=findings, vouched=False, shard=None)
    if entry is not None and entry.boundaries != compact_boundaries(shard.boundaries):
        add("manifest", f"its row groups or chunks differ from those in {MANIFEST_NAME}")
    check = _check_parquet if shard.format == "parquet" else decode_all_chunks
    try:
        faults, has_checksums = check(shard, limit)
    except StoreError:
        raise
    except (DataError, OSError) as error:
        faults, has_checksums = [("file", first_line(error))], False
    for place, cause in faults:
        add(place, cause)
    return _ShardResult(findings=findings, vouched=hash_matches or has_checksums, shard=shard)


def _check_parquet(shard: Shard, limit: int) -> tuple[list[tuple[str, str]], bool]:
    """Return (place, cause) of every bad column chunk, and whether every page has a checksum.

    Column chunks without checksums are decoded.
    """
    metadata, chunks = read_metadata(shard)
    faults: list[tuple[str, str]] = []
    unchecked: list[tuple[int, int, str]] = []
    num_pages = 0
    with open_sequential(shard.url, shard.storage) as file:
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                chunk = chunks[group][column]
                place = f"row group {group}, column {metadata.schema.column(column).path!r}"
                try:
                    pages = [
                        (page.decoded_bytes, page.has_checksum) for page in walk_pages(file, chunk)
                    ]
                except StoreError:
                    raise
                except DataError as error:
                    faults.append((place, str(error)))
                    continue
                num_pages += len(pages)
                is_text = metadata.schema.column(column).physical_type == "BYTE_ARRAY"
                allowed = limit if is_text else min(limit, max_decoded_bytes(chunk.num_values))
                cause = _size_fault(chunk, [decoded_bytes for decoded_bytes, _ in pages], allowed)
                if cause is not None:
                    faults.append((place, cause))
                elif not all(has_checksum for _, has_checksum in pages):
                    unchecked.append((group, column, place))
    if unchecked:
        with open_file(shard, metadata, BUFFER_BYTES) as file:
            for group, column, place in unchecked:
                cause = _decode_fault(file, group, column)
                if cause is not None:
                    faults.append((place, cause))
    return faults, num_pages > 0 and not unchecked


def _size_fault(chunk: Chunk, page_bytes: Sequence[int], limit: int) -> str | None:
    """Return why the decoded sizes of a chunk's pages are too large, or None.

    The total that the footer claims is not compared: it is too small in good files of old DuckDB
    and of hyparquet, and reading does not use it.
    """
    largest = max(page_bytes, default=0)
    if largest <= limit:
        return None
    return (
        f"one of its pages decodes to {largest:,} bytes, more than memory or its"
        f" {chunk.num_values:,} values allow"
    )


def _decode_fault(file: pq.ParquetFile, group: int, column: int) -> str | None:
    """Return why a column chunk without checksums is wrong, or None.

    It is wrong when it cannot be decoded, or decodes to something other than its footer says.
    """
    chunk = file.metadata.row_group(group).column(column)
    rows, nulls = 0, 0
    lows: list[Any] = []
    highs: list[Any] = []
    try:
        for batch in file.iter_batches(
            BATCH_ROWS, row_groups=[group], columns=[chunk.path_in_schema], use_threads=False
        ):
            rows += batch.num_rows
            # with repeated column names, Arrow returns all of them, and not which one this is
            if batch.num_columns > 1:
                continue
            values = batch.column(0)
            nulls += values.null_count
            if (
                pa.types.is_float32(values.type)
                or pa.types.is_float64(values.type)
                or pa.types.is_integer(values.type)
            ):
                low, high = min_max(values)
                lows.append(low)
                highs.append(high)
    except StoreError:
        raise
    except Exception as error:  # whatever a decoder raises
        return f"cannot be decoded: {first_line(error)}"
    claimed_rows, statistics = file.metadata.row_group(group).num_rows, chunk.statistics
    if rows != claimed_rows:
        return f"has {rows:,} rows, but the footer claims {claimed_rows:,}"
    if statistics is None or not lows:
        return None
    if statistics.has_null_count and statistics.null_count != nulls:
        return f"has {nulls:,} nulls, but the footer claims {statistics.null_count:,}"
    if statistics.has_min_max and not isinstance(statistics.min, bytes):
        outside = [low for low in lows if low is not None and low < statistics.min]
        outside += [high for high in highs if high is not None and high > statistics.max]
        if outside:
            return (
                f"has the value {outside[0]:.6g}, outside of the footer's {statistics.min:.6g} to"
                f" {statistics.max:.6g}"
            )
    return None


def _missing_columns(shards: Sequence[Shard], listed: Sequence[str] | None) -> list[Finding]:
    """Return a finding for each shard that lacks a column.

    Columns are bound by name, so a shard that lacks one of the manifest's columns (without a
    manifest: one of the first shard's) cannot be read with the others.
    """
    if not shards:
        return []
    expected = [column.name for column in shards[0].columns] if listed is None else listed
    reference = os.path.basename(shards[0].url) if listed is None else MANIFEST_NAME
    findings = []
    for shard in shards:
        missing = set(expected) - {column.name for column in shard.columns}
        if missing:
            names = ", ".join(shown(name) for name in expected if name in missing)
            cause = f"lacks {names}, which {reference} has"
            findings.append(Finding(url=shard.url, place="columns", cause=cause))
    return findings


def _manifest_finding(url: str, error: Exception) -> Finding:
    cause = first_line(error).removeprefix(f"{url}: ")
    return Finding(url=url, place="manifest", cause=cause)
