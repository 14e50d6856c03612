"""Verifying a data set: every footer, page, chunk and hash, in parallel and in bounded memory;
every bad shard is listed.

What vouches for a shard's bytes is its SHA-256 in the manifest, or checksums of its own (Parquet
pages, Zarr's crc32c). A shard that has neither is decoded, its counts and extremes are held against
its footer, and it is called unverified.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streamtrain.base.budget import default_limit_bytes, default_readers
from streamtrain.errors import DataError, StoreError, first_line, shown
from streamtrain.storage.dataset import describe_shard, present_shards
from streamtrain.storage.locate import locate, read_list
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
from streamtrain.storage.parquet.guard import walk_pages
from streamtrain.storage.parquet.parquet_footer import read_metadata
from streamtrain.storage.parquet.parquet_reader import BATCH_ROWS, BUFFER_BYTES, open_file
from streamtrain.storage.remote.filesystem import is_folder, open_sequential, take_query
from streamtrain.storage.remote.urls import normal_url
from streamtrain.storage.zarr.zarr_reader import check_chunks
from streamtrain.types import LOCAL, Json, Shard, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault: the file, the row group and column or the chunk, and what is wrong there."""

    url: str
    place: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. `unvouched`: good shards whose bytes nothing vouches for."""

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
        """For `--json`: everything, findings as dicts."""
        return {
            "url": self.url,
            "integrity": self.integrity,
            "num_shards": self.num_shards,
            "num_rows": self.num_rows,
            "num_bytes": self.num_bytes,
            "unvouched": list(self.unvouched),
            "findings": [
                {"url": each.url, "place": each.place, "cause": each.cause}
                for each in self.findings
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """One shard: its findings, whether something vouches for its bytes, its description when it has
    one.
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

    `limit_bytes`: what a decode may take, by default a quarter of the memory that is available.

    Raises DataError only when the path means nothing, StoreError when a store does not answer;
    whatever is wrong with a shard is a finding.
    """
    path, storage = take_query(os.fspath(path), storage)
    path, findings = normal_url(path), []
    named = read_list(path, storage)
    threads = threads or default_readers()
    limit = (limit_bytes or default_limit_bytes()) // threads
    manifest = None
    try:
        manifest = read_manifest(path, storage) if named is None else None
    except StoreError:
        raise
    except DataError as error:
        findings.append(_finding(os.path.join(path, MANIFEST_NAME), "manifest", error))
    work: list[tuple[str, ShardEntry | None]] = []
    if named is not None:
        urls, storage = named
        work = [(url, None) for url in urls]
    elif manifest is None:
        refuse_unfinished(path, storage)
        work = [(url, None) for url in locate(path, storage=storage)]
    else:
        listed, about = _listed(path, manifest, storage)
        findings += about
        work = list(listed)
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        checked = list(pool.map(lambda item: _check(*item, limit, storage), work))
    for each in checked:
        findings += each.findings
    shards = [each.shard for each in checked if each.shard is not None]
    findings += _odd_columns(shards, None if manifest is None else manifest.columns)
    bad = {finding.url for finding in findings}
    return Verification(
        url=path,
        num_shards=len(work),
        num_rows=sum(shard.num_rows for shard in shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        findings=tuple(findings),
        unvouched=tuple(
            each.shard.url
            for each in checked
            if each.shard is not None and not each.vouched and each.shard.url not in bad
        ),
    )


def _listed(
    path: str, manifest: Manifest, storage: Storage
) -> tuple[list[tuple[str, ShardEntry]], list[Finding]]:
    """The manifest's shards, and what is wrong with the list itself: names, strangers, sums."""
    listed: dict[str, ShardEntry] = {}
    findings = []
    home = os.path.join(path, MANIFEST_NAME)
    for entry in manifest.shards:
        try:
            url = normal_url(safe_path(path, entry.name))
        except DataError as error:
            findings.append(_finding(home, "manifest", error))
            continue
        if url in listed:
            findings.append(Finding(url=url, place="manifest", cause="listed twice"))
        listed[url] = entry
    rows = sum(entry.rows for entry in manifest.shards)
    if rows != manifest.rows:
        findings.append(
            Finding(
                url=home,
                place="manifest",
                cause=f"says {manifest.rows:,} rows, and its shards {rows:,}",
            )
        )
    strangers = [url for url in present_shards(path, storage) if url not in listed]
    findings += [
        Finding(url=url, place="file", cause=f"not listed in {MANIFEST_NAME}") for url in strangers
    ]
    return list(listed.items()), findings


