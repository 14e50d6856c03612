"""The manifest: boundaries and hashes are correct, hostile names and damaged files are refused."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen import generate
from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.manifest import (
    Statistics,
    compact_boundaries,
    expand_boundaries,
    hash_shard,
    read_manifest,
)
from streamtrain.storage.moments import Moments
from streamtrain.types import Format


@given(st.lists(st.integers(1, 5), min_size=1, max_size=50))
def test_boundaries_survive_compaction(lengths: list[int]) -> None:
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    runs = compact_boundaries(boundaries)
    assert expand_boundaries(runs).tolist() == boundaries.tolist()
    assert all(run[0] != next_run[0] for run, next_run in itertools.pairwise(runs))


@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf]), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_moments_of_parts_add_up_to_those_of_the_whole(
    values: list[float], cuts: list[int]
) -> None:
    array = np.array(values, dtype=np.float64)
    parts = (Moments.of(part) for part in np.split(array, sorted(cuts)))
    total = Statistics.of(sum(parts, Moments()))
    finite = array[np.isfinite(array)]
    assert (total.count, total.nulls, total.infinite) == (
        len(finite),
        np.isnan(array).sum(),
        np.isinf(array).sum(),
    )
    if len(finite):
        assert (total.min, total.max) == (finite.min(), finite.max())
        assert total.mean is not None
        assert total.sd is not None
        np.testing.assert_allclose(
            [total.mean, total.sd], [finite.mean(), finite.std()], rtol=1e-9, atol=1e-6
        )
    else:
        assert total.mean is total.sd is total.min is total.max is None


def test_a_constant_column_has_variance_zero_exactly() -> None:
    parts = [Moments.of(np.full(rows, 0.1, dtype=np.float32)) for rows in (7, 13, 1000)]
    assert Statistics.of(parts[0] + parts[1] + parts[2]).sd == 0.0


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_the_manifest_describes_what_was_written(format: Format, tmp_path: Path) -> None:
    dataset = generate(tmp_path / "data", kind="linear", rows=1000, span_rows=40, format=format)
    manifest = read_manifest(str(tmp_path / "data"))
    assert manifest is not None
    assert manifest.rows == dataset.num_rows == sum(shard.rows for shard in manifest.shards) == 1000
    assert [shard.boundaries for shard in manifest.shards] == [[(40, 16)], [(40, 9)]]
    for entry, shard in zip(manifest.shards, dataset.shards, strict=True):
        assert entry.sha256 == hash_shard(shard.url)
        assert len(entry.sha256) == 64
        assert entry.bytes == shard.num_bytes
        assert Path(shard.url).name == entry.name
    assert manifest.statistics["y"].count == 1000
    assert manifest.truth == dataset.truth
    assert sorted(os.listdir(tmp_path / "data")) == [
        "_manifest.json",
        f"shard-00000.{format}",
        f"shard-00001.{format}",
    ]
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.parquet",
        "/etc/passwd",
        "link.parquet",
        "sub/../../outside.parquet",
        "",
        "..\\x.parquet",
    ],
)
def test_shard_names_stay_below_the_folder(name: str, tmp_path: Path) -> None:
    dataset = generate(tmp_path / "data", rows=10)
    os.replace(dataset.shards[0].url, tmp_path / "outside.parquet")
    os.symlink(tmp_path / "outside.parquet", tmp_path / "data" / "link.parquet")
    _edit(tmp_path / "data", lambda manifest: manifest["shards"][0].update(name=name))
    with pytest.raises(DataError, match=r"leaves the folder|not listed"):
        open_shards(str(tmp_path / "data"))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda m: m.update(schema_version=2), id="another version"),
        pytest.param(lambda m: m.update(extra=1), id="unknown key"),
        pytest.param(lambda m: m["shards"][0].update(rows=-1), id="negative rows"),
        pytest.param(lambda m: m["shards"][0].update(rows=11), id="other rows"),
        pytest.param(lambda m: m["shards"].append(m["shards"][0]), id="shard twice"),
        pytest.param(lambda m: m.pop("columns"), id="no columns"),
    ],
)
def test_a_damaged_manifest_is_refused(spoil, tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=10)
    _edit(tmp_path / "data", spoil)
    with pytest.raises(DataError, match="manifest"):
        open_shards(str(tmp_path / "data"))


def test_a_cut_manifest_is_refused(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=10)
    path = tmp_path / "data" / "_manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"_manifest.json: the manifest cannot be used"):
        open_shards(str(tmp_path / "data"))


def _edit(folder: Path, change) -> None:
    document = json.loads((folder / "_manifest.json").read_text())
    change(document)
    (folder / "_manifest.json").write_text(json.dumps(document))
