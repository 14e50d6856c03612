"""Damage that shows only when rows are read is one DataError, never a wrong number.

The error has the file, the rows, the cause and the next move.
"""

import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from data_gen import generate
from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.parquet.parquet_reader import ParquetReader
from streamtrain.storage.readers import Readers
from streamtrain.types import Format

from .layouts import numbers, write_parquet, write_zarr


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_every_flipped_bit_of_our_own_shards_is_refused(format: Format, tmp_path: Path) -> None:
    dataset = generate(tmp_path / "data", rows=2000, span_rows=1000, format=format)
    expected = np.stack(Readers(dataset).read(0, 0, 2000))
    file = (
        Path(dataset.shards[0].url)
        if format == "parquet"
        else Path(dataset.shards[0].url) / "c" / "1" / "0"
    )
    whole, generator, refused = file.read_bytes(), np.random.default_rng(0), 0
    end = len(whole) - (int.from_bytes(whole[-8:-4], "little") + 8 if format == "parquet" else 0)
    for position in generator.integers(4, end, size=60).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        try:
            got = np.stack(Readers(dataset).read(0, 0, 2000))
        except DataError as error:
            refused += 1
            assert dataset.shards[0].url in str(error)
            assert "\n" not in str(error)
        else:
            # a bit without effect, in a page header
            np.testing.assert_array_equal(got, expected)
    assert refused >= 50


def test_integers_that_float64_would_round_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, -(2**53) - 1], "y": [1.0, 2.0]}), tmp_path / "a.parquet")
    write_zarr(tmp_path / "a.zarr", np.full((5, 3), 2**53 + 1, dtype="uint64"))
    for path, column in (("a.parquet", "a"), ("a.zarr", "a")):
        dataset = open_shards(str(tmp_path / path))
        with pytest.raises(
            DataError, match=rf"{path}: rows 0 to .*column '{column}': the integer .* beyond ±2\^53"
        ):
            Readers(dataset).read(0, 0, dataset.num_rows)


LARGE = [2**53 + 2, -(2**53) - 4, 2**60 + 2**8, 2**62, -(2**63), 0, 3]


def _write(path: Path, values: list[int]) -> None:
    """Write the columns a, b (in Parquet a decimal) and y: the values twice, and a count."""
    rows = [(value, value, y) for y, value in enumerate(values)]
    if path.suffix == ".parquet":
        b, y = pa.array(values, pa.decimal128(20)), np.arange(len(values)) * 1.0
        pq.write_table(pa.table({"a": values, "b": b, "y": y}), path)
    elif path.suffix == ".zarr":
        write_zarr(path, np.array(rows))
    elif path.suffix == ".csv":
        path.write_text("a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    else:
        lines = (f'{{"a": {a}, "b": {b}, "y": {y}}}\n' for a, b, y in rows)
        path.write_text("".join(lines))


@pytest.mark.parametrize("suffix", ["parquet", "zarr", "csv", "jsonl"])
def test_large_integers_are_read_where_float64_holds_them_exactly(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    _write(path, LARGE)
    dataset = open_shards(str(path))
    for column in Readers(dataset).read(0, 0, dataset.num_rows)[:2]:
        assert [int(value) for value in column] == LARGE
    for number, rounded in enumerate((2**60 + 1, -(2**63) + 1, 2**53 + 1)):
        path = tmp_path / f"{number}.{suffix}"
        _write(path, [*LARGE, rounded])
        for feature in "ab":
            with pytest.raises(DataError, match=f"the integer ({rounded}|{rounded:,}) is beyond"):
                dataset = open_shards(str(path), features=[feature], target="y")
                Readers(dataset).read(0, 0, dataset.num_rows)


@pytest.mark.parametrize("scale", [0, 2])
@pytest.mark.parametrize("narrow", [pa.decimal32, pa.decimal64], ids=["decimal32", "decimal64"])
def test_narrow_decimals_are_read_as_wide_ones(tmp_path: Path, narrow, scale: int) -> None:
    digits = 9 if narrow is pa.decimal32 else 17
    largest = 10**digits - 1 if digits == 9 else 2**53
    whole = [None, 0, -7, 123, largest, -largest]
    values = [None if number is None else Decimal(number).scaleb(-scale) for number in whole]
    wide = pa.array(values, pa.decimal128(38, scale))
    table = pa.table({"a": wide.cast(narrow(digits, scale)), "y": wide})
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = open_shards(str(tmp_path / "a.parquet"))
    assert dataset.shards[0].columns[0].stored_type.startswith(narrow.__name__)
    a, y = Readers(dataset).read(0, 0, len(whole))
    np.testing.assert_array_equal(a, y)
    np.testing.assert_allclose(a[1:], np.array(whole[1:]) / 10**scale, rtol=1e-15)


def test_a_shard_replaced_after_opening_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", numbers())
    dataset = open_shards(str(path))
    readers = Readers(dataset)
    readers.read(0, 0, 10)
    write_parquet(path, numbers(500))
    for reader in (readers, Readers(dataset)):
        with pytest.raises(DataError, match="has changed since it was opened"):
            reader.read(0, 0, 10)
    path.unlink()
    with pytest.raises(DataError, match="cannot be"):
        readers.read(0, 0, 10)


def test_a_zarr_chunk_that_vanishes_is_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", numbers())
    dataset = open_shards(str(path))
    readers = Readers(dataset)
    readers.read(0, 0, 900)
    (path / "c" / "1" / "0").unlink()
    readers.read(0, 0, 300)
    with pytest.raises(DataError, match="chunk c/1/0 is missing"):
        readers.read(0, 299, 301)
    with pytest.raises(DataError, match="has changed"):
        Readers(dataset).read(0, 0, 1)


def test_fewer_rows_than_the_footer_says_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_shards(str(write_parquet(tmp_path / "a.parquet", numbers())))
    whole = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda *args, **options: whole(*args, **options).slice(0, 250),
    )
    with pytest.raises(DataError, match="claims 300 rows, but the file has 250"):
        Readers(dataset).read(0, 0, 300)


def test_reading_zarr_leaves_zarrs_config_as_it_was(tmp_path: Path) -> None:
    before = zarr.config.get("codec_pipeline")
    dataset = open_shards(str(write_zarr(tmp_path / "a.zarr", numbers())))
    Readers(dataset).read(0, 0, 10)
    assert zarr.config.get("codec_pipeline") == before


def test_a_small_range_of_a_large_row_group_does_not_keep_the_row_group(tmp_path: Path) -> None:
    values = numbers(300_000)
    dataset = open_shards(
        str(write_parquet(tmp_path / "a.parquet", values, row_group_size=len(values)))
    )
    before = pa.total_allocated_bytes()
    columns = Readers(dataset).read(0, 150_000, 150_100)
    assert pa.total_allocated_bytes() - before < 1 << 20
    np.testing.assert_array_equal(np.stack(columns, axis=1), values[150_000:150_100])


def test_columns_in_another_order_are_read_from_a_part_of_a_large_row_group(tmp_path):
    """In small batches, whose columns have the order of the file or the one asked for."""
    rows = 140_000
    table = pa.table({name: np.arange(rows) + 0.5 * i for i, name in enumerate("yab")})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=rows)
    dataset = open_shards(str(tmp_path / "t.parquet"), features=["b", "a"], target="y")
    found = Readers(dataset).read(0, 70_000, 70_002)
    np.testing.assert_array_equal(found, [[70_001, 70_002], [70_000.5, 70_001.5], [70_000, 70_001]])


