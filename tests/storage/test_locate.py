"""The files that a path means: each once, and none skipped silently."""

import os
import warnings
from pathlib import Path

import pytest

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.locate import locate

from .layouts import numbers, write_parquet, write_zarr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "data" / "a.parquet", numbers())
    write_parquet(tmp_path / "data" / "deep" / "er" / "b.parquet", numbers())
    return tmp_path / "data"


def names(path: Path | str, root: Path) -> list[str]:
    return [os.path.relpath(url, root) for url in locate(str(path))]


@pytest.mark.parametrize("pattern", ["**", "*", "**/*.parquet", "../data/**", "../**", "../d*"])
def test_a_glob_that_matches_folders_and_their_files_takes_each_file_once(
    pattern: str, folder: Path
) -> None:
    assert names(folder / pattern, folder) == ["a.parquet", "deep/er/b.parquet"]


@pytest.mark.parametrize("pattern", ["", "**", "*", "**/*.zarr"])
def test_arrays_are_found_as_deep_as_files_are(pattern: str, tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", numbers())
    write_zarr(tmp_path / "deep" / "er" / "b.zarr", numbers())
    assert names(tmp_path / pattern, tmp_path) == ["a.zarr", "deep/er/b.zarr"]


@pytest.mark.parametrize("pattern", ["**", "./**", "./d/**", "d/../d/**/", "d/*"])
def test_a_relative_glob_finds_arrays_and_nothing_inside_them(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zarr(tmp_path / "d" / "a.zarr", numbers())
    monkeypatch.chdir(tmp_path)
    assert names(pattern, tmp_path) == ["d/a.zarr"]


@pytest.mark.parametrize("scheme", ["", "file://"], ids=["local", "URL"])
@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("run[1]/*.parquet", ["run[1]/a.parquet", "run[1]/x[2].parquet"]),
        ("run[1]", ["run[1]/a.parquet", "run[1]/x[2].parquet"]),
        ("run[1]/x[2].parquet", ["run[1]/x[2].parquet"]),
        ("run[1]/[ab].parquet", ["run[1]/a.parquet"]),
        ("run[2]/*.parquet", ["run2/b.parquet"]),
        ("run[12]/*", ["run1/b.parquet", "run2/b.parquet"]),
    ],
)
def test_brackets_in_a_folder_that_exists_are_its_name(
    scheme: str, pattern: str, found: list[str], tmp_path: Path
) -> None:
    for name in ("run[1]/a", "run[1]/x[2]", "run1/b", "run2/b"):
        write_parquet(tmp_path / f"{name}.parquet", numbers())
    urls = locate(f"{scheme}{tmp_path / pattern}")
    assert [os.path.relpath(url.removeprefix(scheme), tmp_path) for url in urls] == found


def test_a_pattern_that_fits_nothing_is_called_one(folder: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder, and as a pattern it matches not"):
        locate(f"{folder}/run[1]/*.parquet")
    with pytest.raises(DataError, match=r"no such file or folder\. Give"):
        locate(f"{folder}/run")


def test_a_glob_below_a_folder_that_is_not_there_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        locate(str(tmp_path / "absent" / "**"))


def test_a_linked_folder_is_read_once_and_never_upwards(folder: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "elsewhere" / "c.parquet", numbers())
    (folder / "0").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "1").symlink_to(folder / "deep")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "deep" / "out").symlink_to(tmp_path)
    assert names(folder, folder) == ["0/c.parquet", "a.parquet", "deep/er/b.parquet"]


@pytest.mark.parametrize("name", ["lost.parquet", "lost.zarr"])
def test_a_link_to_a_shard_that_is_not_there_is_refused(name: str, folder: Path) -> None:
    (folder / name).symlink_to(folder / "gone")
    with pytest.raises(DataError, match=f"{name}: not a regular file"):
        locate(str(folder))


def test_a_folder_that_cannot_be_listed_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir
    closed = folder / "deep"

    def scandir(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="deep: cannot be listed: Permission denied"):
        locate(str(folder))
    closed = closed.rename(folder / "lost+found")
    assert names(folder, folder) == ["a.parquet"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_file_under_two_names_is_warned_of(link, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_shards(str(folder)).num_rows == 2000
    link(folder / "a.parquet", folder / "z.parquet")
    with pytest.warns(
        UserWarning,
        match=(r"z\.parquet and .*a\.parquet are the same file: each row of it is used twice"),
    ):
        assert open_shards(str(folder)).num_rows == 3000
