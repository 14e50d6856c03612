"""The nouns, as data. See `streamtrain/DESIGN.md` §1 for one line on each.

Everything here is frozen and holds no open file, thread or device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from streamtrain.base.redact import HIDDEN, SHOWN_OPTIONS

Format = Literal["parquet", "zarr"]
Integrity = Literal["verified", "unverified"]
OnNull = Literal["error", "drop", "impute"]
OnBadShard = Literal["error", "quarantine"]
#: More rows than any shard or data set has; what claims more is damaged. Sums of row counts stay
#: far from the end of int64.
MAX_ROWS = 2**53

Status = Literal["reached", "not_reached", "diverged", "out_of_memory", "failed"]

#: JSON values by key: a document without a type of its own, such as a checkpoint's state.
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a shard: its name and the type in which it is decoded (`float32` or `float64`),
    or why it cannot be.
    """

    name: str
    stored_type: str
    decoded_type: Literal["float32", "float64"] | None
    refusal: str = ""


#: Letters of the shortest secret that is looked for in texts. What is shorter protects nothing.
_SHORTEST_SECRET = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How remote files are reached: `options` under fsspec's names, secrets among them.

    Local files need none of it.

    `queries`: what signed links have behind `?`, by the URL without it. `request_seconds`: a
    request that is silent for longer is made again.
    """

    options: tuple[tuple[str, str], ...] = ()
    queries: tuple[tuple[str, str], ...] = ()
    request_seconds: float = 30.0

    def __repr__(self) -> str:
        return f"Storage({', '.join(name for name, _ in self.options)})"

    @property
    def endpoint(self) -> str | None:
        """Where the store is, when an option says so."""
        return dict(self.options).get("endpoint_url")

    def redact(self, text: str) -> str:
        """`text` without the secrets in it: a library may quote them.

        One of a few letters is left, or it would hide half of all words.
        """
        hidden = [value for name, value in self.options if name not in SHOWN_OPTIONS] + [
            query for _, query in self.queries
        ]
        for secret in sorted(
            (value for value in hidden if len(value) >= _SHORTEST_SECRET), key=len, reverse=True
        ):
            text = text.replace(secret, HIDDEN)
        return text


LOCAL = Storage()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shard:
    """One Parquet file or one Zarr array.

    `boundaries` are the natural read boundaries (row groups or chunks): int64, ascending, from 0 to
    `num_rows`. `source` is a cheap fingerprint of the stored bytes: the footer's hash (Parquet), or
    metadata and chunk sizes (Zarr). `read_rows`: rows of the largest piece that can only be decoded
    whole (a Zarr chunk, with its part beyond the shape); 0: none. `storage`: how the URL is reached
    where it is remote. `listed`: a manifest vouches for it, so that its pages are what our writer
    made of them.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known exactly of generated data. Losses are mean squared errors.

    `noise_variance` is in squared units of the target: no model can have a smaller mean squared
    error. `target_variance` and `noiseless_variance` are of the population. `best_loss` =
    noise_variance / target_variance is the smallest possible `loss`, in standardised target units;
    `best_linear_loss` likewise for linear models, if known.
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

    `columns` are the features in order, then the target. `decoded_type` is the type in which every
    column is decoded. Row ids run through the shards in order: shard `i` starts at `first_ids[i]`.
    `left_out`: (file, cause) of shards that could not be opened and that no manifest describes,
    where those are quarantined.
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

    @property
    def integrity_text(self) -> str:
        """`verified`, or `unverified: why`."""
        return (
            self.integrity
            if self.integrity == "verified"
            else "unverified: no manifest, so nothing vouches for these shards"
        )

    @property
    def features(self) -> tuple[str, ...]:
        return self.columns[:-1]

    @property
    def target(self) -> str:
        return self.columns[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows `[start, stop)` of shard number `shard`; the row at `start` has the id `first_id`."""

    shard: int
    start: int
    stop: int
    first_id: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standardization:
    """How raw columns become model units: `(value - mean) * scale`, per column, target last;
    float64.

    `scale` is 1/sd; a constant column has scale 1, so it becomes 0.
    """

    mean: np.ndarray
    scale: np.ndarray

    @staticmethod
    def identity(num_columns: int) -> "Standardization":
        """Raw values: mean 0, scale 1."""
        return Standardization(mean=np.zeros(num_columns), scale=np.ones(num_columns))

    def to_json(self) -> Mapping[str, list[float]]:
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """How many rows were delivered, and the order-free digest Σ hash(id) mod 2⁶⁴ of their ids.

    `dropped`: rows that the null policy stepped over, `quarantined`: rows that could not be read,
    both in the windows that were delivered to their end.
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
        """The digest as sixteen hex digits: JSON numbers lose bits beyond 2⁵³."""
        return {
            "count": self.count,
            "digest": f"{self.digest:016x}",
            "dropped": self.dropped,
            "quarantined": self.quarantined,
        }

    @staticmethod
    def from_json(state: Mapping[str, Any]) -> "Receipt":
        """What `to_json` gave."""
        return Receipt(
            count=state["count"],
            digest=int(state["digest"], 16),
            dropped=state.get("dropped", 0),
            quarantined=state.get("quarantined", 0),
        )
