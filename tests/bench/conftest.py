"""Data sets of uneven row groups whose first column is the row's number and whose target is three
times that.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from streamtrain.storage.dataset import open_shards

# 11: the last turn of the expert's loop holds fewer than eight
GROUPS = [700, 1, 300, 64, 2000, 17, 500, 500, 500, 418, 3]
ROWS = 2 * sum(GROUPS)


@pytest.fixture(scope="module", params=["parquet", "zarr"])
def numbered(request, tmp_path_factory):
    """Two shards, `ROWS` rows."""
    folder = tmp_path_factory.mktemp("numbered") / request.param
    folder.mkdir()
    ids = np.arange(ROWS, dtype=np.float32)
    for number, part in enumerate(np.split(np.stack([ids, -ids, 3 * ids], axis=1), 2)):
        if request.param == "zarr":
            array = zarr.create_array(
                folder / f"{number}.zarr", shape=part.shape, chunks=(450, 3), dtype="float32"
            )
            array[:] = part
            continue
        table = pa.table({name: part[:, i] for i, name in enumerate("abc")})
        with pq.ParquetWriter(folder / f"{number}.parquet", table.schema) as writer:
            for start, rows in zip(np.cumsum([0, *GROUPS]), GROUPS, strict=False):
                writer.write_table(table.slice(start, rows))
    return open_shards(str(folder))
