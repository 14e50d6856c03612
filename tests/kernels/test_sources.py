"""Kernels that call into other files stay in Numba's disk cache until one of the files changes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamtrain import kernels
from streamtrain.kernels.sources import SOURCES, hash_sources

#: Prints the parameter after one step of SGD with learning rate 1 from 0 with gradient 1, and how
#: many kernels came from the disk cache.
STEP = """
import numpy as np
from streamtrain.kernels.mlp import finish
from streamtrain.kernels.updates import SGD

parameters, moments = np.zeros(1, dtype=np.float32), np.zeros((2, 1), dtype=np.float32)
gradient = np.ones((1, 1), dtype=np.float32)
finish(parameters, gradient, moments, np.array([1, 0, 0, 0, 0]), SGD, 1.0, np.zeros(11))
print(parameters[0], sum(finish.stats.cache_hits.values()))
"""


@pytest.mark.early
def test_an_edited_callee_in_another_file_is_compiled_anew(tmp_path):
    package = tmp_path / "streamtrain"
    shutil.copytree(
        Path(kernels.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__")
    )

    def step() -> str:
        done = subprocess.run(
            [sys.executable, "-c", STEP],
            cwd=tmp_path,
            env={"PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert step() == "-1.0 0"
    assert step() == "-1.0 1", "from the disk cache"
    updates = package / "kernels" / "updates.py"
    source = updates.read_text(encoding="utf-8")
    edited = source.replace("parameters[i] -= rate *", "parameters[i] += rate *")
    assert edited != source
    updates.write_text(edited, encoding="utf-8")
    assert step() == "1.0 0", "compiled again, although the caller's file is unchanged"


def test_the_hash_is_of_names_and_contents(tmp_path):
    assert hash_sources(Path(kernels.__file__).parent) == SOURCES
    hashes = set()
    for name, content in [("a.py", "x"), ("a.py", "y"), ("b.py", "y"), ("a.py", "x")]:
        (tmp_path / name).write_text(content)
        hashes.add(hash_sources(tmp_path))
    assert len(hashes) == 4
