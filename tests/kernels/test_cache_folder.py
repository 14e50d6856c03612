"""Kernels can be imported where Numba finds no writable folder for its cache."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamtrain.errors import ResourceError
from streamtrain.kernels import cache_folder

PROGRAM = """
import os, stat
from streamtrain.kernels import page_headers
folder = os.environ["NUMBA_CACHE_DIR"]
print(folder, oct(stat.S_IMODE(os.stat(folder).st_mode)))
"""


def test_a_folder_without_space_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cache_folder, "user_cache", lambda: tmp_path)
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=150_000))
    with pytest.raises(
        ResourceError, match=r"kernels need 8.0 MiB, and 146.5 KiB are free\. Set NUM"
    ):
        cache_folder._make_folder()
    assert os.listdir(tmp_path) == []
    (tmp_path / "kernels").mkdir()  # it may have all of them
    assert cache_folder._make_folder() == str(tmp_path / "kernels")


@pytest.mark.parametrize("is_private", [True, False], ids=["a private folder", "no folder at all"])
def test_kernels_are_imported_where_numba_finds_no_folder(tmp_path: Path, is_private: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    # This locator uses neither the package's folder nor the user's.
    environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "UserProvidedCacheLocator"
    (tmp_path / "home").write_text("no folder")
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    private = tmp_path / f"streamtrain-{os.getuid()}"
    private.mkdir(mode=0o700)
    if not is_private:
        private.chmod(0o777)
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    folder, mode = child.stdout.split()
    assert mode == "0o700"
    assert (folder == str(private / "kernels")) == is_private
    assert os.path.exists(folder) == is_private
