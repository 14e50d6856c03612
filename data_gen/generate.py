"""Generate rows of a kind in parallel; the rows do not depend on the number of workers."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from data_gen.kind import Kind
from data_gen.kinds import KINDS
from streamtrain.base.budget import default_readers
from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.remote.store_options import make_storage
from streamtrain.storage.write.writer import Layout, write_dataset
from streamtrain.types import Dataset, Format

COLUMNS = ("x0", "x1", "x2", "x3", "y")


def generate(
    out: str | os.PathLike[str],
    *,
    kind: str = "friedman2",
    rows: int,
    format: Format = "parquet",
    noise: float = 0.1,
    seed: int = 0,
    cluster_shift: float = 0.0,
    span_rows: int = 262_144,
    workers: int | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Dataset:
    """Write a synthetic data set as shards, with a manifest that stores the truth.

    Span `i` uses a counter-based random generator keyed by (seed, i), so the rows depend only on
    `kind`, `noise`, `cluster_shift`, `seed` and `span_rows`.

    Args:
        out: Folder, or URL of an object store.
        kind: A name in `KINDS`.
        rows: Number of rows.
        format: Format of the shards.
        noise: Standard deviation of the noise, in standard deviations of the noiseless target.
        seed: Seed of the rows; for `teacher` also of its weights.
        cluster_shift: Standard deviation, in the same unit, of a normal shift of the target shared
            by all rows of a span. It makes neighbouring rows correlated, as in files written day by
            day. No feature depends on it, so it is noise to every model and counts as noise in the
            truth. Within a span, residuals of the true function have the intraclass correlation
            ρ = cluster_shift² / (cluster_shift² + noise²).
        span_rows: Rows per span.
        workers: Parallel workers; None: one per core.
        storage_options: Options of the object store.

    Returns:
        The data set, opened.

    Raises:
        ConfigError: An argument is invalid, or the folder is in use.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"kind {kind!r} is unknown; choose among {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
        )
    if (
        rows < 1
        or not 0 <= noise < float("inf")
        or not 0 <= cluster_shift < float("inf")
        or not 0 <= seed < 2**64
    ):
        raise ConfigError(
            f"rows={rows}, noise={noise}, cluster_shift={cluster_shift}, seed={seed}: rows are at"
            " least 1, the others at least 0, seed below 2^64."
        )
    layout = Layout(columns=COLUMNS, decoded_type="float32", format=format, span_rows=span_rows)
    distribution = KINDS[kind](seed)
    sd = distribution.variance**0.5
    spans = _spans(distribution, rows, noise * sd, cluster_shift * sd, seed, span_rows)
    truth = distribution.truth(math.hypot(noise, cluster_shift))
    storage = make_storage(storage_options)
    return open_shards(
        write_dataset(
            out, layout, spans, workers=workers or default_readers(), truth=truth, storage=storage
        ),
        storage=storage,
    )


def _spans(
    kind: Kind, rows: int, noise_sd: float, shift_sd: float, seed: int, span_rows: int
) -> Iterator[Callable[[], tuple[np.ndarray, ...]]]:
    for number, start in enumerate(range(0, rows, span_rows)):
        yield partial(
            _make_span, kind, noise_sd, shift_sd, seed, number, min(span_rows, rows - start)
        )


def _make_span(
    kind: Kind, noise_sd: float, shift_sd: float, seed: int, number: int, rows: int
) -> tuple[np.ndarray, ...]:
    """Return the features and the noisy target of one span, float32.

    Philox: Salmon et al. 2011.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
    x = kind.draw(generator, rows)
    y = kind.function(x).astype(np.float32, copy=False)
    y += np.float32(noise_sd) * generator.standard_normal(rows, dtype=np.float32)
    # drawn last, so that the other random numbers do not depend on cluster_shift
    y += np.float32(shift_sd * generator.standard_normal())
    return (*x, y)
