"""Hostile data: one DataError that names it, before memory is allocated by its claims.

Nothing in the data is executed.
"""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from data_gen import generate
from streamtrain.config import FetchConfig, make_config
from streamtrain.errors import DataError, ResourceError, StreamTrainError
from streamtrain.plan.spans import MAX_SPANS, cut_spans
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.inspect import inspect
from streamtrain.storage.manifest import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    write_manifest,
)
from streamtrain.storage.parquet import parquet_footer
from streamtrain.storage.parquet.parquet_reader import ParquetReader
from streamtrain.storage.readers import Readers
from streamtrain.storage.verify import verify
from streamtrain.storage.write.ingest import ingest
from streamtrain.stream.open_source import open_source, stream_budget
from streamtrain.types import Format

from .layouts import numbers, write_parquet, write_zarr


def refusal(path: Path, **choice) -> str:
    """Return the error of opening and reading all of a data set; every line must be printable."""
    with pytest.raises(DataError) as caught:
        dataset = open_shards(str(path), **choice)
        for number, shard in enumerate(dataset.shards):
            Readers(dataset).read(number, 0, shard.num_rows)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    return str(caught.value)


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(str(folder))
    assert manifest is not None
    return manifest


# --- names ---


def test_columns_of_one_name_are_refused_as_data(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1.0], [2.0], [3.0]], names=["a", "a", "y"]), tmp_path / "a.parquet")
    assert "the same name: 'a'" in refusal(tmp_path)
    pq.write_table(pa.table([[1.0], [2.0], [3.0]], names=["a", "y", "y"]), tmp_path / "a.parquet")
    assert "the same name: 'y'" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["a\nerror: all is well", "a\x1b[2J", "a\u202eb", "a\rb"],
    ids=["newline", "escape", "bidi", "return"],
)
def test_names_cannot_write_to_the_terminal(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({name: [1.0], "y": [1.0]}), tmp_path / "a.parquet")
    assert "contains control characters" in refusal(tmp_path / "a.parquet")
    assert "no column 'q'" in refusal(tmp_path / "a.parquet", features=["q"])
    inner = pa.array([{name: 1.0}])
    pq.write_table(pa.table({"s": inner, "y": [1.0]}), tmp_path / "a.parquet")
    assert "column 's' has type struct" in refusal(tmp_path / "a.parquet", features=["s"])
    with pytest.warns(UserWarning, match="left out") as caught, pytest.raises(DataError):
        open_shards(str(tmp_path / "a.parquet"))
    assert str(caught[0].message).isprintable()
    write_zarr(tmp_path / "z" / "a.zarr", numbers())
    zarr.open_array(str(tmp_path / "z" / "a.zarr")).attrs["columns"] = ["a", "b", name]
    assert "contains control characters" in refusal(tmp_path / "z")
    write_parquet(tmp_path / "f" / f"{name}.parquet", numbers())
    assert "contains control characters" in refusal(tmp_path / "f")


def test_hive_partitions_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    for year in (2023, 2024):
        write_parquet(tmp_path / f"year={year}" / "a.parquet", numbers())
    with pytest.warns(UserWarning, match=r"Hive partitions are not read \(year\)"):
        assert open_shards(str(tmp_path)).columns == ("a", "b", "y")
    with pytest.warns(UserWarning, match="not read"):
        assert "'year'" in (said := refusal(tmp_path, features=["year"]))
        assert "Hive partition, which is not read" in said


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_hive_partitions_of_text_are_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))
    text = "x,y\n1,2\n3,4\n" if suffix == "csv" else '{"x": 1, "y": 2}\n'
    for year in (2023, 2024):
        folder = tmp_path / "data" / f"year={year}"
        folder.mkdir(parents=True)
        (folder / f"a.{suffix}").write_text(text)
    for _ in range(2):  # also from the cache
        with pytest.warns(UserWarning, match=r"not read \(year\)\. Write them into the files"):
            assert open_shards(str(tmp_path / "data")).columns == ("x", "y")


