"""Open a data set: find its shards, read their footers, bind their columns by name."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np

from streamtrain.errors import DataError, StoreError
from streamtrain.storage.column_choice import (
    candidates,
    choose_columns,
    column_problems,
    has_datetimes,
)
from streamtrain.storage.column_places import eligible
from streamtrain.storage.data_fingerprint import contents_digest, data_fingerprint, file_stamps
from streamtrain.storage.foreign.foreign_source import find_foreign
from streamtrain.storage.locate import locate, read_list, warn_of_links
from streamtrain.storage.manifest import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    refuse_unfinished,
    shard_from_entry,
)
from streamtrain.storage.notices import (
    warn_of_absent_chunks,
    warn_of_flags,
    warn_of_partitions,
)
from streamtrain.storage.parquet.parquet_footer import describe_parquet
from streamtrain.storage.remote.filesystem import is_folder
from streamtrain.storage.remote.store_options import take_query
from streamtrain.storage.remote.urls import is_remote, is_web, normal_url
from streamtrain.storage.table_files import SHARDS, is_table, locate_data
from streamtrain.types import LOCAL, Column, Dataset, Integrity, OnBadShard, Shard, Storage, Truth

#: Threads that read footers, and the fewest local shards for which they are used.
FOOTERS_AT_ONCE = 16
_MIN_PARALLEL_SHARDS = 8

#: More problems than this are not all shown.
_MANY_PROBLEMS, _SHOWN_OF_MANY = 10, 3

Item = TypeVar("Item")
#: (path or name, its shard or the error)
Described = tuple[str, Shard | DataError]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundShards:
    """The shards that a path refers to, before columns are chosen; empty shards are excluded.

    `left_out`: (file, cause) of shards that could not be opened, when such shards are quarantined.
    `folder`, `digest` and `notices`: see `Dataset`. `table`: the columns of an imported table, also
    those that its shards lack. `needs_target`: why its target must be named; empty where the last
    column is a good default.
    """

    url: str
    shards: tuple[Shard, ...]
    integrity: Integrity
    truth: Truth | None
    left_out: tuple[tuple[str, str], ...] = ()
    folder: str = ""
    digest: str = ""
    table: tuple[Column, ...] = ()
    needs_target: str = ""
    notices: tuple[str, ...] = ()


def open_shards(
    path: str,
    *,
    features: Sequence[str] | None = None,
    target: str | None = None,
    on_bad_shard: OnBadShard = "error",
    storage: Storage = LOCAL,
) -> Dataset:
    """Open a Parquet file, a Zarr array or group, a folder of them, a glob, or a list of files.

    Reads footers only, several at once. The target defaults to the last column of the first shard,
    the features to all its other columns. In a folder with a manifest, shards whose size and footer
    hash still match are described by the manifest.

    With `on_bad_shard="quarantine"`, a bad shard whose rows are known, from a manifest or from its
    own footer, keeps its place, and fails when it is read; any other is listed in `left_out`.

    Raises DataError naming every bad shard (of many the first), ConfigError when a column is chosen
    twice, and StoreError when a store does not answer.
    """
    return bind_columns(
        find_shards(path, on_bad_shard, storage),
        features=features,
        target=target,
        on_bad_shard=on_bad_shard,
    )


def find_shards(
    path: str | os.PathLike[str], on_bad_shard: OnBadShard = "error", storage: Storage = LOCAL
) -> FoundShards:
    """Find and describe the shards of a path. A table of another kind is imported as shards.

    Warns of Hive partitions, which are not read, and of one file under two names.

    Raises DataError naming the shards that cannot be read, and when there are no rows.
    """
    path = os.fspath(path)
    if find_foreign(path, storage):
        return _import(path, storage)
    path, storage = take_query(path, storage)
    path = normal_url(path)
    listing = None if is_table(path) else _list_shards(path, storage, on_bad_shard)
    if listing is None:
        return _import(path, storage)
    described, manifest = listing.described, listing.manifest
    bad = [(url, str(result)) for url, result in described if isinstance(result, DataError)]
    # Under quarantine, an error for a shard that the manifest lists is an error in the manifest
    # itself, because its shards are not checked then. Such an error is never ignored.
    manifest_is_bad = manifest is not None and len(bad) > listing.num_unlisted
    if on_bad_shard == "error" or len(bad) == len(described) or manifest_is_bad:
        _raise_all([cause for _, cause in bad])
    shards = [result for _, result in described if isinstance(result, Shard)]
    if listing.storage.reading.datetime == "parts" and has_datetimes(shards):
        return _import(path, listing.storage, on_bad_shard)
    warn_of_flags(path, SHARDS, listing.storage.reading, in_place=True)
    warn_of_partitions(path, shards)
    warn_of_absent_chunks(path, shards)
    warn_of_links(path, shards)
    shards = [shard for shard in shards if shard.num_rows]
    if not shards:
        raise DataError(f"{path}: no rows. Choose a data set that has some.")
    return FoundShards(
        url=path,
        shards=tuple(shards),
        integrity="verified" if manifest else "unverified",
        truth=manifest.truth if manifest else None,
        left_out=tuple(bad),
        digest=contents_digest(manifest) if manifest else "",
    )


class _Listing(NamedTuple):
    """The shards that a path lists, good and bad.

    `storage`: of these shards. `num_unlisted`: how many of them lie in the folder of a manifest
    that does not list them; they count as bad.
    """

    described: list[Described]
    storage: Storage
    manifest: Manifest | None = None
    num_unlisted: int = 0


def _list_shards(path: str, storage: Storage, on_bad_shard: OnBadShard) -> _Listing | None:
    """Return the shards of a list of files, a manifest, a folder or a glob; None for tables."""
    listed = read_list(path, storage)
    if listed is not None:
        urls, storage = listed
        return None if is_table(urls[0]) else _Listing(_describe_urls(urls, storage), storage)
    manifest = read_manifest(path, storage)
    if manifest is not None:
        return _list_manifest(path, manifest, storage, on_bad_shard)
    refuse_unfinished(path, storage)
    urls = locate_data(path, storage)
    return None if is_table(urls[0]) else _Listing(_describe_urls(urls, storage), storage)


def _list_manifest(
    path: str, manifest: Manifest, storage: Storage, on_bad_shard: OnBadShard
) -> _Listing:
    unlisted = _unlisted_files(path, manifest, storage)
    check = on_bad_shard == "error"
    if check:
        _raise_all([f"{url}: {cause}" for url, cause in unlisted])
    described: list[Described] = [(url, DataError(cause)) for url, cause in unlisted]
    described += _describe_all(
        manifest.shards,
        lambda entry: shard_from_entry(path, manifest, entry, check=check, storage=storage),
        remote=is_remote(path),
    )
    return _Listing(described, storage, manifest, len(unlisted))


def _import(path: str, storage: Storage, on_bad_shard: OnBadShard = "error") -> FoundShards:
    # a door that shards do not pass, so that their readers need not know the writers
    from streamtrain.storage.imported import import_table

    return import_table(path, storage, on_bad_shard)


def describe_shard(url: str, storage: Storage = LOCAL) -> Shard:
    """Describe one file or folder as a shard. Raises DataError."""
    if not is_remote(url):
        is_array = os.path.isdir(url)
    elif url.endswith(".zarr"):
        is_array = True
    else:
        is_array = not url.endswith(".parquet") and is_folder(url, storage)
    if not is_array:
        return describe_parquet(url, storage)
    # zarr takes a third of a second to import, which data sets of Parquet files need not wait for
    from streamtrain.storage.zarr.zarr_reader import describe_zarr

    return describe_zarr(url, storage)


def bind_columns(
    found: FoundShards,
    *,
    features: Sequence[str] | None,
    target: str | None,
    on_bad_shard: OnBadShard = "error",
) -> Dataset:
    """Choose columns by name. Raises as `open_shards` does."""
    if found.needs_target and target is None:
        raise DataError(found.needs_target)
    present = found.table or found.shards[0].columns
    present = eligible(present, features, target, found.url)
    is_imported = bool(found.table)
    names = candidates(present, features, target, found.url, is_imported=is_imported)
    columns = choose_columns(names, features, target, found.url, present=present)
    if found.table:
        _raise_all(
            [
                f"{found.url}: {problem}"
                for problem in column_problems(found.table, columns, found.url)
            ]
        )
    problems, bad_urls = _bind_all(found.shards, columns)
    if on_bad_shard == "error" or len(bad_urls) == len(found.shards):
        _raise_all(problems)
    chosen = set(columns)
    types = {
        column.decoded_type
        for shard in found.shards
        if shard.url not in bad_urls
        for column in shard.columns
        if column.name in chosen
    }
    ends = np.cumsum([shard.num_rows for shard in found.shards], dtype=np.int64)
    return Dataset(
        url=found.url,
        shards=found.shards,
        columns=columns,
        decoded_type="float32" if types == {"float32"} else "float64",
        first_ids=np.concatenate([[0], ends[:-1]]).astype(np.int64),
        num_rows=int(ends[-1]),
        integrity=found.integrity,
        fingerprint=data_fingerprint(
            found.shards, imported_digest=found.digest if found.folder else ""
        ),
        truth=truth_of_columns(found.truth, found.shards[0].columns, columns),
        left_out=found.left_out,
        folder=found.folder,
        digest=found.digest,
        notices=found.notices,
        stamps=None if found.digest else file_stamps(found.shards),
    )


def truth_of_columns(
    truth: Truth | None, present: Sequence[Column], chosen: Sequence[str]
) -> Truth | None:
    """Return what is known of generated data; None for another target or fewer features."""
    names = [column.name for column in present]
    same = chosen[-1] == names[-1] and set(chosen) == set(names)
    return truth if same else None


def _bind_all(shards: Sequence[Shard], columns: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return the problems with `columns`, and the URLs of the shards that have any.

    A problem is a column that is missing or cannot be decoded.
    """
    problems: list[str] = []
    bad_urls: set[str] = set()
    cache: dict[tuple[Column, ...], list[str]] = {}
    for shard in shards:
        if shard.columns not in cache:
            cache[shard.columns] = column_problems(shard.columns, columns, shard.url)
        if cache[shard.columns]:
            problems += [f"{shard.url}: {problem}" for problem in cache[shard.columns]]
            bad_urls.add(shard.url)
    return problems, bad_urls


