"""A shard that changes between two reads of one run is refused.

Also where its size is the same and all checksums are correct.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
import zarr.codecs

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers

ROWS, GROUP = 8192, 4096


def write(path: Path, first: float, format: str) -> Path:
    """Write rows that count from `first`; the files have equal size and their own checksums."""
    rows = np.arange(first, first + ROWS, dtype="float32")
    if format == "zarr":
        array = zarr.create_array(
            path,
            shape=(ROWS, 2),
            chunks=(GROUP, 2),
            dtype="float32",
            compressors=[zarr.codecs.Crc32cCodec()],
        )
        array[:] = np.stack([rows, rows], axis=1)
    else:
        options = {
            "compression": "none",
            "use_dictionary": format == "dictionary",
            "write_page_checksum": True,
            "row_group_size": GROUP,
        }
        pq.write_table(pa.table({"x": rows, "y": rows}), path, **options)
    return path


def replace(path: Path, other: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    os.rename(other, path)


def replace_parts(path: Path, other: Path) -> None:
    for part in sorted(other.rglob("*")) if other.is_dir() else []:
        if part.is_file():
            os.replace(part, path / part.relative_to(other))
    if other.is_file():
        os.replace(other, path)


def write_over(path: Path, other: Path) -> None:
    for part in sorted(other.rglob("*")) if other.is_dir() else [other]:
        if part.is_file():
            (path / part.relative_to(other) if other.is_dir() else path).write_bytes(
                part.read_bytes()
            )


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("change", [replace, replace_parts, write_over])
@pytest.mark.parametrize("format", ["plain", "dictionary", "zarr"])
def test_another_shard_under_the_name_is_refused(
    format: str, change, forward: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / ("x.zarr" if format == "zarr" else "x.parquet"), 0, format)
    other = write(tmp_path / "other", 1024, format)
    if format != "zarr":
        assert path.stat().st_size == other.stat().st_size
    readers = Readers(open_shards(str(path)))
    read = readers.forward(0).read if forward else lambda start, stop: readers.read(0, start, stop)
    assert read(0, GROUP)[0][0] == 0
    change(path, other)
    with pytest.raises(DataError, match="has changed since it was opened"):
        read(GROUP, ROWS)
    with pytest.raises(DataError, match="has changed since it was opened"):
        readers.read(0, 0, GROUP)


@pytest.mark.parametrize("format", ["plain", "dictionary", "zarr"])
def test_a_shard_of_which_only_the_time_is_new_is_read(format: str, tmp_path: Path) -> None:
    path = write(tmp_path / ("x.zarr" if format == "zarr" else "x.parquet"), 0, format)
    readers = Readers(open_shards(str(path)))
    for start in (0, GROUP):
        assert readers.read(0, start, start + GROUP)[0][0] == start
        for part in (path, *path.rglob("*")):
            os.utime(part)
    assert readers.read(0, 0, ROWS)[0][-1] == ROWS - 1
