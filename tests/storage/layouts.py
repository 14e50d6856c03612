"""Layouts that the reader contract covers, each with its expected values.

`LAYOUTS`: name → a function that writes a data set below a folder and returns its `Case`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
import zarr.codecs

from data_gen import generate
from streamtrain.storage.write.ingest import ingest

ROWS = 1000
NAMES = ("a", "b", "y")


@dataclass(frozen=True)
class Case:
    """A written data set and the values that it must decode to.

    `expected` is (rows, columns), with NaN for null, rows in the order of sorted paths.
    """

    path: Path
    expected: np.ndarray
    decoded_type: str = "float32"


def numbers(rows: int = ROWS, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(7).normal(size=(rows, len(NAMES))).astype(dtype)


def write_parquet(
    path: Path, values: np.ndarray, row_group_size: int = 300, **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({name: values[:, i] for i, name in enumerate(NAMES)}),
        path,
        row_group_size=row_group_size,
        **options,
    )
    return path


def parquet_file(tmp: Path) -> Case:
    return Case(write_parquet(tmp / "one.parquet", numbers()), numbers())


def parquet_tiny_groups(tmp: Path) -> Case:
    return Case(write_parquet(tmp / "one.parquet", numbers(), row_group_size=7), numbers())


def parquet_large_group(tmp: Path) -> Case:
    values = numbers(200_000)
    return Case(
        write_parquet(tmp / "one.parquet", values, row_group_size=len(values), data_page_size=4096),
        values,
    )


def parquet_folder(tmp: Path) -> Case:
    values = numbers()
    write_parquet(tmp / "data" / "p1" / "a.parquet", values[:10])
    write_parquet(tmp / "data" / "p1" / "b.parquet", values[10:700])
    write_parquet(tmp / "data" / "z.parquet", values[700:])
    write_parquet(tmp / "data" / "_temporary" / "part.parquet", values)
    return Case(tmp / "data", values)


def parquet_glob(tmp: Path) -> Case:
    return Case(parquet_folder(tmp).path / "**" / "*b.parquet", numbers()[10:700])


def parquet_float64(tmp: Path) -> Case:
    return Case(
        write_parquet(tmp / "one.parquet", numbers(dtype="float64")),
        numbers(dtype="float64"),
        "float64",
    )


def parquet_types(tmp: Path) -> Case:
    whole = np.arange(ROWS) % 100
    table = pa.table(
        {
            "a": pa.array(whole.astype("int64")),
            "b": pa.array(whole.astype("uint8")).dictionary_encode(),
            "y": pa.array(whole).cast(pa.decimal128(20, 0)),
        }
    )
    pq.write_table(table, tmp / "one.parquet", row_group_size=300)
    return Case(tmp / "one.parquet", np.stack([whole] * 3, axis=1).astype("float64"), "float64")


def parquet_small_types(tmp: Path) -> Case:
    whole = np.arange(ROWS) % 100
    table = pa.table(
        {"a": whole.astype("int16"), "b": whole.astype("float16"), "y": whole % 2 == 0}
    )
    pq.write_table(table, tmp / "one.parquet", row_group_size=300)
    return Case(
        tmp / "one.parquet", np.stack([whole, whole, whole % 2 == 0], axis=1).astype("float32")
    )


def parquet_nulls(tmp: Path) -> Case:
    values, hidden = numbers(), np.random.default_rng(1).random((ROWS, 3)) < 0.3
    pq.write_table(
        pa.table({name: pa.array(values[:, i], mask=hidden[:, i]) for i, name in enumerate(NAMES)}),
        tmp / "n.parquet",
    )
    return Case(tmp / "n.parquet", np.where(hidden, np.nan, values))


def parquet_null_integers(tmp: Path) -> Case:
    whole, hidden = np.arange(ROWS) % 100, np.arange(ROWS) % 3 == 0
    columns = {"a": whole, "b": whole > 50, "y": whole.astype("int8")}
    table = pa.table({name: pa.array(values, mask=hidden) for name, values in columns.items()})
    pq.write_table(table, tmp / "n.parquet", row_group_size=300)
    return Case(
        tmp / "n.parquet",
        np.where(hidden[:, None], np.nan, np.stack([whole, whole > 50, whole], axis=1)),
        "float64",
    )


def mixed_types(tmp: Path) -> Case:
    write_parquet(tmp / "data" / "a.parquet", numbers())
    write_parquet(tmp / "data" / "b.parquet", numbers(dtype="float64"))
    return Case(tmp / "data", np.concatenate([numbers(), numbers(dtype="float64")]), "float64")


def write_zarr(path: Path, values: np.ndarray, **options: Any) -> Path:
    options = {"chunks": (300, values.shape[1])} | options
    array = zarr.create_array(
        str(path),
        shape=values.shape,
        dtype=values.dtype,
        attributes={"columns": list(NAMES)},
        **options,
    )
    array[:] = values
    return path


def zarr_matrix(tmp: Path) -> Case:
    return Case(write_zarr(tmp / "one.zarr", numbers()), numbers())


def zarr_split_columns(tmp: Path) -> Case:
    return Case(
        write_zarr(tmp / "one.zarr", numbers(), chunks=(128, 2), compressors=None), numbers()
    )


def zarr_sharded(tmp: Path) -> Case:
    return Case(
        write_zarr(tmp / "one.zarr", numbers(), chunks=(100, 3), shards=(400, 3)), numbers()
    )


def zarr_integers(tmp: Path) -> Case:
    whole = (numbers() * 1000).astype("int64")
    return Case(write_zarr(tmp / "one.zarr", whole), whole.astype("float64"), "float64")


def zarr_big_endian(tmp: Path) -> Case:
    big = zarr.codecs.BytesCodec(endian="big")
    return Case(write_zarr(tmp / "one.zarr", numbers(), serializer=big), numbers())


def zarr_columns(tmp: Path) -> Case:
    values = numbers()
    group = zarr.create_group(str(tmp / "group.zarr"), attributes={"columns": list(NAMES)})
    for i, name in enumerate(NAMES):
        group.create_array(name, shape=(ROWS,), chunks=(100 + i,), dtype="float32")[:] = values[
            :, i
        ]
    return Case(tmp / "group.zarr", values)


def zarr_folder(tmp: Path) -> Case:
    write_zarr(tmp / "data" / "b.zarr", numbers()[400:])
    write_zarr(tmp / "data" / "a.zarr", numbers()[:400])
    return Case(tmp / "data", numbers())


def ingested_parquet(tmp: Path) -> Case:
    ingest(parquet_folder(tmp / "src").path, tmp / "out", span_rows=50)
    return Case(tmp / "out", numbers())


def ingested_zarr(tmp: Path) -> Case:
    ingest(parquet_folder(tmp / "src").path, tmp / "out", format="zarr", span_rows=50)
    return Case(tmp / "out", numbers())


def generated(tmp: Path) -> Case:
    generate(tmp / "made", kind="linear", rows=ROWS, span_rows=100)
    table = pq.read_table(tmp / "made" / "shard-00000.parquet")
    return Case(tmp / "made", np.stack([column.to_numpy() for column in table.columns], axis=1))


LAYOUTS: dict[str, Callable[[Path], Case]] = {
    make.__name__: make
    for make in (
        parquet_file,
        parquet_tiny_groups,
        parquet_large_group,
        parquet_folder,
        parquet_glob,
        parquet_float64,
        parquet_types,
        parquet_small_types,
        parquet_nulls,
        parquet_null_integers,
        mixed_types,
        zarr_matrix,
        zarr_split_columns,
        zarr_sharded,
        zarr_integers,
        zarr_big_endian,
        zarr_columns,
        zarr_folder,
        ingested_parquet,
        ingested_zarr,
        generated,
    )
}
