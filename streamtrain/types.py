"""The data types that folders share; `streamtrain/DESIGN.md` §1 defines each in one line.

All are frozen, and none holds an open file, a thread or a device.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from streamtrain.base.redact import Secrets

Format = Literal["parquet", "zarr"]
Integrity = Literal["verified", "unverified"]
OnNull = Literal["error", "drop", "impute"]
OnBadShard = Literal["error", "quarantine"]

#: What a date or a time becomes: seconds since 1970, or hour, weekday and day of the year.
Datetime = Literal["epoch", "parts"]

#: More rows than any shard or data set has; a file that claims more is damaged. Sums of such counts
#: cannot overflow int64.
MAX_ROWS = 2**53

Status = Literal["reached", "not_reached", "diverged", "out_of_memory", "failed"]

#: The rows on which a reference model was scored; population: its loss is known exactly.
ScoredOn = Literal["holdout", "eval_data", "training", "population"]

#: How a target loss was chosen.
TargetOrigin = Literal["given", "automatic", "none"]

#: By what a sweep compares sizes: seconds to a loss, or the loss after equal rows or equal seconds.
Goal = Literal["time-to-loss", "loss-at-rows", "loss-in-time"]

#: How learning rates follow from batch sizes.
LrRule = Literal["tuned", "fixed", "linear", "sqrt"]

#: A JSON document without a more specific type, such as a checkpoint's state.
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a shard.

    Attributes:
        name: Name of the column.
        stored_type: Type in the file.
        decoded_type: Type in which values are decoded; None if they cannot be.
        refusal: Why the column cannot be decoded; empty if it can.
        place: `index`: of a pandas table; `sorted`: among columns in the order of their names;
            empty: where whoever wrote the table put it.
        aside: It is not one of the columns unless it is named, such as an array of another length
            in a Zarr group.
    """

    name: str
    stored_type: str
    decoded_type: Literal["float32", "float64"] | None
    refusal: str = ""
    place: Literal["", "index", "sorted"] = ""
    aside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How tables are read. None: detected from the file; dates are left out.

    Attributes:
        delimiter: What separates fields: one character, or a space for any run of spaces.
        decimal: The decimal mark: a point or a comma.
        na_values: Further words that mean null; numbers among them mean their value.
        header: The first line has names; if not, columns are named c0, c1, …
        encoding: A codec of Python, such as `latin-1`.
        datetime: What dates and times become (storage/datetime_values.py).

    Most of them apply to text files only (storage/notices.py).
    """

    delimiter: str | None = None
    decimal: str | None = None
    na_values: tuple[str, ...] | None = None
    header: bool | None = None
    encoding: str | None = None
    datetime: Datetime | None = None

    @property
    def null_numbers(self) -> dict[str, float]:
        """Those of `na_values` that are finite numbers, by their text."""
        numbers = {}
        for word in self.na_values or ():
            with suppress(ValueError):
                numbers[word] = float(word)
        return {word: number for word, number in numbers.items() if math.isfinite(number)}


AS_FOUND = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How to access remote files, and how to read tables, local ones too.

    Attributes:
        options: (name, value) pairs under fsspec's names; some are secrets.
        queries: (URL without query, query) of signed links.
        request_seconds: A request without a response for this long is sent again.
        reading: How tables are read.
    """

    options: tuple[tuple[str, str], ...] = ()
    queries: tuple[tuple[str, str], ...] = ()
    request_seconds: float = 30.0
    reading: Reading = AS_FOUND

    def __repr__(self) -> str:
        return f"Storage({', '.join(name for name, _ in self.options)})"

    @property
    def endpoint(self) -> str | None:
        """URL of the store, if an option gives it."""
        return dict(self.options).get("endpoint_url")

    def redact(self, text: str) -> str:
        """Return `text`, which may come from a library, with secrets hidden.

        Secrets of fewer than four characters are not hidden.
        """
        links = (f"{url}?{query}" for url, query in self.queries)
        return Secrets.of(dict(self.options), links).hide(text)


