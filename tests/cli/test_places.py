"""Every verb in strange folders, and in a container: another user without a home folder."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.every_verb import run_every_verb

#: A user id that has no entry in passwd.
_USER = "54321"


def test_every_verb_works_in_a_folder_of_any_name(tmp_path, monkeypatch):
    folder = tmp_path / 'a b [1] 50%25 größe 数 it\'s "q" {x} $HOME #?*~\nline'
    folder.mkdir()
    monkeypatch.chdir(folder)
    run_every_verb(folder, pictures=False)


@pytest.mark.slow
@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can be another user"
)
def test_every_verb_works_for_a_user_without_a_home_folder(tmp_path):
    """As in a container: any user id, LANG=C, nothing writable but the folder and a small TMPDIR.

    The user may read all files, since the interpreter of the tests may lie in root's home.
    """
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()
    for folder in (tmp_path / "work", tmp_path / "tmp"):
        os.chown(folder, int(_USER), int(_USER))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LANG": "C",
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    capability = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    done = subprocess.run(
        [
            *("setpriv", "--reuid", _USER, "--regid", _USER, "--clear-groups", *capability),
            *(sys.executable, "-m", "tests.cli.every_verb", str(tmp_path / "work")),
        ],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    private = tmp_path / "tmp" / f"streamtrain-{_USER}"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert {"kernels", "tables"} < set(os.listdir(private))
