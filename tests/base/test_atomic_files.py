"""Files are written through no link, and what killed processes left is removed.

What a file holds when a call fails, or the process is killed, is tested in faults/test_save.py.
"""

import os
from contextlib import ExitStack

import pytest

from streamtrain.base import atomic_files
from streamtrain.base.atomic_files import (
    make_folder,
    new_file,
    open_folder,
    remove_temporaries,
    write_atomically,
)
from streamtrain.errors import DataError


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(b"mine")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_temporary_name_that_is_taken_is_not_opened(folder, victim, monkeypatch, kind):
    monkeypatch.setattr(atomic_files.secrets, "token_hex", lambda _: "0123456789abcdef")
    taken = folder / ".report.md.0123456789abcdef.tmp"
    if kind == "link":
        taken.symlink_to(victim)
    else:
        os.link(victim, taken)
    with pytest.raises(FileExistsError):
        write_atomically(folder / "report.md", b"theirs")
    assert victim.read_bytes() == b"mine"


def test_no_temporary_name_can_be_guessed(folder):
    names = set()
    for _ in range(3):
        with new_file(folder / "report.md"):
            (name,) = os.listdir(folder)
        names.add(name)
        (folder / "report.md").unlink()
    assert len(names) == 3


def test_a_link_with_the_name_of_the_file_is_replaced(folder, victim):
    (folder / "report.md").symlink_to(victim)
    write_atomically(folder / "report.md", b"new")
    assert victim.read_bytes() == b"mine"
    assert (folder / "report.md").read_bytes() == b"new"
    assert not (folder / "report.md").is_symlink()


def test_a_run_may_be_a_link_and_its_folders_may_not(tmp_path, folder):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(folder)
    write_atomically(
        make_folder(tmp_path / "linked" / "best", within=tmp_path / "linked") / "a",
        b"a",
        within=tmp_path / "linked",
    )
    assert (folder / "best" / "a").read_bytes() == b"a"
    (folder / "charts").symlink_to(tmp_path / "elsewhere")
    for write in (
        lambda: write_atomically(folder / "charts" / "a.svg", b"", within=folder),
        lambda: make_folder(folder / "charts", within=folder),
        lambda: os.close(open_folder(folder / "charts" / "deep", within=folder, make=True)),
    ):
        with pytest.raises(DataError, match="charts: it is a link, and nothing is written"):
            write()
    (folder / "gone").symlink_to(tmp_path / "missing")
    with pytest.raises(DataError, match="gone: it is a link"):
        make_folder(folder / "gone", within=folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mknod], ids=["pipe", "file"])
def test_what_is_no_folder_is_named(folder, make):
    make(folder / "best")
    with pytest.raises(DataError, match="best: it is not a folder"):
        make_folder(folder / "best", within=folder)


def test_only_what_a_dead_process_left_is_removed(tmp_path, folder, victim):
    kept = {
        ".profile",
        ".notes.tmp",
        ".a.0123456789abcdeg.tmp",
        "a.0123456789abcdef.tmp",
        ".linked.0123456789abcdef.tmp",
        ".folder.0123456789abcdef.tmp",
        ".pipe.0123456789abcdef.tmp",
    }
    for name in kept:
        if "linked" in name:
            (folder / name).symlink_to(victim)
        elif "folder" in name:
            (folder / name).mkdir()
        elif "pipe" in name:
            os.mkfifo(folder / name)
        else:
            (folder / name).touch()
    for name in (".report.md.4711.tmp", ".b c.\n.0123456789abcdef.tmp"):
        (folder / name).touch()
    with ExitStack() as stack:
        stack.enter_context(new_file(folder / "being written"))
        held = set(os.listdir(folder)) - kept - {".report.md.4711.tmp"}
        held = {name for name in held if "being" in name}
        remove_temporaries(folder)
        assert set(os.listdir(folder)) == kept | held
    assert set(os.listdir(folder)) == kept | {"being written"}
    (tmp_path / "link").symlink_to(folder)
    (folder / ".a.7.tmp").touch()
    remove_temporaries(tmp_path / "link", within=tmp_path)
    remove_temporaries(tmp_path / "missing")
    assert (folder / ".a.7.tmp").exists()
    assert victim.read_bytes() == b"mine"


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(folder, monkeypatch):
    lock, stolen = atomic_files.fcntl.flock, []

    def lock_late(file, how):
        if not stolen:
            (name,) = os.listdir(folder)
            (folder / name).unlink()
            stolen.append(name)
        lock(file, how)

    monkeypatch.setattr(atomic_files.fcntl, "flock", lock_late)
    write_atomically(folder / "a", b"whole")
    assert os.listdir(folder) == ["a"]
    assert (folder / "a").read_bytes() == b"whole"
