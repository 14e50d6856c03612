"""Fingerprints by which a run, a stream or a worker checks that the data are those of before."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from streamtrain.storage.manifest import Manifest
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Json, Shard


def data_fingerprint(shards: Sequence[Shard], *, imported_digest: str = "") -> str:
    """Return a hash of the shards' names, sizes and sources, whatever their folder.

    `imported_digest`: the hash of the contents of an imported table.
    """
    # These paths turn the `//` of a URL into `/`. That does no harm: it happens to all URLs, and
    # only the part after their common folder is hashed.
    urls = [f"/{shard.url}" if is_remote(shard.url) else shard.url for shard in shards]
    root = os.path.dirname(urls[0]) if len(urls) == 1 else os.path.commonpath(urls)
    rows = [
        (os.path.relpath(url, root), shard.num_rows, shard.num_bytes, shard.source)
        for url, shard in zip(urls, shards, strict=True)
    ]
    return _hash([*rows, imported_digest] if imported_digest else rows)[:32]


def contents_digest(manifest: Manifest) -> str:
    """Return a hash of the contents of all shards, from the hashes that their manifest lists."""
    return _hash([shard.sha256 for shard in manifest.shards])


def file_stamps(shards: Sequence[Shard]) -> Json | None:
    """Return what shows that a file was written again with the same size and footer.

    None where no shard has a stamp. `newest`: the file that was written last and its modification
    time in ns, where times are known.
    """
    stamps = [shard.stamp for shard in shards]
    if not any(stamps):
        return None
    dated = [(int(shard.stamp), shard.url) for shard in shards if shard.stamp.isdigit()]
    newest = max(dated)[::-1] if len(dated) == len(stamps) else None
    return {"stamps": _hash(stamps)[:32], "newest": newest and list(newest)}


def written_again(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Return which files were written again between two `file_stamps`; empty where none was.

    >>> was = {"stamps": "5f", "newest": ["a.parquet", 1_700_000_000_000_000_000]}
    >>> now = {"stamps": "e0", "newest": ["a.parquet", 1_700_000_060_000_000_000]}
    >>> written_again(was, now)
    'a.parquet was written again at 2023-11-14 22:14:20 UTC'
    """
    if was is None or now is None or was["stamps"] == now["stamps"]:
        return ""
    if was["newest"] and now["newest"] and now["newest"][1] > was["newest"][1]:
        path, nanoseconds = now["newest"]
        date = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
        return f"{path} was written again at {date:%Y-%m-%d %H:%M:%S} UTC"
    return "files of the data have other dates or versions"


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
