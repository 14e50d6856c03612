"""What is known of generated data is kept where its rows are copied, and nowhere else."""

import logging

import pytest

import data_gen
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.write.ingest import ingest
from streamtrain.types import Dataset, Reading


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Dataset:
    return data_gen.generate(
        tmp_path_factory.mktemp("truth") / "made", kind="linear", rows=3000, span_rows=512, seed=1
    )


@pytest.mark.parametrize("form", ["parquet", "zarr"])
@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_copied_and_shuffled_rows_keep_it(generated, tmp_path, form, shuffle_seed):
    made = ingest(generated.url, tmp_path / "out", format=form, shuffle_seed=shuffle_seed)
    assert made.truth == generated.truth is not None
    other_order = generated.features[::-1]
    again = ingest(made.url, tmp_path / "again", features=other_order)
    assert again.truth == generated.truth


@pytest.mark.parametrize(
    "options",
    [
        {"features": ["x0", "x1"]},
        {"target": "x3"},
        {"reading": Reading(na_values=("0.5",))},
    ],
)
def test_other_columns_or_values_lose_it_and_say_so(generated, tmp_path, caplog, options):
    with caplog.at_level(logging.INFO, "streamtrain"):
        made = ingest(generated.url, tmp_path / "out", **options)
    assert made.truth is None
    assert "is not kept" in caplog.text


def test_a_part_of_the_files_and_other_files_beside_them_have_none(generated, tmp_path):
    (shard,) = generated.shards
    assert ingest(shard.url, tmp_path / "file").truth is None
    assert ingest(f"{generated.url}/*.parquet", tmp_path / "glob").truth is None


def test_another_target_or_fewer_features_of_generated_data_are_not_its_truth(generated):
    assert open_shards(generated.url).truth == generated.truth
    assert open_shards(generated.url, features=generated.features[::-1]).truth is not None
    assert open_shards(generated.url, target="x3").truth is None
    assert open_shards(generated.url, features=["x0"]).truth is None
