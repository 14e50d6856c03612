"""Opening a data set: find its shards, read their footers, bind their columns by name."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

import numpy as np

from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, DataError, StoreError, shown
from streamtrain.storage.locate import locate, read_list, warn_of_links
from streamtrain.storage.manifest import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    refuse_unfinished,
    shard_from_entry,
)
from streamtrain.storage.parquet.parquet_footer import describe_parquet
from streamtrain.storage.remote.filesystem import is_folder, take_query
from streamtrain.storage.remote.urls import is_remote, is_web, normal_url, relative_url
from streamtrain.storage.zarr.zarr_reader import describe_zarr
from streamtrain.types import LOCAL, Column, Dataset, Integrity, OnBadShard, Shard, Storage, Truth

FOOTERS_AT_ONCE = 16
_MANY = 8

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The shards that a path means, before columns are chosen; shards without rows are left out."""

    url: str
    shards: tuple[Shard, ...]
    integrity: Integrity
    truth: Truth | None
    left_out: tuple[tuple[str, str], ...] = ()


def open_shards(
    path: str,
    *,
    features: Sequence[str] | None = None,
    target: str | None = None,
    on_bad_shard: OnBadShard = "error",
    storage: Storage = LOCAL,
) -> Dataset:
    """Open a Parquet file, a Zarr v3 array or group, a folder of them, a glob, or a list of files.

    Reads footers only, several at once.

    The target defaults to the last column of the first shard, the features to all its other
    columns. A folder with a manifest is taken from it where sizes and footer hashes still match.
    Raises DataError naming *every* bad shard, and ConfigError when a column is chosen twice,
    StoreError when a store does not answer.

    With `quarantine`, a bad shard whose rows are known, from a manifest or from its own footer,
    keeps its place, and reading it will fail; any other is left out, and listed in `left_out`.
    """
    return bind_columns(
        find_shards(path, on_bad_shard, storage),
        features=features,
        target=target,
        on_bad_shard=on_bad_shard,
    )


def find_shards(
    path: str | os.PathLike[str], on_bad_shard: OnBadShard = "error", storage: Storage = LOCAL
) -> Found:
    """The shards of a path, described.

    Warns of Hive partitions, which are not read, and of one file under two names.

    Raises DataError naming every shard that cannot be read, and when there are no rows.
    """
    path, storage = take_query(os.fspath(path), storage)
    path = normal_url(path)
    listed = read_list(path, storage)
    manifest = read_manifest(path, storage) if listed is None else None
    if listed is not None:
        urls, storage = listed
        described = _describe_all(
            urls, lambda url: describe_shard(url, storage), remote=any(map(is_remote, urls))
        )
    elif manifest is None:
        refuse_unfinished(path, storage)
        described = _describe_all(
            locate(path, storage=storage),
            lambda url: describe_shard(url, storage),
            remote=is_remote(path),
        )
    else:
        strangers = _strangers(path, manifest, storage)
        check = on_bad_shard == "error"
        if check:
            _refuse([f"{url}: {cause}" for url, cause in strangers])
        described = [
            *((url, DataError(cause)) for url, cause in strangers),
            *_describe_all(
                manifest.shards,
                lambda entry: shard_from_entry(path, manifest, entry, check=check, storage=storage),
                remote=is_remote(path),
            ),
        ]
    bad = [(url, str(result)) for url, result in described if isinstance(result, DataError)]
    if (
        on_bad_shard == "error"
        or len(bad) == len(described)
        or (manifest is not None and len(bad) > len(strangers))
    ):
        _refuse(
            [cause for _, cause in bad]
            # of a manifest's shards only the manifest's own faults come here: they are never
            # passed over
        )
    shards = [result for _, result in described if isinstance(result, Shard)]
    _warn_of_partitions(path, shards)
    warn_of_links(path, shards)
    shards = [shard for shard in shards if shard.num_rows]
    if not shards:
        raise DataError(f"{path}: no rows. Name a data set that has some.")
    return Found(
        url=path,
        shards=tuple(shards),
        integrity="verified" if manifest else "unverified",
        truth=manifest.truth if manifest else None,
        left_out=tuple(bad),
    )


