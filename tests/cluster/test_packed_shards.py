"""A worker gets the driver's description of the shards, and opens those that it reads."""

import os
import shutil
from dataclasses import replace

import pytest

from data_gen import generate
from streamtrain.cluster.run_spec import RunSpec, open_run
from streamtrain.cluster.worker import WorkerSetupError, raise_if_other_data
from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.run.prepare import prepare
from streamtrain.storage.parquet import parquet_footer
from streamtrain.storage.zarr import zarr_reader

ROWS, SHARDS = 6_000, 12


@pytest.fixture(params=["parquet", "zarr"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setattr("streamtrain.storage.write.writer.SPANS_PER_SHARD", 1)
    generate(tmp_path / "data", rows=ROWS, span_rows=ROWS // SHARDS, format=request.param)
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch):
    """The shards whose footer or metadata is read, by name, in order."""
    names = []

    def noted(module, name):
        original = getattr(module, name)

        def note(url, *rest, **options):
            names.append(os.path.basename(url))
            return original(url, *rest, **options)

        monkeypatch.setattr(module, name, note)

    noted(parquet_footer, "_read_footer")
    noted(zarr_reader, "open_folder")
    return names


def spec_of(path, **data):
    config = make_config(
        {
            "data": {"path": str(path), **data},
            "order": {"window_rows": 1024},
            "fetch": {"memory": "256MiB"},
        }
    )
    return RunSpec.of(prepare(config, learners=1, rates=1))


def test_a_worker_opens_the_shards_that_it_reads_and_no_other(folder, opened):
    spec = spec_of(folder)
    assert len(set(opened)) == SHARDS
    opened.clear()
    source = open_run(spec, threads=1, memory_limit=None).source
    assert opened == []
    assert spec.data_fingerprint.startswith(source.dataset.fingerprint)
    assert len(source.dataset.shards) == SHARDS
    for span in (3, 7, 3, 7):
        source.read(source.spans[span])
    assert opened == [os.path.basename(source.dataset.shards[shard].url) for shard in (3, 7)]


def test_another_file_is_refused_when_it_is_first_read(folder, tmp_path):
    spec = spec_of(folder)
    (swapped, other) = sorted(folder.glob("shard-*"))[4:6]
    swapped.rename(tmp_path / "old")
    copy = shutil.copytree if other.is_dir() else shutil.copy
    copy(other, swapped)
    source = open_run(spec, threads=1, memory_limit=None).source
    source.read(source.spans[5])
    with pytest.raises(DataError, match=rf"{swapped.name}: the (file|array) has changed") as other:
        source.read(source.spans[4])
    # another worker may see the right one, so only this one is excluded
    with pytest.raises(WorkerSetupError) as excluded:
        raise_if_other_data(source.dataset, other.value)
    assert f"{swapped.name}: a worker sees other data" in str(excluded.value.args[0])
    shutil.rmtree(swapped) if swapped.is_dir() else swapped.unlink()
    with pytest.raises(WorkerSetupError, match="a worker sees other data"):
        raise_if_other_data(source.dataset, other.value)
    (tmp_path / "old").rename(swapped)
    raise_if_other_data(source.dataset, other.value)
    raise_if_other_data(source.dataset, DataError(f"{other}: column 'x0' has a null"))


def test_a_relative_path_means_the_drivers_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i},{2 * i % 7}\n" for i in range(50)))
    monkeypatch.chdir(tmp_path)
    specs = [spec_of("data"), spec_of("t.csv")]
    monkeypatch.chdir("elsewhere")
    for spec in specs:
        source = open_run(spec, threads=1, memory_limit=None).source
        assert spec.data_fingerprint.startswith(source.dataset.fingerprint)
        assert len(source.read(source.spans[0])[0])


def test_chosen_columns_and_transforms_are_those_of_the_driver(folder, tmp_path, monkeypatch):
    (tmp_path / "sums.py").write_text("def of(c): return {'sum': c['x0'] + c['x2']}\n")
    monkeypatch.chdir(tmp_path)
    for data, expected in (
        ({"features": ["x2", "x0"], "target": "x1"}, ("x2", "x0", "x1")),
        ({"transform": "sums:of"}, ("sum", "y")),
    ):
        source = open_run(spec_of(folder, **data), threads=1, memory_limit=None).source
        assert source.dataset.columns == expected
        assert len(source.read(source.spans[0])) == len(expected)


def test_a_damaged_description_is_refused(folder):
    spec = spec_of(folder)
    damaged = bytearray(spec.shards.content)
    damaged[len(damaged) // 2] ^= 1
    spec = replace(spec, shards=replace(spec.shards, content=bytes(damaged)))
    with pytest.raises(DataError, match="damaged on its way"):
        open_run(spec, threads=1, memory_limit=None)
