"""What Parquet footers know beyond the layout: codecs, encodings, nulls, extremes.

`inspect`: what the footers of a data set say, and advice. No row is read.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from streamtrain.base.units import format_bytes
from streamtrain.errors import DataError
from streamtrain.storage.dataset import FOOTERS_AT_ONCE
from streamtrain.storage.manifest import Manifest, read_manifest
from streamtrain.storage.parquet.parquet_footer import read_metadata
from streamtrain.storage.remote.urls import is_remote
from streamtrain.storage.zarr.zarr_reader import zarr_codec
from streamtrain.types import Dataset


@dataclass(slots=True, kw_only=True)
class ParquetFacts:
    """Of the bound columns of all shards; a count or an extreme is None where a row group has no
    statistics, an extreme also where it is not finite.
    """

    codecs: set[str] = field(default_factory=set)
    dictionary: bool = False
    nulls: dict[str, int | None] = field(default_factory=dict)
    low: dict[str, float | None] = field(default_factory=dict)
    high: dict[str, float | None] = field(default_factory=dict)


def read_facts(dataset: Dataset) -> ParquetFacts:
    """Read every footer of a Parquet data set again: one after the other, of an object store
    several at once.

    Raises DataError when one is not what was described.
    """
    facts = ParquetFacts(nulls=dict.fromkeys(dataset.columns, 0))
    unknown: set[str] = set()
    for shard, metadata in zip(dataset.shards, _footers(dataset), strict=True):
        places = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
        if missing := [name for name in dataset.columns if name not in places]:
            raise DataError(
                f"{shard.url}: no column {missing[0]!r}, which was described. Restore the file, or"
                " write the data set again."
            )
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            if row_group.num_rows:
                for name in dataset.columns:
                    _add(facts, unknown, name, row_group.column(places[name]))
    for name in dataset.columns:
        for extremes in (facts.low, facts.high):
            known = extremes.get(name)
            extremes[name] = (
                known
                if name not in unknown and known is not None and math.isfinite(known)
                else None
            )
    return facts


def _footers(dataset: Dataset) -> Iterator[pq.FileMetaData]:
    if not is_remote(dataset.shards[0].url):
        yield from (read_metadata(shard)[0] for shard in dataset.shards)
        return
    with ThreadPoolExecutor(FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
        yield from (metadata for metadata, _ in pool.map(read_metadata, dataset.shards))


def _add(facts: ParquetFacts, unknown: set[str], name: str, chunk: pq.ColumnChunkMetaData) -> None:
    facts.codecs.add(chunk.compression)
    facts.dictionary |= chunk.has_dictionary_page
    statistics = chunk.statistics
    nulls = facts.nulls[name]
    known = statistics is not None and statistics.has_null_count and nulls is not None
    facts.nulls[name] = nulls + statistics.null_count if known else None
    # Extremes of types that Parquet knows only as bytes (float16) are not numbers here.
    if statistics is not None and statistics.has_min_max and not isinstance(statistics.min, bytes):
        low, high = float(statistics.min), float(statistics.max)
        facts.low[name] = min(low, facts.low.get(name, low))
        facts.high[name] = max(high, facts.high.get(name, high))
    elif statistics is None or statistics.null_count != chunk.num_values:
        unknown.add(name)


_SMALL_SPAN_ROWS = 16_384
_GOOD_SPAN_ROWS = 262_144
#: Seconds to open a column chunk (Parquet) or a chunk (Zarr), and to decode a value: our readers on
#: one core of an AMD EPYC, row groups of 256 to 262,144 rows, snappy or zstd. Only their ratio is
#: used, and machines differ less in that than in each.
_OPEN_SECONDS = {"parquet": 7e-6, "zarr": 150e-6}
_VALUE_SECONDS = 5e-9
_SLOW_CODECS = ("GZIP", "BROTLI", "ZSTD", "zstd", "gzip", "blosc")


def inspect(dataset: Dataset, *, window_rows: int = 2_097_152) -> dict[str, Any]:
    """A JSON-ready description of the bound columns and of the layout, with `advice`: sentences,
    most important first.

    Nulls and extremes come from the manifest or from footers, and are null where neither knows.
    """
    sizes = np.concatenate([np.diff(shard.boundaries) for shard in dataset.shards])
    sizes = sizes[sizes > 0]
    shard_rows = np.array([shard.num_rows for shard in dataset.shards])
    manifest = (
        read_manifest(dataset.url, dataset.shards[0].storage)
        if dataset.integrity == "verified"
        else None
    )
    facts = read_facts(dataset) if dataset.shards[0].format == "parquet" else None
    width = np.dtype(dataset.decoded_type).itemsize
    document = {
        "url": dataset.url,
        "format": dataset.shards[0].format,
        "num_rows": dataset.num_rows,
        "num_shards": len(dataset.shards),
        "num_spans": len(sizes),
        "span_rows": {
            "min": int(sizes.min()),
            "median": float(np.median(sizes)),
            "max": int(sizes.max()),
        },
        "shard_rows": {
            "min": int(shard_rows.min()),
            "median": float(np.median(shard_rows)),
            "max": int(shard_rows.max()),
        },
        "shard_skew": float(shard_rows.max() / shard_rows.mean()),
        "stored_bytes": sum(shard.num_bytes for shard in dataset.shards),
        "decoded_bytes": dataset.num_rows * len(dataset.columns) * width,
        "decoded_type": dataset.decoded_type,
        "codec": sorted(facts.codecs) if facts else [zarr_codec(dataset.shards[0])],
        "dictionary": facts.dictionary if facts else False,
        "columns": _columns(dataset, manifest, facts),
        "integrity": dataset.integrity,
        "fingerprint": dataset.fingerprint,
        "truth": asdict(dataset.truth) if dataset.truth else None,
    }
    return document | {"advice": _advice(document, window_rows)}


def ingest_gain(format: str, span_rows: float, num_columns: int) -> float:
    """How many times faster rows decode from spans of 262,144 rows than from spans of `span_rows`:
    arithmetic, nothing is read.

    >>> round(ingest_gain("parquet", 1024, 5), 1), round(ingest_gain("parquet", 262_144, 5), 1)
    (2.4, 1.0)
    """
    a_span = _OPEN_SECONDS[format] * (num_columns if format == "parquet" else 1)
    a_row = _VALUE_SECONDS * num_columns
    return (a_span / span_rows + a_row) / (a_span / _GOOD_SPAN_ROWS + a_row)


def _columns(
    dataset: Dataset, manifest: Manifest | None, facts: ParquetFacts | None
) -> list[dict[str, Any]]:
    stored = {
        name: sorted(
            {
                column.stored_type
                for shard in dataset.shards
                for column in shard.columns
                if column.name == name
            }
        )
        for name in dataset.columns
    }
    rows = []
    for name in dataset.columns:
        nulls, low, high = None, None, None
        if manifest:
            statistics = manifest.statistics[name]
            nulls, low, high = statistics.nulls, statistics.min, statistics.max
        elif facts:
            nulls, low, high = facts.nulls[name], facts.low[name], facts.high[name]
        rows.append(
            {
                "name": name,
                "role": "target" if name == dataset.target else "feature",
                "stored_type": ", ".join(stored[name]),
                "decoded_type": dataset.decoded_type,
                "nulls": nulls,
                "min": low,
                "max": high,
            }
        )
    return rows


def _advice(document: dict[str, Any], window_rows: int) -> list[str]:
    """Sentences that name a figure and the command that cures it."""
    spans, cure = (
        document["span_rows"],
        f"streamtrain ingest writes row groups of {_GOOD_SPAN_ROWS:,} rows",
    )
    gain = ingest_gain(
        document["format"], document["num_rows"] / document["num_spans"], len(document["columns"])
    )
    faster = (
        f"`streamtrain ingest` would make it about {gain:,.0f} times faster"
        if gain >= 1.5
        else cure
    )
    unit = {"parquet": "Row groups", "zarr": "Chunks"}[document["format"]]
    nulls = [
        f"{column['name']} ({column['nulls']:,})"
        for column in document["columns"]
        if column["nulls"]
    ]
    constant = [
        column
        for column in document["columns"]
        if column["min"] is not None and column["min"] == column["max"]
    ]
    same = [column["name"] for column in constant if column["role"] == "feature"]
    checks: Sequence[tuple[bool, str]] = (
        (
            bool(nulls),
            (
                f"Null or NaN values in {', '.join(nulls)}: training refuses them; --on-null drop"
                " leaves their rows out, --on-null impute puts a feature's mean in."
            ),
        ),
        (
            spans["max"] > window_rows,
            (
                f"A row group has {spans['max']:,} rows, more than the window of {window_rows:,}:"
                f" it is read in slices, and the shuffle is less thorough; {cure}."
            ),
        ),
        (
            spans["median"] < _SMALL_SPAN_ROWS and document["num_spans"] > document["num_shards"],
            (
                f"{unit} have {spans['median']:,.0f} row{'s' * (spans['median'] != 1)} (median):"
                f" decoding will be the bottleneck; {faster}."
            ),
        ),
        (
            spans["median"] < _SMALL_SPAN_ROWS
            and document["num_shards"] > 100
            and document["num_spans"] == document["num_shards"],
            (
                f"{document['num_shards']:,} shards of {spans['median']:,.0f} rows (median):"
                f" opening them will be the bottleneck; {faster}."
            ),
        ),
        (
            document["shard_skew"] > 4,
            (
                f"The largest shard has {document['shard_skew']:.1f} times the mean rows: parallel"
                " work will be uneven; streamtrain ingest evens it."
            ),
        ),
        (
            any(slow in codec for codec in document["codec"] for slow in _SLOW_CODECS),
            (
                f"The codec is {', '.join(document['codec'])}: it decodes several times slower than"
                " snappy; streamtrain ingest writes snappy."
            ),
        ),
        (
            bool(document["dictionary"]),
            (
                "Columns are dictionary-encoded, which decodes slower than plain numbers;"
                " streamtrain ingest writes plain."
            ),
        ),
        (
            document["decoded_type"] == "float64",
            (
                f"Columns are decoded as float64 ({format_bytes(document['decoded_bytes'])} in"
                " all): twice the bytes of float32."
            ),
        ),
        (
            len(same) < len(constant),
            (
                f"The target, {document['columns'][-1]['name']}, is constant: there is nothing to"
                " learn."
            ),
        ),
        (bool(same), f"Constant: {', '.join(same)}; a constant feature teaches nothing."),
        (
            document["integrity"] == "unverified",
            (
                "Integrity is unverified: without checksums a flipped bit is a wrong number;"
                " streamtrain ingest adds checksums and a manifest."
            ),
        ),
    )
    return [sentence for holds, sentence in checks if holds]