def describe_shard(url: str, storage: Storage = LOCAL) -> Shard:
    """One file or folder as a shard."""
    is_array = (
        url.endswith(".zarr") or (not url.endswith(".parquet") and is_folder(url, storage))
        if is_remote(url)
        else os.path.isdir(url)
    )
    return describe_zarr(url, storage) if is_array else describe_parquet(url, storage)


def bind_columns(
    found: Found,
    *,
    features: Sequence[str] | None,
    target: str | None,
    on_bad_shard: OnBadShard = "error",
) -> Dataset:
    """Choose columns by name. Raises as `open_shards` does."""
    columns = choose_columns(
        [column.name for column in found.shards[0].columns], features, target, found.url
    )
    problems, odd = _bind_all(found.shards, columns)
    if on_bad_shard == "error" or len(odd) == len(found.shards):
        _refuse(problems)
    chosen = set(columns)
    types = {
        column.decoded_type
        for shard in found.shards
        if shard.url not in odd
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
        fingerprint=_fingerprint(found),
        truth=found.truth,
        left_out=found.left_out,
    )


def choose_columns(
    names: Sequence[str], features: Sequence[str] | None, target: str | None, url: str
) -> tuple[str, ...]:
    """The features in order, then the target: by default the last of `names`, and all the
    others.
    """
    if not names:
        raise DataError(
            f"{url}: no columns of numbers. A data set needs a target and at least one feature."
        )
    twice = sorted({name for name in names if names.count(name) > 1 and name != target})
    if twice and (features is None or (target is None and names[-1] in twice)):
        again = ", ".join(map(repr, twice))
        raise DataError(
            f"{url}: it has columns of one name twice: {again}. Rename them, or choose others with"
            " --features and --target."
        )
    target = names[-1] if target is None else target
    features = [name for name in names if name != target] if features is None else list(features)
    if target in features:
        raise ConfigError(
            f"{target!r} is the target and also a feature. Leave it out of --features, or choose"
            " another --target."
        )
    twice = sorted({name for name in features if features.count(name) > 1})
    if twice:
        raise ConfigError(
            f"--features names {', '.join(map(repr, twice))} twice. Name every feature once."
        )
    if not features and target in names:
        raise DataError(
            f"{url}: {target!r} is its only column. A data set needs a target and at least one"
            " feature."
        )
    return (*features, target)


def _bind_all(shards: Sequence[Shard], columns: Sequence[str]) -> tuple[list[str], set[str]]:
    """Every shard in which a column is missing or cannot be decoded: what to say of it, and which
    they are.
    """
    problems, odd = [], set()
    known: dict[tuple[Column, ...], list[str]] = {}
    for shard in shards:
        if shard.columns not in known:
            known[shard.columns] = _column_problems(shard.columns, columns, shard.url)
        problems += [f"{shard.url}: {problem}" for problem in known[shard.columns]]
        odd |= {shard.url} if known[shard.columns] else set()
    return problems, odd


def _column_problems(held: Sequence[Column], columns: Sequence[str], url: str) -> list[str]:
    by_name = {column.name: column for column in held}
    problems = []
    for name in columns:
        column = by_name.get(name)
        if column is None:
            names = list(map(shown, by_name))
            problems.append(
                f"no column {name!r}.{did_you_mean(name, names)} It has"
                f" {', '.join(names)}.{_partition(url, name)}"
            )
        elif column.decoded_type is None:
            numeric = [other.name for other in held if other.decoded_type is not None]
            choice = (
                f"Choose among {', '.join(map(shown, numeric))} with --features and --target"
                if numeric
                else "Write it as numbers"
            )
            kind = f"column {name!r} has type {column.stored_type}: {column.refusal}."
            problems.append(f"{kind} {choice}.")
    return problems


