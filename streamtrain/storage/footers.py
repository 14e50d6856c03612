"""What Parquet footers know beyond the layout: codecs, encodings, nulls, extremes."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from streamtrain.errors import DataError
from streamtrain.storage.dataset import FOOTERS_AT_ONCE
from streamtrain.storage.parquet_footer import read_metadata
from streamtrain.storage.urls import is_remote
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