def count_decoded(monkeypatch) -> list[tuple[int, int]]:
    """Return the ranges that readers of Parquet decode from now on."""
    decode, ranges = ParquetReader._read, list[tuple[int, int]]()

    def counted(self, columns, decoded_type, start, stop):
        ranges.append((start, stop))
        return decode(self, columns, decoded_type, start, stop)

    monkeypatch.setattr(ParquetReader, "_read", counted)
    return ranges


def test_kept_rows_are_decoded_once_and_read_only(tmp_path: Path, monkeypatch) -> None:
    dataset = generate(tmp_path / "data", rows=2000, span_rows=1000)
    kept, plain = Readers(dataset, keeps_rows=True), Readers(dataset)
    ranges = [(0, 1000), (1000, 2000)]
    expected = {rows: np.stack(plain.read(0, *rows)) for rows in ranges}
    decoded = count_decoded(monkeypatch)
    for rows in [*ranges, *ranges, *ranges]:
        columns = kept.read(0, *rows)
        np.testing.assert_array_equal(np.stack(columns), expected[rows])
        assert not any(column.flags.writeable for column in columns)
    assert decoded == ranges
    kept.read(0, 500, 1500)
    kept.read(0, 500, 1500)  # more rows than the shard has would be kept
    assert decoded == [*ranges, (500, 1500), (500, 1500)]
    plain.read(0, 0, 1000)
    plain.read(0, 0, 1000)
    assert decoded[4:] == [(0, 1000), (0, 1000)]


def test_kept_rows_are_not_used_once_the_file_changed(tmp_path: Path, monkeypatch) -> None:
    dataset = generate(tmp_path / "data", rows=1000)
    other = generate(tmp_path / "other", rows=1000, seed=1)
    file, readers = Path(dataset.shards[0].url), Readers(dataset, keeps_rows=True)
    before = np.stack(readers.read(0, 0, 1000))
    decoded = count_decoded(monkeypatch)
    os.utime(file, (1.0, 1.0))
    np.testing.assert_array_equal(np.stack(readers.read(0, 0, 1000)), before)
    assert decoded == [(0, 1000)]
    file.write_bytes(Path(other.shards[0].url).read_bytes())
    with pytest.raises(DataError, match="changed"):
        readers.read(0, 0, 1000)
    file.unlink()
    with pytest.raises(DataError, match=r"shard-.*parquet"):
        readers.read(0, 0, 1000)


def test_kept_rows_are_read_again_where_only_the_pages_changed(tmp_path: Path) -> None:
    """The footer is the same: without checksums and statistics it does not show the change."""
    file = tmp_path / "t.parquet"
    table = pa.table({"a": np.arange(100.0), "y": np.arange(100.0) + 0.5})
    pq.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
    readers = Readers(open_shards(str(file)), keeps_rows=True)
    assert readers.read(0, 0, 100)[1][7] == 7.5
    changed = file.read_bytes().replace(np.float64(7.5).tobytes(), np.float64(-1.0).tobytes())
    file.write_bytes(changed)
    os.utime(file, (1.0, 1.0))
    assert [readers.read(0, 0, 100)[1][7] for _ in range(2)] == [-1.0, -1.0]


def test_rows_of_a_large_data_set_are_not_kept(tmp_path: Path, monkeypatch) -> None:
    dataset = generate(tmp_path / "data", rows=1000)
    values = 1000 * len(dataset.columns)
    for limit, times in ((values, 1), (values - 1, 2)):
        with monkeypatch.context() as patch:
            patch.setattr("streamtrain.storage.readers.KEPT_VALUES", limit)
            decoded = count_decoded(patch)
            readers = Readers(dataset, keeps_rows=True)
            readers.read(0, 0, 1000)
            readers.read(0, 0, 1000)
            assert len(decoded) == times