def test_pipes_are_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pip*")
    for name in ("links", "pipes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text("x,y\n1,2\n3,4\n")
    (tmp_path / "links" / "b.csv").symlink_to(tmp_path / "links" / "b.csv")
    os.mkfifo(tmp_path / "pipes" / "b.csv")
    for name in ("links", "pipes"):  # beside a table, which is not taken alone either
        assert f"{name}/b.csv: not a regular file" in refusal(tmp_path / name)
    array = write_zarr(tmp_path / "a.zarr", numbers())
    (array / "c" / "1" / "0").unlink()
    os.mkfifo(array / "c" / "1" / "0")
    assert "not a regular file" in refusal(array)


# --- Zarr ---


def test_nothing_in_a_zarr_v2_object_array_or_n5_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    for name, attributes in (
        (
            "v2",
            {
                "zarr_format": 2,
                "dtype": "|O",
                "shape": [1],
                "chunks": [1],
                "filters": [{"id": "pickle"}],
                "compressor": None,
            },
        ),
        (
            "filter",
            {
                "zarr_format": 2,
                "dtype": "<f4",
                "shape": [1, 2],
                "chunks": [1, 2],
                "filters": [{"id": "pickle"}],
                "compressor": None,
                "fill_value": 0,
                "order": "C",
            },
        ),
        ("n5", {"n5": "2.0.0", "dataType": "float32", "dimensions": [1], "blockSize": [1]}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("attributes.json" if name == "n5" else ".zarray")).write_text(
            json.dumps(attributes)
        )
        (tmp_path / name / ("0.0" if name == "filter" else "0")).write_bytes(pickle.dumps(Trap()))
        words = {
            "v2": "type object, and only numbers",
            "filter": "codec 'pickle' is not known",
            "n5": "not Zarr",
        }
        assert words[name] in refusal(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("place", ["codec", "inner", "index"])
def test_codecs_are_known_by_name_before_zarr_sees_them(place: str, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", numbers(), chunks=(100, 3), shards=(400, 3))
    metadata = json.loads((path / "zarr.json").read_text())
    sharding = metadata["codecs"][0]["configuration"]
    codecs = {
        "codec": metadata["codecs"],
        "inner": sharding["codecs"],
        "index": sharding["index_codecs"],
    }[place]
    codecs.append({"name": "numcodecs.pickle"})
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert "the codec 'numcodecs.pickle' is not known" in refusal(path)


@pytest.mark.parametrize("location", ["start", "end"])
def test_an_inner_chunk_that_was_left_out_is_the_fill_value(location: str, tmp_path: Path) -> None:
    values = numbers()
    shards = {"shape": (400, 3), "index_location": location}
    path = write_zarr(tmp_path / "a.zarr", values, chunks=(100, 3), shards=shards)
    np.testing.assert_array_equal(
        np.stack(Readers(dataset := open_shards(str(path))).read(0, 0, dataset.num_rows), axis=1),
        values,
    )
    shutil.rmtree(path)
    values[500:600] = 0  # all fill value: zarr leaves the chunk out, and readers return zeros
    write_zarr(path, values, chunks=(100, 3), shards=shards)
    with pytest.warns(UserWarning, match="1 chunk is missing and read as the fill value"):
        dataset = open_shards(str(path))
    np.testing.assert_array_equal(
        np.stack(Readers(dataset).read(0, 0, dataset.num_rows), axis=1), values
    )


def test_an_index_that_points_beyond_its_shard_is_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", numbers(), chunks=(100, 3), shards=(400, 3))
    chunk = path / "c" / "0" / "0"
    whole = chunk.read_bytes()
    index = np.frombuffer(whole[-68:-4], dtype="<u8").copy()
    for position, value in ((0, 2**40), (1, 2**40), (0, 2**64 - 2)):
        wrong = index.copy()
        wrong[position] = value
        chunk.write_bytes(whole[:-68] + wrong.tobytes() + whole[-4:])
        assert "points beyond" in refusal(path)
    chunk.write_bytes(whole[:60])
    assert "its index alone" in refusal(path)


# --- decompression bombs and false claims: refused by arithmetic ---


def test_a_zarr_chunk_far_larger_than_its_array_counts_in_the_budget(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", numbers(10), chunks=(5_000_000, 3))
    dataset = open_shards(str(path))
    assert dataset.shards[0].read_rows == 5_000_000
    assert dataset.shards[0].num_bytes < 2**20
    source = open_source(dataset, make_config({"order": {"span_rows": 100}}), holdout=0)
    with pytest.raises(ResourceError, match=r"decoding \(1\d\d[\d.]* MiB\)"):
        fetch = FetchConfig.model_validate({"memory": 2**27})
        stream_budget(source, fetch, fixed_bytes=0)


def test_more_rows_than_a_plan_can_hold_are_refused_before_the_plan_is_made(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", numbers(10), chunks=(10, 3))
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["shape"][0] = metadata["chunk_grid"]["configuration"]["chunk_shape"][0] = 2**52
    (path / "zarr.json").write_text(json.dumps(metadata))
    dataset = open_shards(str(path))
    with pytest.raises(
        DataError, match=rf"{2**52:,} rows in 1 shards make more than {MAX_SPANS:,} spans"
    ):
        cut_spans(dataset.shards, span_rows=262_144, window_rows=2**21)


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_a_manifest_that_lies_about_a_shard_is_found_out_when_it_is_read(
    format: Format, tmp_path: Path
) -> None:
    generate(tmp_path / "data", rows=1000, span_rows=100, format=format)
    made = manifest_of(tmp_path / "data")
    entry = made.shards[0]
    names = [*made.columns[:-1], "z"] if format == "parquet" else [*made.columns, "z"]
    statistics = dict.fromkeys(names, made.statistics["y"])
    for change in (
        made.model_copy(
            update={
                "shards": [entry.model_copy(update={"rows": 900, "boundaries": [(100, 9)]})],
                "rows": 900,
            }
        ),
        made.model_copy(update={"columns": names, "statistics": statistics}),
    ):
        write_manifest(str(tmp_path / "data"), change)
        assert entry.name in refusal(tmp_path / "data")
    if format == "parquet":  # `inspect` reads footers, and does not trust the manifest either
        with pytest.raises(DataError, match=entry.name):
            inspect(open_shards(str(tmp_path / "data")))
    write_manifest(str(tmp_path / "data"), made.model_copy(update={"columns": names}))
    assert "columns and its statistics have different names" in refusal(tmp_path / "data")


def test_a_manifest_cannot_promise_float32_of_a_wider_column(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=10)
    made = manifest_of(tmp_path / "data")
    path = tmp_path / "data" / made.shards[0].name
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(0, table.column_names[0], table.column(0).cast(pa.float64())), path
    )
    source = open_shards(str(path)).shards[0].source
    entry = made.shards[0].model_copy(update={"bytes": path.stat().st_size, "source": source})
    write_manifest(str(tmp_path / "data"), made.model_copy(update={"shards": [entry]}))
    assert "not the float32 that was described" in refusal(tmp_path / "data")


def test_huge_counts_in_a_manifest_are_refused(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=10)
    path = tmp_path / "data" / MANIFEST_NAME
    whole = path.read_text()
    for number in (2**60, 2**63, 10**400):
        document = json.loads(whole)
        document["shards"][0].update(rows=number, boundaries=[[number, 1]])
        path.write_text(json.dumps(document))
        assert "the manifest cannot be used" in refusal(tmp_path / "data")


def test_a_row_group_that_claims_more_values_than_rows_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch
) -> None:
    path = write_parquet(tmp_path / "a.parquet", numbers())
    dataset = open_shards(str(path))
    monkeypatch.setattr("streamtrain.storage.parquet.guard._MAX_EXTRA_BYTES", 0)
    monkeypatch.setattr("streamtrain.storage.parquet.guard._MAX_BYTES_PER_ROW", 1)
    with pytest.raises(
        DataError,
        match=(
            r"row group 0, column 'a': the footer claims 300 values that decode to [\d,]+ bytes,"
            r" for 300 rows"
        ),
    ):
        Readers(dataset).read(0, 0, 10)


# --- CSV ---


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740993",
        "-9007199254740993",
        "18446744073709551617",
        "1" * 30,
        "1e400",
        "-1e400",
        ".5e999",
    ],
)
def test_numbers_in_csv_that_float64_cannot_hold_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamtrain.storage.write.text_source.CHUNK_BYTES", 256)
    (tmp_path / "a.csv").write_text(
        "a,y\n" + "1.5,2\n" * 100 + "1e20,3\n" * 100 + f"{text},1\n" + "1,2\n" * 50
    )
    with pytest.raises(DataError, match=r"a\.csv: column 'a': .*(beyond ±2\^53|beyond float64)"):
        ingest(tmp_path / "a.csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_large_numbers_in_csv_that_float64_holds_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamtrain.storage.write.text_source.CHUNK_BYTES", 64)
    written = [
        "9007199254740992",
        "1e300",
        "-1.7e308",
        "inf",
        "-Infinity",
        "9007199254740994.0",
        "1",
    ]
    (tmp_path / "a.csv").write_text("a,y\n" + "".join(f"{text},2\n" for text in written * 20))
    dataset = ingest(tmp_path / "a.csv", tmp_path / "out")
    assert Readers(dataset).read(0, 0, dataset.num_rows)[0].tolist() == [
        float(text) for text in written * 20
    ]


# --- reads that fail ---


@pytest.mark.parametrize("failures", [1, 2])
def test_a_read_that_fails_is_tried_once_more(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_shards(str(write_parquet(tmp_path / "a.parquet", numbers())))
    whole, left = ParquetReader.read, [failures]

    def read(*args):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(5, "Input/output error")
        return whole(*args)

    monkeypatch.setattr(ParquetReader, "read", read)
    if failures == 1:
        np.testing.assert_array_equal(
            np.stack(Readers(dataset).read(0, 5, 700), axis=1), numbers()[5:700]
        )
    else:
        with pytest.raises(
            DataError, match=r"a\.parquet: rows 5 to 700 cannot be decoded: .*Input/output error"
        ):
            Readers(dataset).read(0, 5, 700)


def test_a_forward_read_that_fails_goes_on_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = numbers(200_000)
    dataset = open_shards(
        str(write_parquet(tmp_path / "a.parquet", values, row_group_size=len(values)))
    )
    whole, calls = pq.ParquetFile.iter_batches, [0]

    def iter_batches(*args, **options):
        calls[0] += 1
        for number, batch in enumerate(whole(*args, **options)):
            if calls[0] == 1 and number == 1:
                raise OSError(5, "Input/output error")
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    forward = Readers(dataset).forward(0)
    parts = [
        np.stack(forward.read(start, start + 50_000), axis=1) for start in range(0, 200_000, 50_000)
    ]
    forward.close()
    np.testing.assert_array_equal(np.concatenate(parts), values)
    assert calls[0] == 2


def test_memory_that_does_not_suffice_is_said_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_shards(str(write_parquet(tmp_path / "a.parquet", numbers())))

    def read(*args):
        raise pa.ArrowMemoryError("malloc of size 1073741824 failed")

    monkeypatch.setattr(ParquetReader, "read", read)
    with pytest.raises(
        ResourceError, match=r"a\.parquet: rows 0 to 10 do not fit in memory: malloc"
    ) as caught:
        Readers(dataset).read(0, 0, 10)
    assert isinstance(caught.value, StreamTrainError)
    assert caught.value.exit_code == 4


def test_swapped_chunks_are_refused(tmp_path: Path) -> None:
    """Each chunk is complete and has a correct crc32c; only the order is wrong."""
    made = generate(tmp_path / "data", rows=1000, span_rows=100, format="zarr")
    chunks = Path(made.shards[0].url) / "c"
    (chunks / "2").rename(chunks / "kept")
    (chunks / "5").rename(chunks / "2")
    (chunks / "kept").rename(chunks / "5")
    assert "not the shard that _manifest.json describes" in refusal(tmp_path / "data")


def test_a_footer_of_which_we_read_other_row_groups_than_arrow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fuzzing found one: a damaged list that Arrow reads further than our parser does."""
    path = write_parquet(tmp_path / "a.parquet", numbers())
    dataset = open_shards(str(path))
    genuine = parquet_footer._chunks_of
    monkeypatch.setattr(parquet_footer, "_chunks_of", lambda *arguments: genuine(*arguments)[:-1])
    with pytest.raises(DataError, match="does not describe its column chunks"):
        Readers(dataset).read(0, 0, 10)
    (finding,) = verify(str(path)).findings
    assert "does not describe" in finding.cause
