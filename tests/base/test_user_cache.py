"""The folder of the user for files that can be made again, also without a home folder."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from streamtrain.base.user_cache import user_cache


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The private folder beside temporary files, which does not exist yet."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"streamtrain-{os.getuid()}"


def test_the_cache_is_where_the_platform_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "streamtrain"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert user_cache() == tmp_path / ".cache" / "streamtrain"
    monkeypatch.setattr("sys.platform", "darwin")
    assert user_cache() == tmp_path / "Library" / "Caches" / "streamtrain"


@pytest.mark.parametrize("home", ["none", "a file", "read-only"])
def test_without_a_home_folder_it_is_a_private_one(tmp_path, monkeypatch, temporary, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if home == "none":  # a user without an entry in passwd
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    elif home == "a file":
        (tmp_path / "home").write_text("")
    else:  # also for root, who may write everywhere but on a read-only mount
        (tmp_path / "home").mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "home")
    assert user_cache() == temporary
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert user_cache() == temporary


@pytest.mark.parametrize("made", ["open to others", "a link", "of another user", "a file"])
def test_a_folder_that_others_may_have_filled_is_not_used(tmp_path, monkeypatch, temporary, made):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    if made == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        temporary.symlink_to(tmp_path / "elsewhere")
    elif made == "a file":
        temporary.write_text("")
    else:
        temporary.mkdir(mode=0o700)
    if made == "open to others":
        temporary.chmod(0o770)
    if made == "of another user":
        status = os.lstat(temporary)
        other = os.stat_result((*status[:4], status.st_uid + 1, *status[5:10]))
        monkeypatch.setattr(os, "lstat", lambda path: other)
    assert user_cache() is None
