"""Data sets of uneven row groups; the first column is the row number, the target three times it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from streamtrain.storage.dataset import open_shards

# 11 groups, so that the last round of the expert's loop has fewer than eight
GROUPS = [700, 1, 300, 64, 2000, 17, 500, 500, 500, 418, 3]
ROWS = 2 * sum(GROUPS)


@pytest.fixture(scope="module", params=["parquet", "zarr"])
def numbered(request, tmp_path_factory):
    """Two shards, `ROWS` rows."""
    folder = tmp_path_factory.mktemp("numbered") / request.param
    folder.mkdir()
    ids = np.arange(ROWS, dtype=np.float32)
    rows = np.stack([ids, -ids, 3 * ids], axis=1)
    for number, shard_rows in enumerate(np.split(rows, 2)):
        if request.param == "zarr":
            array = zarr.create_array(
                folder / f"{number}.zarr", shape=shard_rows.shape, chunks=(450, 3), dtype="float32"
            )
            array[:] = shard_rows
            continue
        table = pa.table({name: shard_rows[:, i] for i, name in enumerate("abc")})
        with pq.ParquetWriter(folder / f"{number}.parquet", table.schema) as writer:
            for start, num_rows in zip(np.cumsum([0, *GROUPS]), GROUPS, strict=False):
                writer.write_table(table.slice(start, num_rows))
    return open_shards(str(folder))
