"""Kernels can be imported where Numba finds no writable folder for its cache."""

import os
import subprocess
import sys

PROGRAM = """
import os, stat
from streamtrain.kernels import page_headers
folder = os.environ["NUMBA_CACHE_DIR"]
print(folder, oct(stat.S_IMODE(os.stat(folder).st_mode)))
"""


def test_kernels_are_imported_where_numba_finds_no_folder() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    # This locator uses neither the package's folder nor the user's.
    environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "UserProvidedCacheLocator"
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
    assert not os.path.exists(folder)
