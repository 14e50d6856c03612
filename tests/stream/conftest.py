"""Data sets whose rows carry their own ids, in every layout and format."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr


def id_rows(num_rows: int, num_columns: int = 5) -> np.ndarray:
    """Return float32 (rows, columns): two columns of 16 bits each hold the id of the row.

    The other columns are functions of the id.
    """
    ids = np.arange(num_rows)
    columns = [
        ids >> 16,
        ids & 0xFFFF,
        *((ids * (k + 3)) % 97 - 48 for k in range(num_columns - 2)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def row_ids(rows) -> np.ndarray:
    """Return the ids that delivered rows carry."""
    rows = np.asarray(rows)
    return rows[:, 0].astype(np.int64) << 16 | rows[:, 1].astype(np.int64)


def _with_nulls(column: np.ndarray) -> pa.Array:
    return pa.array(column, mask=np.isnan(column) & (np.arange(len(column)) % 2 == 0))


@pytest.fixture
def write_data(tmp_path):
    """`write_data([[100, 50], [70]])`: a shard per list, a row group or chunk per number.

    Returns the folder. `rows` replace those of `id_rows`; in Parquet every other NaN of theirs is
    stored as null.
    """
    counter = iter(range(1000))

    def write(
        layout: list[list[int]],
        *,
        format: str = "parquet",
        num_columns: int = 5,
        stored: str = "float32",
        rows: np.ndarray | None = None,
    ):
        folder = tmp_path / f"data-{next(counter)}"
        folder.mkdir()
        rows = id_rows(sum(map(sum, layout)), num_columns) if rows is None else rows
        names = [f"c{k}" for k in range(num_columns)]
        start = 0
        for number, groups in enumerate(layout):
            shard_rows = rows[start : start + sum(groups)].astype(stored)
            start += sum(groups)
            if format == "parquet":
                columns = {name: _with_nulls(shard_rows[:, k]) for k, name in enumerate(names)}
                table = pa.table(columns)
                with pq.ParquetWriter(
                    folder / f"part-{number:04d}.parquet", table.schema
                ) as writer:
                    written = 0
                    for group in groups:
                        writer.write_table(table.slice(written, group), row_group_size=group)
                        written += group
            else:
                assert len(set(groups[:-1])) <= 1, "a Zarr array has chunks of one size"
                array = zarr.create_array(
                    folder / f"part-{number:04d}.zarr",
                    shape=shard_rows.shape,
                    chunks=(groups[0], num_columns),
                    dtype=shard_rows.dtype,
                    attributes={"columns": names},
                )
                array[:] = shard_rows
        return folder

    return write
