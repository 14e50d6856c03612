"""An error names the path that could not be written, also where the system does not."""

import errno
import os
from pathlib import Path

import pytest

from data_gen import generate
from streamtrain.base.writing import naming_path
from streamtrain.cli.main import run
from streamtrain.errors import ResourceError


def test_train_names_its_folder_wherever_the_disk_is_full(tmp_path, monkeypatch, capsys):
    """The first, second, middle and last writes into the folder fail in turn."""
    generate(tmp_path / "data", kind="linear", rows=1000, span_rows=500)
    genuine, left, written = os.write, [0], []

    def write(file: int, content: bytes) -> int:
        path = os.readlink(f"/proc/self/fd/{file}")
        if path.startswith(str(tmp_path / "run")):
            written.append(path)
            left[0] -= 1
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return genuine(file, content)

    def train(out: Path, number: int) -> int:
        written.clear()
        left[0] = number
        words = ("--hidden", "4", "--epochs", "1", "--holdout", "200", "--no-report", "--quiet")
        return run(["train", str(tmp_path / "data"), "--out", str(out), *words])

    monkeypatch.setattr(os, "write", write)
    assert train(tmp_path / "run", 0) == 0
    places = {1, 2, len(written) // 2, len(written)}
    assert len(places) == 4, written
    for number in sorted(places):
        out = tmp_path / f"run-{number}"
        assert train(out, number) == 4
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert str(out) in said, number
        assert "No space left on device" in said


def test_the_path_and_the_cause_are_in_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ResourceError) as caught, naming_path(path, "Free some space."):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device). Free some space."
    )
    assert caught.value.exit_code == 4