def _check(url: str, entry: ShardEntry | None, limit: int, storage: Storage) -> _Checked:
    findings: list[Finding] = []
    hashed = False
    if not exists(url, storage):
        findings.append(
            Finding(url=url, place="file", cause=f"listed in {MANIFEST_NAME}, but not there")
        )
        return _Checked(findings=findings, vouched=False, shard=None)
    try:
        if entry is not None:
            hashed = hash_shard(url, storage) == entry.sha256
            if not hashed:
                findings.append(
                    Finding(
                        url=url,
                        place="file",
                        cause=f"its SHA-256 is not the one in {MANIFEST_NAME}",
                    )
                )
        shard = describe_shard(url, storage)
    except StoreError:
        raise
    except (DataError, OSError) as error:
        return _Checked(
            findings=[
                *findings,
                _finding(url, "chunks" if is_folder(url, storage) else "footer", error),
            ],
            vouched=False,
            shard=None,
        )
    if entry is not None and entry.boundaries != compact_boundaries(shard.boundaries):
        findings.append(
            Finding(
                url=url,
                place="manifest",
                cause=f"its row groups or chunks are not those in {MANIFEST_NAME}",
            )
        )
    try:
        found, own = (
            _check_parquet(shard, limit)
            if shard.format == "parquet"
            else check_chunks(shard, limit)
        )
    except StoreError:
        raise
    except (DataError, OSError) as error:
        found, own = [("file", first_line(error))], False
    findings += [
        Finding(url=url, place=place, cause=cause.removeprefix(f"{url}: "))
        for place, cause in found
    ]
    return _Checked(findings=findings, vouched=hashed or own, shard=shard)


def _check_parquet(shard: Shard, limit: int) -> tuple[list[tuple[str, str]], bool]:
    """(place, cause) of every bad column chunk, and whether every page has a checksum.

    What has none is decoded.
    """
    metadata, chunks = read_metadata(shard)
    bad, unchecked, num_pages = [], [], 0
    with open_sequential(shard.url, shard.storage) as file:
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                chunk = chunks[group][number]
                place = f"row group {group}, column {metadata.schema.column(number).path!r}"
                try:
                    pages = [(page.decoded_bytes, page.checked) for page in walk_pages(file, chunk)]
                except StoreError:
                    raise
                except DataError as error:
                    bad.append((place, str(error)))
                    continue
                num_pages += len(pages)
                largest = max((size for size, _ in pages), default=0)
                if sum(size for size, _ in pages) > chunk.decoded_bytes or largest > limit:
                    bad.append(
                        (
                            place,
                            (
                                f"a page of it decodes to {largest:,} bytes, more than the footer"
                                " says or memory allows"
                            ),
                        )
                    )
                elif not all(checked for _, checked in pages):
                    unchecked.append((group, number, place))
    if unchecked:
        with open_file(shard, metadata, BUFFER_BYTES) as file:
            bad += [
                (place, cause)
                for group, number, place in unchecked
                if (cause := _decode_fault(file, group, number))
            ]
    return bad, num_pages > 0 and not unchecked


def _decode_fault(file: pq.ParquetFile, group: int, number: int) -> str | None:
    """Why a column chunk without checksums cannot be right: it does not decode, or not to what its
    footer says of it.
    """
    chunk = file.metadata.row_group(group).column(number)
    rows, nulls, low, high = 0, 0, [], []
    try:
        for batch in file.iter_batches(
            BATCH_ROWS, row_groups=[group], columns=[chunk.path_in_schema], use_threads=False
        ):
            rows += batch.num_rows
            # names that are not unique: which of them this chunk is, cannot be asked for
            if batch.num_columns > 1:
                continue
            column = batch.column(0)
            nulls += column.null_count
            if (
                pa.types.is_float32(column.type)
                or pa.types.is_float64(column.type)
                or pa.types.is_integer(column.type)
            ):
                extremes = pc.min_max(column)
                low.append(extremes["min"].as_py())
                high.append(extremes["max"].as_py())
    except StoreError:
        raise
    except Exception as error:  # whatever a decoder throws
        return f"cannot be decoded: {first_line(error)}"
    expected, statistics = file.metadata.row_group(group).num_rows, chunk.statistics
    if rows != expected:
        return f"holds {rows:,} rows where the footer promises {expected:,}"
    if statistics is None or not low:
        return None
    if statistics.has_null_count and statistics.null_count != nulls:
        return f"holds {nulls:,} nulls where the footer promises {statistics.null_count:,}"
    if statistics.has_min_max and not isinstance(statistics.min, bytes):
        outside = [each for each in low if each is not None and each < statistics.min]
        outside += [each for each in high if each is not None and each > statistics.max]
        if outside:
            return (
                f"holds {outside[0]:.6g}, outside of the footer's {statistics.min:.6g} to"
                f" {statistics.max:.6g}"
            )
    return None


def _odd_columns(shards: Sequence[Shard], listed: Sequence[str] | None) -> list[Finding]:
    """Columns are bound by name: a shard that lacks one of the manifest's, else of the first
    shard's, cannot be read with the others.
    """
    if not shards:
        return []
    wanted = [column.name for column in shards[0].columns] if listed is None else listed
    by = os.path.basename(shards[0].url) if listed is None else MANIFEST_NAME
    findings = []
    for shard in shards:
        missing = set(wanted) - {column.name for column in shard.columns}
        if missing:
            names = ", ".join(shown(name) for name in wanted if name in missing)
            findings.append(
                Finding(url=shard.url, place="columns", cause=f"lacks {names}, which {by} has")
            )
    return findings


def _finding(url: str, place: str, error: Exception) -> Finding:
    return Finding(url=url, place=place, cause=first_line(error).removeprefix(f"{url}: "))
