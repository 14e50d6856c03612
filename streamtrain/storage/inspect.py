"""`inspect`: describe a data set from its footers and its first rows, with advice."""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from streamtrain.base.finite import finite_or_none
from streamtrain.base.units import format_bytes
from streamtrain.errors import DataError, StreamTrainError
from streamtrain.plan.batch_sizes import first_sizes, largest_size
from streamtrain.storage.column_table import TextFacts, extremes, left_out, others, sample
from streamtrain.storage.dataset import FOOTERS_AT_ONCE
from streamtrain.storage.inspection import Inspection, Sizes, UsedColumn
from streamtrain.storage.manifest import Manifest, Statistics, read_manifest
from streamtrain.storage.moments import Moments
from streamtrain.storage.nothing_to_learn import nothing_to_learn
from streamtrain.storage.parquet.parquet_footer import read_metadata
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.urls import is_remote
from streamtrain.storage.zarr.zarr_reader import zarr_codec
from streamtrain.types import Column, Dataset

#: Share of the rows that a null may cost before imputing the features is proposed instead.
_MOST_DROPPED = 0.1
#: Share of nulls above which a feature is better left out than the rows in which it is null.
_MOSTLY_NULL = 0.5
#: Constant features that the advice names; the others are counted.
_NAMED = 8
_SMALL_SPAN_ROWS = 16_384
#: A local table of at most this many values is read where its footers lack counts of nulls or
#: extremes. That takes 20 ms.
_READ_VALUES = 1 << 20
_GOOD_SPAN_ROWS = 262_144
#: Seconds to open a column chunk (Parquet) or a chunk (Zarr), and to decode one value: our readers
#: on one core of an AMD EPYC, row groups of 256 to 262,144 rows, snappy or zstd. Only their ratio
#: is used, and machines differ less in the ratio than in either.
_OPEN_SECONDS = {"parquet": 7e-6, "zarr": 150e-6}
_VALUE_SECONDS = 5e-9
#: Smaller tables are decoded in a fraction of a second, whatever their type and encoding.
_MUCH_BYTES = 256 << 20
_SLOW_CODECS = ("GZIP", "BROTLI", "ZSTD", "zstd", "gzip", "blosc")


@dataclass(slots=True, kw_only=True)
class ParquetFacts:
    """What Parquet footers say of the bound columns, over all shards.

    `nulls`, `low` and `high` are by column name; a value is None where a row group has no
    statistics, and an extreme also where it is not finite.
    """

    codecs: set[str] = field(default_factory=set)
    dictionary: bool = False
    nulls: dict[str, int | None] = field(default_factory=dict)
    low: dict[str, float | None] = field(default_factory=dict)
    high: dict[str, float | None] = field(default_factory=dict)


def read_facts(dataset: Dataset, texts: TextFacts) -> ParquetFacts:
    """Read every footer of a Parquet data set again; in an object store several at once.

    Each is added to `texts` too.

    Raises DataError when one is no longer the one that was described.
    """
    facts = ParquetFacts(nulls=dict.fromkeys(dataset.columns, 0))
    unknown: set[str] = set()
    for shard, metadata in zip(dataset.shards, _footers(dataset), strict=True):
        indices = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
        if missing := [name for name in dataset.columns if name not in indices]:
            raise DataError(
                f"{shard.url}: the column {missing[0]!r} that was described is missing. Restore the"
                " file, or write the data set again."
            )
        texts.add(metadata, indices)
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            if row_group.num_rows:
                for name in dataset.columns:
                    _add(facts, unknown, name, row_group.column(indices[name]))
    for name in dataset.columns:
        for values in (facts.low, facts.high):
            value = values.get(name)
            if name in unknown or value is None or not math.isfinite(value):
                value = None
            values[name] = value
    return facts