LOCAL = Storage()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shard:
    """One Parquet file or one Zarr array.

    Attributes:
        url: Path or URL.
        format: `parquet` or `zarr`.
        num_rows: Number of rows.
        num_bytes: Stored bytes.
        boundaries: Boundaries of row groups or chunks: int64, ascending, from 0 to `num_rows`.
        columns: All columns, also those that cannot be decoded.
        source: Cheap fingerprint of the stored bytes: the footer's hash (Parquet), or metadata and
            chunk sizes (Zarr).
        read_rows: Rows of the largest piece that can only be decoded as a whole (a Zarr chunk,
            including its part beyond the shape); 0: none.
        storage: How to access the URL if it is remote.
        listed: A manifest lists the shard, so its pages have the form that our writer gives them.
        absent_chunks: Zarr chunks that were left out, and are read as the fill value.
        stamp: What changes when the file is written again: its modification time in ns, or the
            version or ETag of an object. Empty where a manifest has a hash of the contents.
    """

    url: str
    format: Format
    num_rows: int
    num_bytes: int
    boundaries: np.ndarray
    columns: tuple[Column, ...]
    source: str
    read_rows: int = 0
    storage: Storage = LOCAL
    listed: bool = False
    absent_chunks: int = 0
    stamp: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known exactly about generated data. Losses are mean squared errors.

    Attributes:
        kind: Kind of the generated data.
        noise_variance: Smallest possible mean squared error, in squared units of the target.
        noiseless_variance: Population variance of the target without noise.
        target_variance: Population variance of the target.
        best_loss: noise_variance / target_variance, the smallest possible loss in standardised
            target units.
        best_linear_loss: The same for linear models; None if unknown.
    """

    kind: str
    noise_variance: float
    noiseless_variance: float
    target_variance: float
    best_loss: float
    best_linear_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """The shards of one data set, in order, bound to its columns by name.

    Attributes:
        url: Path or URL that was opened.
        shards: The shards in order.
        columns: Names of the features in order, then of the target.
        decoded_type: Type in which every column is decoded.
        first_ids: Row id of each shard's first row, int64 (shards,).
        num_rows: Rows of all shards.
        integrity: `verified` if a manifest lists every shard.
        fingerprint: Hash of the shards' names, sizes and sources; it does not depend on the folder.
        truth: What is known exactly about generated data; None for other data.
        left_out: (file, cause) of quarantined shards that could not be opened and that no manifest
            describes.
        folder: The folder of the shards where it is not `url`: that of an imported table.
        digest: Hash of the contents of all shards, from their manifest; empty without one.
        notices: What was noticed when a table was imported, such as a row of totals.
        stamps: What shows that a file was written again (storage/data_fingerprint.py); None where
            the digest does.
    """

    url: str
    shards: tuple[Shard, ...]
    columns: tuple[str, ...]
    decoded_type: Literal["float32", "float64"]
    first_ids: np.ndarray
    num_rows: int
    integrity: Integrity
    fingerprint: str
    truth: Truth | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    folder: str = ""
    digest: str = ""
    notices: tuple[str, ...] = ()
    stamps: Json | None = None

    def place(self, shard: int, row: int) -> tuple[str, int]:
        """Return the file and the row that the user knows a row of a shard by."""
        if self.folder:
            return self.url, int(self.first_ids[shard]) + row
        return self.shards[shard].url, row

    def place_of_id(self, row_id: int) -> tuple[str, int]:
        """Return the file and the row that the user knows the row with this id by."""
        shard = int(np.searchsorted(self.first_ids, row_id, side="right")) - 1
        return self.place(shard, row_id - int(self.first_ids[shard]))

    @property
    def integrity_text(self) -> str:
        """`verified`, or `unverified` with the reason."""
        if self.integrity == "verified":
            return "verified"
        return "unverified: no manifest, so nothing vouches for these shards"

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.columns[:-1]

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.columns[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows `[start, stop)` of shard number `shard`; row `start` has the id `first_id`."""

    shard: int
    start: int
    stop: int
    first_id: int

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standardization:
    """The map from raw values to model units, per column: `(value - mean) * scale`.

    Attributes:
        mean: float64 (columns,), target last.
        scale: 1 / standard deviation, float64 (columns,); 1 for a constant column, which so becomes
            0.
    """

    mean: np.ndarray
    scale: np.ndarray

    @staticmethod
    def identity(num_columns: int) -> "Standardization":
        """Return the identity, for raw values: mean 0, scale 1."""
        return Standardization(mean=np.zeros(num_columns), scale=np.ones(num_columns))

    def to_json(self) -> Mapping[str, list[float]]:
        """Return mean and scale as lists."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The count and an order-independent digest of the rows delivered.

    Attributes:
        count: Rows delivered.
        digest: Σ hash(id) mod 2⁶⁴ over the ids of these rows.
        dropped: Rows that the null policy dropped, in windows that were delivered completely.
        quarantined: Rows that could not be read, in the same windows.
    """

    count: int = 0
    digest: int = 0
    dropped: int = 0
    quarantined: int = 0

    def __add__(self, other: "Receipt") -> "Receipt":
        return Receipt(
            count=self.count + other.count,
            digest=(self.digest + other.digest) % 2**64,
            dropped=self.dropped + other.dropped,
            quarantined=self.quarantined + other.quarantined,
        )

    def to_json(self) -> dict[str, int | str]:
        """Return a JSON document; the digest is sixteen hex digits, as JSON numbers end at 2⁵³."""
        return {
            "count": self.count,
            "digest": f"{self.digest:016x}",
            "dropped": self.dropped,
            "quarantined": self.quarantined,
        }

    @staticmethod
    def from_json(state: Mapping[str, Any]) -> "Receipt":
        """Return the receipt that `to_json` described; raises ValueError for anything else."""
        counts = {
            name: state.get(name, default)
            for name, default in (("count", None), ("dropped", 0), ("quarantined", 0))
        }
        for name, count in counts.items():
            if type(count) is not int or not 0 <= count <= MAX_ROWS:
                raise ValueError(f"{name} of a receipt is not a number of rows")
        digest = state.get("digest")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{16}", digest):
            raise ValueError("digest of a receipt is not 16 hex digits")
        return Receipt(digest=int(digest, 16), **counts)
