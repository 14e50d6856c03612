"""Kernels that call into other files stay in Numba's disk cache until one of the files changes."""

import shutil
import subprocess
import sys
from pathlib import Path

from streamtrain import kernels
from streamtrain.kernels.sources import SOURCES, hash_sources

#: Prints eight rows after a shuffle, and how many kernels came from the disk cache.
SHUFFLE = """
import numpy as np
from streamtrain.kernels.deal_rows import permute_rows

rows = np.arange(8, dtype=np.uint32).reshape(8, 1)
permute_rows(rows, np.array([0, 8]), np.array([1], dtype=np.uint64))
print(*rows[:, 0], sum(permute_rows.stats.cache_hits.values()))
"""


def test_an_edited_callee_in_another_file_is_compiled_anew(tmp_path):
    package = tmp_path / "streamtrain"
    shutil.copytree(
        Path(kernels.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__")
    )

    def shuffle() -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", SHUFFLE],
            cwd=tmp_path,
            env={"PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [int(word) for word in done.stdout.split()]

    *order, from_cache = shuffle()
    assert sorted(order) == list(range(8))
    assert from_cache == 0
    assert shuffle() == [*order, 1], "from the disk cache"
    callee = package / "kernels" / "permute.py"
    source = callee.read_text(encoding="utf-8")
    edited = source.replace("return np.int64(product >> uint64(32)), state", "return 0, state")
    assert edited != source
    callee.write_text(edited, encoding="utf-8")
    # swapping each row with the first, from the last on, moves all by one place
    assert shuffle() == [1, 2, 3, 4, 5, 6, 7, 0, 0], "the caller's own file is unchanged"


def test_the_hash_is_of_names_and_contents(tmp_path):
    assert hash_sources(Path(kernels.__file__).parent) == SOURCES
    hashes = set()
    for name, content in [("a.py", "x"), ("a.py", "y"), ("b.py", "y"), ("a.py", "x")]:
        (tmp_path / name).write_text(content)
        hashes.add(hash_sources(tmp_path))
    assert len(hashes) == 4