def _footers(dataset: Dataset) -> Iterator[pq.FileMetaData]:
    if not is_remote(dataset.shards[0].url):
        yield from (read_metadata(shard)[0] for shard in dataset.shards)
        return
    with ThreadPoolExecutor(FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
        yield from (metadata for metadata, _ in pool.map(read_metadata, dataset.shards))


def _add(facts: ParquetFacts, unknown: set[str], name: str, chunk: pq.ColumnChunkMetaData) -> None:
    """Add a column chunk of the column `name`; `unknown`: columns whose extremes are unknown."""
    facts.codecs.add(chunk.compression)
    facts.dictionary |= chunk.has_dictionary_page
    statistics = chunk.statistics
    nulls = facts.nulls[name]
    if statistics is None or not statistics.has_null_count or nulls is None:
        facts.nulls[name] = None
    else:
        facts.nulls[name] = nulls + statistics.null_count
    # Types that Parquet stores as bytes (float16) have extremes that are bytes, not numbers.
    low, high = (None, None) if statistics is None else extremes(statistics)
    if low is not None and high is not None and not isinstance(low, bytes):
        facts.low[name] = _smaller(_number(low), facts.low.get(name))
        facts.high[name] = _larger(_number(high), facts.high.get(name))
    elif statistics is None or statistics.null_count != chunk.num_values:
        unknown.add(name)


def _number(value: Any) -> float:
    """Return an extreme as the number that its column is decoded to: a time as its seconds."""
    if isinstance(value, np.datetime64):
        return int(value.astype(np.int64)) / 1e9
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return 86_400.0 * (value - date(1970, 1, 1)).days
    return float(value)


def _smaller(value: float, other: float | None) -> float:
    return value if other is None else min(value, other)


def _larger(value: float, other: float | None) -> float:
    return value if other is None else max(value, other)


def inspect(
    dataset: Dataset, *, table: Sequence[Column] = (), window_rows: int = 2_097_152
) -> dict[str, Any]:
    """Return the columns and the layout of a data set: an `Inspection`, ready for JSON.

    Footers and the first rows are read. `table`: the columns of an imported table, whose shards
    lack some of them.

    Raises DataError when a footer has changed since the data set was opened.
    """
    sizes = np.concatenate([np.diff(shard.boundaries) for shard in dataset.shards])
    sizes = sizes[sizes > 0]
    shard_rows = np.array([shard.num_rows for shard in dataset.shards])
    manifest = (
        read_manifest(dataset.folder or dataset.url, dataset.shards[0].storage)
        if dataset.integrity == "verified"
        else None
    )
    unbound = others(dataset, table or dataset.shards[0].columns)
    texts = TextFacts({column.name for column in unbound})
    facts = read_facts(dataset, texts) if dataset.shards[0].format == "parquet" else None
    width = np.dtype(dataset.decoded_type).itemsize
    inspection = Inspection(
        url=dataset.url,
        format=dataset.shards[0].format,
        num_rows=dataset.num_rows,
        num_shards=len(dataset.shards),
        num_spans=len(sizes),
        span_rows=_sizes(sizes),
        shard_rows=_sizes(shard_rows),
        shard_skew=float(shard_rows.max() / shard_rows.mean()),
        stored_bytes=sum(shard.num_bytes for shard in dataset.shards),
        decoded_bytes=dataset.num_rows * len(dataset.columns) * width,
        decoded_type=dataset.decoded_type,
        codec=sorted(facts.codecs) if facts else [zarr_codec(dataset.shards[0])],
        dictionary=facts.dictionary if facts else False,
        columns=_columns(dataset, table, manifest, facts),
        left_out=left_out(unbound, texts),
        batch_sizes=list(first_sizes(largest_size(dataset.num_rows))),
        shuffle_seed=manifest.shuffle_seed if manifest else None,
        integrity=dataset.integrity,
        fingerprint=dataset.fingerprint,
        truth=dataset.truth,
        advice=[],
    )
    document = asdict(inspection)
    return document | {
        "advice": _advice(document, window_rows),
        "problem": nothing_to_learn(document),
    }


def _sizes(rows: np.ndarray) -> Sizes:
    return Sizes(min=int(rows.min()), median=float(np.median(rows)), max=int(rows.max()))


def ingest_gain(format: str, span_rows: float, num_columns: int) -> float:
    """Return how many times faster rows decode from spans of 262,144 rows than of `span_rows`.

    An estimate from measured constants; nothing is read.

    >>> round(ingest_gain("parquet", 1024, 5), 1), round(ingest_gain("parquet", 262_144, 5), 1)
    (2.4, 1.0)
    """
    seconds_per_span = _OPEN_SECONDS[format] * (num_columns if format == "parquet" else 1)
    seconds_per_row = _VALUE_SECONDS * num_columns
    now = seconds_per_span / span_rows + seconds_per_row
    best = seconds_per_span / _GOOD_SPAN_ROWS + seconds_per_row
    return now / best


def _columns(
    dataset: Dataset,
    table: Sequence[Column],
    manifest: Manifest | None,
    facts: ParquetFacts | None,
) -> list[UsedColumn]:
    stored_types: dict[str, set[str]] = {name: set() for name in dataset.columns}
    for columns in [table] if table else [shard.columns for shard in dataset.shards]:
        for column in columns:
            if column.name in stored_types:
                stored_types[column.name].add(column.stored_type)
    samples, known = sample(dataset), _known(dataset, manifest, facts)
    if any(None in found for found in known.values()):
        read = _read_moments(dataset)
        known |= {name: _extremes(Statistics.of(moments)) for name, moments in read.items()}
    return [
        UsedColumn(
            name=name,
            role="target" if name == dataset.target else "feature",
            stored_type=", ".join(sorted(stored_types[name])),
            decoded_type=dataset.decoded_type,
            nulls=nulls,
            min=low,
            max=high,
            sample=[finite_or_none(value) for value in samples.get(name, [])],
        )
        for name, (nulls, low, high) in known.items()
    ]


_Extremes = tuple[int | None, float | None, float | None]


def _known(
    dataset: Dataset, manifest: Manifest | None, facts: ParquetFacts | None
) -> dict[str, _Extremes]:
    """Return the nulls, minimum and maximum of each column, as far as nothing has to be read."""
    if manifest:
        return {name: _extremes(manifest.statistics[name]) for name in dataset.columns}
    if facts:
        return {
            name: (facts.nulls[name], facts.low[name], facts.high[name]) for name in dataset.columns
        }
    return dict.fromkeys(dataset.columns, (None, None, None))


def _extremes(statistics: Statistics) -> _Extremes:
    return statistics.nulls, statistics.min, statistics.max


def _read_moments(dataset: Dataset) -> dict[str, Moments]:
    """Read a small local data set; return the moments of each column. Empty for other data sets."""
    values = dataset.num_rows * len(dataset.columns)
    if values > _READ_VALUES or is_remote(dataset.shards[0].url):
        return {}
    totals, readers = [Moments() for _ in dataset.columns], Readers(dataset)
    try:
        for number, shard in enumerate(dataset.shards):
            columns = readers.read(number, 0, shard.num_rows)
            totals = [
                total + Moments.of(column) for total, column in zip(totals, columns, strict=True)
            ]
    except StreamTrainError:
        return {}  # a run that reads it reports the error
    return dict(zip(dataset.columns, totals, strict=True))


def null_policy(document: Mapping[str, Any]) -> str | None:
    """Return the value of --on-null for what `inspect` counted; None where it found no nulls.

    It is `drop`, the only one for nulls of the target, unless it could drop many of the rows.
    """
    *features, target = (column["nulls"] or 0 for column in document["columns"])
    if not target and sum(features) > _MOST_DROPPED * document["num_rows"]:
        return "impute"
    return "drop" if target or any(features) else None


def sparse_features(document: Mapping[str, Any]) -> list[str]:
    """Return the features that cost most of the rows where those with a null are left out.

    None where the features could be imputed, or where no other feature is left.
    """
    if null_policy(document) != "drop":
        return []
    *features, _ = document["columns"]
    most = _MOSTLY_NULL * document["num_rows"]
    sparse = [column["name"] for column in features if (column["nulls"] or 0) > most]
    return sparse if len(sparse) < len(features) else []


def _advice(document: dict[str, Any], window_rows: int) -> list[str]:
    """Return sentences that each name a figure and the command that helps, most important first."""
    return [
        *_row_advice(document, window_rows),
        *_shard_advice(document),
        *_column_advice(document),
        *_integrity_advice(document),
    ]


def _row_advice(document: dict[str, Any], window_rows: int) -> Iterator[str]:
    """Nulls, and the size of row groups or chunks."""
    spans, columns = document["span_rows"], document["columns"]
    nulls = {column["name"]: column["nulls"] for column in columns if column["nulls"]}
    if nulls:
        named = ", ".join(f"{name} ({count:,})" for name, count in nulls.items())
        least = "at least " if len(nulls) > 1 else ""  # they may be in the same rows
        rows = f"of {document['num_rows']:,}"
        dropped = f"{least}{max(nulls.values()):,} {rows}"
        cures = f"--on-null drop leaves their rows out ({dropped})"
        if columns[-1]["name"] not in nulls:  # a target is never imputed
            cures += ", --on-null impute puts the mean of the feature in their place"
        yield f"Null or NaN values in {named}: training refuses them; {cures}."
    if sparse := sparse_features(document):
        others = [count for name, count in nulls.items() if name not in sparse]
        least = "at least " if len(others) > 1 else ""
        yield (
            f"Most values of {', '.join(sparse)} are null: without"
            f" {'it' if len(sparse) == 1 else 'them'} (--features), --on-null drop leaves out"
            f" {least}{max(others):,} {rows}."
        )
    remedy = f"streamtrain ingest writes row groups of {_GOOD_SPAN_ROWS:,} rows"
    if spans["max"] > window_rows:
        yield (
            f"A row group has {spans['max']:,} rows, more than the window of {window_rows:,}: it is"
            f" read in slices, and the shuffle is less thorough; {remedy}."
        )
    if spans["median"] >= _SMALL_SPAN_ROWS:
        return
    num_shards, num_spans = document["num_shards"], document["num_spans"]
    gain = ingest_gain(document["format"], document["num_rows"] / num_spans, len(columns))
    if gain >= 1.5:
        remedy = f"`streamtrain ingest` would make it about {gain:,.0f} times faster"
    if num_spans > num_shards:
        unit = {"parquet": "Row groups", "zarr": "Chunks"}[document["format"]]
        plural = "s" * (spans["median"] != 1)
        yield (
            f"{unit} have {spans['median']:,.0f} row{plural} (median): decoding will be the"
            f" bottleneck; {remedy}."
        )
    elif num_shards > 100 and num_spans == num_shards:
        yield (
            f"{num_shards:,} shards of {spans['median']:,.0f} rows (median): opening them will be"
            f" the bottleneck; {remedy}."
        )


def _shard_advice(document: dict[str, Any]) -> Iterator[str]:
    """Skew, codec, encoding and width."""
    if document["shard_skew"] > 4:
        yield (
            f"The largest shard has {document['shard_skew']:.1f} times the mean rows: parallel work"
            " will be uneven; streamtrain ingest writes shards of equal size."
        )
    if any(slow in codec for codec in document["codec"] for slow in _SLOW_CODECS):
        yield (
            f"The codec is {', '.join(document['codec'])}: it decodes several times slower than"
            " snappy; streamtrain ingest writes snappy."
        )
    is_large = document["decoded_bytes"] >= _MUCH_BYTES
    if document["dictionary"] and is_large:
        slow = "Columns are dictionary-encoded, which decodes slower than plain numbers"
        yield f"{slow}; streamtrain ingest writes plain."
    if document["decoded_type"] == "float64" and is_large:
        decoded = format_bytes(document["decoded_bytes"])
        yield f"Columns are decoded as float64 ({decoded} in all): twice the bytes of float32."


def _column_advice(document: dict[str, Any]) -> Iterator[str]:
    """Constant features."""
    features = [
        column["name"]
        for column in document["columns"][:-1]
        if column["min"] is not None and column["min"] == column["max"]
    ]
    if features:
        more = f" and {len(features) - _NAMED:,} more" if len(features) > _NAMED else ""
        named = f"{', '.join(features[:_NAMED])}{more}"
        yield f"Constant: {named}; a constant feature carries no information."


def _integrity_advice(document: dict[str, Any]) -> Iterator[str]:
    if document["integrity"] == "unverified":
        yield (
            "Integrity is unverified: without checksums a flipped bit goes unnoticed;"
            " streamtrain ingest adds checksums and a manifest."
        )
