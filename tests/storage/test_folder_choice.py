"""Which files of a folder are the data set: one split, and no file passed over in silence."""

import warnings
from pathlib import Path

import pytest

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.folder_choice import may_be_parquet, split_of
from streamtrain.storage.locate import locate

from .layouts import numbers, write_parquet, write_zarr


def found(path: Path, root: Path | None = None) -> list[str]:
    return [str(Path(url).relative_to(root or path)) for url in locate(str(path))]


@pytest.mark.parametrize(
    ("train", "others", "left_out"),
    [
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            ["data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"],
            "2 files of the split train and left out 1 of test, 1 of validation",
        ),
        (["train.parquet"], ["dev.parquet"], "1 file of the split train and left out 1 of valid"),
        (["default/train/0000.parquet"], ["default/test/0000.parquet"], "left out 1 of test"),
        (["a/Training/0.parquet"], ["b/val/1.parquet", "c.parquet"], "validation, 1 of no split"),
        (["house_train.parquet"], ["house_test.parquet"], "left out 1 of test"),
    ],
)
def test_of_several_splits_train_is_taken_and_the_others_are_named(
    train, others, left_out, tmp_path: Path
) -> None:
    for name in (*train, *others):
        write_parquet(tmp_path / name, numbers())
    with pytest.warns(UserWarning, match=left_out) as said:
        assert found(tmp_path) == train
    assert len(said) == 1
    with pytest.warns(UserWarning, match=left_out):
        assert open_shards(str(tmp_path)).num_rows == 1000 * len(train)


def test_arrays_have_splits_too(tmp_path: Path) -> None:
    for name in ("train.zarr", "test.zarr"):
        write_zarr(tmp_path / name, numbers())
    with pytest.warns(UserWarning, match=r"left out 1 of test\. Name a split with a glob"):
        assert found(tmp_path) == ["train.zarr"]


def test_splits_without_train_are_refused_until_one_is_named(tmp_path: Path) -> None:
    for name in ("test-0.parquet", "validation-0.parquet"):
        write_parquet(tmp_path / name, numbers())
    with pytest.raises(DataError, match=r"has the splits test and validation, .* no train. Choose"):
        locate(str(tmp_path))
    assert found(tmp_path / "test-*", tmp_path) == ["test-0.parquet"]


@pytest.mark.parametrize(
    "names",
    [
        ["test-0.parquet", "test-1.parquet"],
        ["train/0.parquet", "train/1.parquet", "more.parquet"],
        ["trains-0.parquet", "latest.parquet", "contest-2.parquet", "evaluations.parquet"],
        ["2020.parquet", "2021.parquet", "part-00000-of-00002.parquet"],
    ],
    ids=lambda names: names[0],
)
def test_without_two_splits_every_file_is_taken(names, tmp_path: Path) -> None:
    for name in names:
        write_parquet(tmp_path / name, numbers())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(tmp_path) == sorted(names)


def test_a_glob_takes_what_it_matches(tmp_path: Path) -> None:
    for name in ("train-0.parquet", "test-0.parquet"):
        write_parquet(tmp_path / name, numbers())
    assert found(tmp_path / "*.parquet", tmp_path) == ["test-0.parquet", "train-0.parquet"]


def test_parquet_files_of_other_names_are_passed_over_aloud(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parq", "c.PQ", "deep/000000_0", "z.parq"):
        write_parquet(tmp_path / name, numbers())
    (tmp_path / "README").write_text("no data")
    (tmp_path / "LICENSE-2.0").write_text("no data")
    write_parquet(tmp_path / "_hidden.pq", numbers())
    with pytest.warns(
        UserWarning,
        match=r"took 1 \*\.parquet file and passed over b\.parq, c\.PQ, deep/000000_0 and 1 more",
    ):
        assert found(tmp_path) == ["a.parquet"]
    (tmp_path / "a.parquet").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(tmp_path) == ["b.parq", "c.PQ", "deep/000000_0", "z.parq"]
        assert open_shards(str(tmp_path)).num_rows == 4000


def test_a_file_without_a_suffix_is_parquet_by_its_first_bytes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "part", numbers())
    (tmp_path / "text").write_text("PAR is not enough")
    (tmp_path / "folder").mkdir()
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    names = ("part", "text", "folder", "lost")
    assert [may_be_parquet(str(tmp_path / name)) for name in names] == [True, False, False, False]
    assert may_be_parquet("s3://b/part-00000")
    assert not may_be_parquet("s3://b/README")


@pytest.mark.parametrize("name", ["train_test.parquet", "x.parquet", "test2train.parquet"])
def test_a_name_of_two_splits_or_none_is_of_no_split(name: str) -> None:
    assert split_of(name) is None