def _partition(url: str, name: str) -> str:
    """What to say of a missing column that is a Hive partition: a value in the names of folders,
    not in the files.
    """
    found = f"/{name}=" in url
    return (
        " It is a Hive partition, which is not read: write it into the files as a column."
        if found
        else ""
    )


def _warn_of_partitions(root: str, shards: Sequence[Shard]) -> None:
    steps = (
        step
        for shard in shards
        if shard.url.startswith(f"{root}/")
        for step in relative_url(shard.url, root).split("/")[:-1]
    )
    parts = {step.partition("=")[0] for step in steps if "=" in step}
    unread = sorted(parts - {column.name for shard in shards for column in shard.columns})
    if unread:
        names = ", ".join(map(shown, unread))
        text = (
            f"{root}: Hive partitions are not read ({names}): write them into the files as columns"
            " to learn from them."
        )
        warnings.warn(text, stacklevel=4)


def _strangers(path: str, manifest: Manifest, storage: Storage) -> list[tuple[str, str]]:
    """Files that the manifest does not list, extras or duplicates, with the cause.

    Raises DataError when it lists one twice.
    """
    names = [entry.name for entry in manifest.shards]
    listed = {normal_url(os.path.join(path, name)) for name in names}
    if len(listed) != len(names):
        raise DataError(
            f"{os.path.join(path, MANIFEST_NAME)}: lists a shard twice. Restore it, or delete it to"
            " read them unverified."
        )
    cause = (
        f"not listed in {MANIFEST_NAME}. Move it out of the folder, or delete {MANIFEST_NAME} to"
        " read all shards unverified."
    )
    return [(url, cause) for url in present_shards(path, storage) if url not in listed]


def present_shards(path: str, storage: Storage) -> list[str]:
    """The shards that lie in a folder with a manifest; none where nobody can say: http(s) has no
    listing.
    """
    if is_web(path):
        return []
    try:
        return [normal_url(url) for url in locate(path, storage=storage)]
    except StoreError:
        raise
    except DataError:
        return []  # nothing there: each listed shard is reported as missing


def _describe_all(
    items: Sequence[Item], describe: Callable[[Item], Shard], *, remote: bool
) -> list[tuple[str, Shard | DataError]]:
    """(path or name, shard or why there is none), several at once.

    A store that does not answer is asked for no other: StoreError.
    """
    lost = Event()

    def attempt(item: Item) -> Shard | DataError:
        if lost.is_set():
            return StoreError("not asked for")
        try:
            return describe(item)
        except StoreError:
            lost.set()
            raise
        except DataError as error:
            return error

    if len(items) < _MANY and not (remote and len(items) > 1):
        results = [attempt(item) for item in items]
    else:
        with ThreadPoolExecutor(FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
            results = [future.result() for future in [pool.submit(attempt, item) for item in items]]
    return [
        (getattr(item, "name", str(item)), result)
        for item, result in zip(items, results, strict=True)
    ]


def _refuse(problems: Sequence[str]) -> None:
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError(
            "\n".join(
                [
                    f"{len(problems):,} problems in the shards:",
                    *(f"  {problem}" for problem in problems),
                ]
            )
        )


def _fingerprint(found: Found) -> str:
    """The same for the same shards, wherever the folder lies."""
    # A URL's `//` counts as `/` here, on both sides: only what stands below the common folder is
    # kept.
    urls = [f"/{shard.url}" if is_remote(shard.url) else shard.url for shard in found.shards]
    root = os.path.dirname(urls[0]) if len(urls) == 1 else os.path.commonpath(urls)
    rows = [
        (os.path.relpath(url, root), shard.num_rows, shard.num_bytes, shard.source)
        for url, shard in zip(urls, found.shards, strict=True)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]
