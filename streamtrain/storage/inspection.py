"""What `inspect --json` writes: the columns and the layout of a data set.

The docstrings give the meaning of every field; `cli/inspect_schema.py` makes the JSON schema of
them.
"""

from dataclasses import dataclass
from typing import Literal

from streamtrain.records import SpanVariation
from streamtrain.types import Format, Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers of rows.

    Attributes:
        min: The smallest.
        median: The median.
        max: The largest.
    """

    min: int
    median: float
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedColumn:
    """The target, a feature, or a column of numbers where none can be the target.

    Attributes:
        name: Its name.
        role: What it is used as; `number` where `problem` says why no column has a use yet.
        stored_type: Its type in the files, or which part of which type; several by commas.
        decoded_type: The type in which values are decoded.
        nulls: Its null and NaN values; None where neither manifest nor footers say.
        min: The smallest value; None where it is not known.
        max: The largest value; None where it is not known.
        sample: Its first values, of which those that are not finite are None.
    """

    name: str
    role: Literal["feature", "target", "number"]
    stored_type: str
    decoded_type: Literal["float32", "float64"]
    nulls: int | None
    min: float | None
    max: float | None
    sample: list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A column that is neither the target nor a feature.

    Attributes:
        name: Its name.
        stored_type: Its type in the files.
        nulls: Its nulls; None where the footers do not say.
        min: The smallest value, as text; None where the footers do not say.
        max: The largest value, as text; None where the footers do not say.
        reason: Why it cannot be used, or why it was not chosen.
    """

    name: str
    stored_type: str
    nulls: int | None = None
    min: str | None = None
    max: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A table: its columns and their use, its layout, and what a sweep would try.

    Attributes:
        url: Path or URL.
        format: Format of the shards; of an imported table, that of its import.
        num_rows: Rows.
        num_shards: Shards.
        num_spans: Row groups or chunks.
        span_rows: Rows of row groups or chunks.
        shard_rows: Rows of shards.
        shard_skew: Rows of the largest shard, divided by the mean.
        stored_bytes: Bytes of the shards as stored.
        decoded_bytes: Bytes of the columns in use, decoded.
        decoded_type: The type in which all columns are decoded.
        codec: Compression of the columns in use.
        dictionary: A column in use is dictionary-encoded.
        columns: The columns in use, the target last.
        left_out: The other columns.
        batch_sizes: The minibatch sizes that a sweep would compare first.
        shuffle_seed: The seed by which `ingest` shuffled the rows; None where it did not.
        integrity: `verified` where a manifest lists every shard.
        fingerprint: Hash of the contents, which does not depend on where they are.
        truth: What is known exactly about generated data.
        order: How unlike the spans that were read are; None where none were read, since one window
            holds all rows or since it would take long, and where rows are known to be shuffled.
        problem: Why a sweep would refuse these columns or learn nothing from them; empty if it
            would not.
        advice: Sentences, most important first.
    """

    url: str
    format: Format
    num_rows: int
    num_shards: int
    num_spans: int
    span_rows: Sizes
    shard_rows: Sizes
    shard_skew: float
    stored_bytes: int
    decoded_bytes: int
    decoded_type: Literal["float32", "float64"]
    codec: list[str]
    dictionary: bool
    columns: list[UsedColumn]
    left_out: list[LeftOut]
    batch_sizes: list[int]
    shuffle_seed: int | None
    integrity: Literal["verified", "unverified"]
    fingerprint: str
    truth: Truth | None
    order: SpanVariation | None = None
    problem: str = ""
    advice: list[str]
