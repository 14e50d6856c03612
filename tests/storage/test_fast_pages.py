"""The fast paths for plain pages and raw chunks return the decoder's values, or nothing at all."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from streamtrain.kernels.page_headers import BODY, CRC, STORED, VALUES, read_page_headers
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.parquet.fast_pages import PlainBuffers, _levels, plain_columns, read_plain
from streamtrain.storage.parquet.guard import walk_pages
from streamtrain.storage.parquet.parquet_footer import read_metadata
from streamtrain.storage.zarr import zarr_reader as zarr_shards
from streamtrain.storage.zarr.zarr_chunks import is_raw, read_raw_chunks

from .layouts import NAMES, numbers, write_parquet

ROWS = 10_000
PLAIN: dict[str, Any] = {"use_dictionary": False}


def read(path: Path, *, buffers: PlainBuffers | None = None):
    """Return all row groups of a file by `read_plain`; None when it leaves them to Arrow."""
    (shard,) = open_shards(str(path)).shards
    metadata = pq.read_metadata(path)
    kind = shard.columns[0].decoded_type
    assert kind is not None
    leaves = plain_columns(metadata, NAMES, kind)
    if leaves is None:
        return None
    columns = read_plain(
        shard,
        metadata,
        leaves,
        kind,
        range(metadata.num_row_groups),
        buffers or PlainBuffers(ROWS, len(NAMES)),
    )
    return None if columns is None else np.stack(columns, axis=1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("float32", {}),
        ("float32", {"write_page_checksum": True}),
        ("float64", {"write_page_checksum": True}),
        ("float32", {"compression": "none"}),
        ("float32", {"data_page_size": 8192}),
        ("float32", {"row_group_size": 4099}),
    ],
    ids=["snappy", "checksums", "float64", "uncompressed", "many-pages", "groups"],
)
def test_plain_pages_are_read_without_arrow(tmp_path, kind, options):
    values = np.round(numbers(ROWS, kind), 2)  # so that there is something to compress
    found = read(
        write_parquet(
            tmp_path / "a.parquet", values, **{"row_group_size": ROWS, **PLAIN, **options}
        )
    )
    assert found is not None
    assert found.dtype == kind
    np.testing.assert_array_equal(found, values)


def test_required_columns_have_no_levels(tmp_path):
    values = numbers(ROWS)
    schema = pa.schema([pa.field(name, pa.float32(), nullable=False) for name in NAMES])
    pq.write_table(pa.table(list(values.T), schema=schema), tmp_path / "a.parquet", **PLAIN)
    np.testing.assert_array_equal(read(tmp_path / "a.parquet"), values)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dictionary": True},
        {**PLAIN, "data_page_version": "2.0"},
        {**PLAIN, "compression": "zstd"},
        {"use_dictionary": False, "use_byte_stream_split": True},
        {**PLAIN, "data_page_size": 64, "write_batch_size": 16},
    ],
    ids=["dictionary", "pages-v2", "zstd", "byte-stream-split", "tiny-pages"],
)
def test_what_is_not_plain_is_left_to_arrow(tmp_path, options):
    assert (
        read(
            write_parquet(
                tmp_path / "a.parquet", np.round(numbers(ROWS), 1), row_group_size=ROWS, **options
            )
        )
        is None
    )


def test_nulls_and_other_types_are_left_to_arrow(tmp_path):
    column = pa.array(numbers(ROWS)[:, 0], mask=np.arange(ROWS) == ROWS - 1)
    pq.write_table(pa.table(dict.fromkeys(NAMES, column)), tmp_path / "nulls.parquet", **PLAIN)
    assert read(tmp_path / "nulls.parquet") is None
    pq.write_table(
        pa.table({name: np.arange(ROWS) for name in NAMES}), tmp_path / "whole.parquet", **PLAIN
    )
    assert read(tmp_path / "whole.parquet") is None


@pytest.fixture(scope="module")
def one_chunk(tmp_path_factory) -> tuple[np.ndarray, list]:
    """Return the bytes of a column chunk with checksums, and its pages by `walk_pages`."""
    path = write_parquet(
        tmp_path_factory.mktemp("chunk") / "a.parquet",
        numbers(ROWS),
        ROWS,
        write_page_checksum=True,
        data_page_size=8192,
        **PLAIN,
    )
    (shard,) = open_shards(str(path)).shards
    chunk = read_metadata(shard)[1][0][0]
    with open(path, "rb") as file:
        pages = list(walk_pages(file, chunk))
        file.seek(chunk.start)
        return np.frombuffer(file.read(chunk.stored_bytes), dtype=np.uint8), pages


def test_levels_of_nulls_are_left_to_arrow(tmp_path):
    """A page without a checksum may say that all its values are null.

    Its run of levels has the same length as one without nulls, and no value may be used.
    """
    path = write_parquet(
        tmp_path / "a.parquet", numbers(ROWS), row_group_size=ROWS, compression="none", **PLAIN
    )
    assert read(path) is not None
    content = path.read_bytes()
    last = content.index(_levels(ROWS)) + len(_levels(ROWS)) - 1
    path.write_bytes(content[:last] + b"\0" + content[last + 1 :])
    assert read(path) is None


def test_headers_are_those_of_the_slow_walk(one_chunk):
    data, pages = one_chunk
    table = np.empty((100, 5), dtype=np.int64)
    count = read_page_headers(data, ROWS, table)
    assert count == len(pages) > 3
    first = pages[0].start
    for row, page, after in zip(table, pages, [*pages[1:], None], strict=False):
        assert row[VALUES] == page.num_values
        assert row[STORED] == page.stored_bytes
        assert row[CRC] >= 0
        assert row[BODY] + row[STORED] == (after.start - first if after else len(data))
    assert read_page_headers(data, ROWS, table[: count - 1]) == -1, (
        "more pages than the table holds"
    )


@given(data=st.data())
@settings(max_examples=300)
def test_whatever_the_bytes_are_pages_lie_within_them(one_chunk, data):
    whole, pages = one_chunk
    damaged = whole[: data.draw(st.integers(0, len(whole)))].copy()
    for _ in range(data.draw(st.integers(0, 4))):
        page = data.draw(st.sampled_from(pages))
        position = page.start - pages[0].start + data.draw(st.integers(0, 70))
        if position < len(damaged):
            damaged[position] = data.draw(st.integers(0, 255))
    table = np.full((64, 5), -7, dtype=np.int64)
    count = read_page_headers(damaged, ROWS, table)
    assert -1 <= count <= 64
    for row in table[: max(count, 0)]:
        assert 0 <= row[BODY] <= row[BODY] + row[STORED] <= len(damaged)
        assert 0 < row[VALUES] <= ROWS


@given(place=st.integers(4, 40_000), bit=st.integers(0, 7))
@settings(max_examples=100)
def test_a_damaged_page_is_left_to_arrow(tmp_path_factory, place, bit):
    values = numbers(ROWS)
    path = tmp_path_factory.mktemp("damaged") / "a.parquet"
    write_parquet(path, values, ROWS, write_page_checksum=True, **PLAIN)
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
    found = read(path)
    assert found is None or np.array_equal(found, values), "a header bit without effect"


def make_array(path: Path, values: np.ndarray, **options: Any) -> zarr.Array:
    array = zarr.create_array(
        path,
        shape=values.shape,
        chunks=(300, *values.shape[1:]),
        dtype=values.dtype,
        **{"compressors": None, **options},
    )
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("options", "raw"),
    [
        ({}, True),
        ({"compressors": [Crc32cCodec()]}, True),
        ({"compressors": [ZstdCodec()]}, False),
        ({"serializer": BytesCodec(endian="big")}, False),
        ({"shards": (600, 3)}, False),
    ],
    ids=["raw", "crc32c", "zstd", "big-endian", "sharded"],
)
@pytest.mark.parametrize("rows", [900, 1000], ids=["whole-chunks", "short-chunk"])
def test_raw_chunks_are_read_without_the_pipeline(tmp_path, monkeypatch, options, raw, rows):
    values = numbers(rows)
    assert is_raw(make_array(tmp_path / "a.zarr", values, **options)) == raw
    (shard,) = open_shards(str(tmp_path / "a.zarr")).shards
    reader = zarr_shards.ZarrReader(shard)
    for start, stop in ((0, rows), (300, 600), (600, rows), (17, 400)):
        np.testing.assert_array_equal(
            np.stack(
                reader.read([column.name for column in shard.columns], "float32", start, stop),
                axis=1,
            ),
            values[start:stop],
        )
    monkeypatch.setattr(zarr_shards, "NDBuffer", None)  # only the pipeline needs it
    if raw:
        np.testing.assert_array_equal(reader.decode("", 0, rows), values)
    else:
        with pytest.raises(AttributeError):
            reader.decode("", 0, rows)


def test_a_damaged_raw_chunk_is_left_to_the_pipeline(tmp_path):
    values = numbers(300)
    make_array(tmp_path / "a.zarr", values, compressors=[Crc32cCodec()])
    path, out = tmp_path / "a.zarr" / "c" / "0" / "0", np.empty_like(values)
    assert read_raw_chunks([str(path)], 300, out, checked=True)
    assert np.array_equal(out, values)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        path.write_bytes(damaged)
        assert not read_raw_chunks([str(path)], 300, out, checked=True)


def test_a_file_that_changed_is_left_to_the_reader_that_says_so(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", numbers(ROWS), ROWS, **PLAIN)
    (shard,) = open_shards(str(path)).shards
    metadata = pq.read_metadata(path)
    leaves = plain_columns(metadata, NAMES, "float32")
    assert leaves is not None
    other = dataclasses.replace(shard, num_bytes=shard.num_bytes + 1)
    assert read_plain(other, metadata, leaves, "float32", range(1), PlainBuffers(ROWS, 3)) is None