def _unlisted_files(path: str, manifest: Manifest, storage: Storage) -> list[tuple[str, str]]:
    """Return (file, cause) of the shards in the folder that its manifest does not list.

    Raises DataError when it lists one twice.
    """
    names = [entry.name for entry in manifest.shards]
    listed = {normal_url(os.path.join(path, name)) for name in names}
    if len(listed) != len(names):
        raise DataError(
            f"{os.path.join(path, MANIFEST_NAME)}: lists a shard twice. Restore the manifest, or"
            " delete it to read the shards unverified."
        )
    cause = (
        f"not listed in {MANIFEST_NAME}. Move it out of the folder, or delete {MANIFEST_NAME} to"
        " read all shards unverified."
    )
    return [(url, cause) for url in present_shards(path, storage) if url not in listed]


def present_shards(path: str, storage: Storage) -> list[str]:
    """Return the shards in a folder with a manifest; none over http(s), which cannot list files."""
    if is_web(path):
        return []
    try:
        return [normal_url(url) for url in locate(path, storage=storage)]
    except StoreError:
        raise
    except DataError:
        return []  # the folder is empty, and each listed shard is reported as missing


def _describe_urls(urls: Sequence[str], storage: Storage) -> list[Described]:
    return _describe_all(
        urls, lambda url: describe_shard(url, storage), remote=any(map(is_remote, urls))
    )


