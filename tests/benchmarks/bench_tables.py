"""Three tables whose answers are compared: small and real, large, and heavy-tailed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import data_gen

HEAVY_ROWS = 1_000_000


@dataclass(frozen=True)
class BenchTable:
    """A table: `make(folder, quick)` writes it and returns its path; `target` is its column."""

    name: str
    target: str
    make: Callable[[Path, bool], Path]


def diabetes(folder: Path, quick: bool) -> Path:
    """Write the 442 rows of scikit-learn's diabetes as CSV."""
    from sklearn.datasets import load_diabetes

    path = folder / "diabetes.csv"
    load_diabetes(as_frame=True).frame.to_csv(path, index=False)
    return path


def friedman2(folder: Path, quick: bool) -> Path:
    """Write 4M rows of friedman2 as shards."""
    path = folder / "friedman2"
    data_gen.generate(path, kind="friedman2", rows=20_000 if quick else 4_000_000)
    return path


def heavy_tails(folder: Path, quick: bool) -> Path:
    """Write 1M rows of log-normal features and a target with Student's t (3) noise as Parquet."""
    path, random = folder / "heavy_tails.parquet", np.random.default_rng(0)
    rows = 20_000 if quick else HEAVY_ROWS
    x = random.lognormal(size=(rows, 4)).astype(np.float32)
    noise = random.standard_t(3, rows) / np.sqrt(3)
    y = (np.log1p(x[:, 0] * x[:, 1]) + np.sqrt(x[:, 2]) - 0.3 * x[:, 3] + noise).astype(np.float32)
    columns = {f"x{number}": x[:, number] for number in range(4)} | {"y": y}
    pq.write_table(pa.table(columns), path, row_group_size=65_536)
    return path


TABLES = (
    BenchTable("diabetes", "target", diabetes),
    BenchTable("friedman2", "y", friedman2),
    BenchTable("heavy_tails", "y", heavy_tails),
)