def _describe_all(
    items: Sequence[Item], describe: Callable[[Item], Shard], *, remote: bool
) -> list[Described]:
    """Describe shards, several at once. A remote one is read twice before it counts as bad.

    After a StoreError no further shard is requested from the store, and the error is raised.
    """
    store_lost = Event()

    def attempt(item: Item) -> Shard | DataError:
        if store_lost.is_set():
            return StoreError("not requested")
        try:
            try:
                return describe(item)
            except StoreError:
                raise
            except DataError as error:
                return describe(item) if remote else error
        except StoreError:
            store_lost.set()
            raise
        except DataError as error:
            return error

    if len(items) < _MIN_PARALLEL_SHARDS and not (remote and len(items) > 1):
        results = [attempt(item) for item in items]
    else:
        with ThreadPoolExecutor(FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
            futures = [pool.submit(attempt, item) for item in items]
            results = [future.result() for future in futures]
    names = [getattr(item, "name", str(item)) for item in items]
    return list(zip(names, results, strict=True))


def _raise_all(problems: Sequence[str]) -> None:
    """Raise one DataError for all problems; do nothing when there are none.

    Many are counted, and the first are shown.
    """
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        lines = [f"{len(problems):,} problems in the shards:"]
        many = len(problems) > _MANY_PROBLEMS
        lines += [f"  {problem}" for problem in problems[: _SHOWN_OF_MANY if many else None]]
        if many:
            more = len(problems) - _SHOWN_OF_MANY
            lines.append(f"  and {more:,} more, which streamtrain verify lists")
        raise DataError("\n".join(lines))
