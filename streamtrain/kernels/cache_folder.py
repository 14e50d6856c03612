"""A folder for compiled kernels if neither the package's folder nor the user's own is writable.

Numba caches kernels in one of these two, and fails to import a kernel if both are read-only, as
when another user installed the package, or in a container without a home folder. Kernels are then
cached in a private folder beside temporary files (base/user_cache.py). Without one, every process
compiles again, into a folder that is removed at exit.
"""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress

import numba

from streamtrain.base.user_cache import user_cache


def ensure_cache_folder() -> None:
    """Make sure that Numba can cache kernels; call it before the first kernel is imported.

    Raises OSError if no temporary folder can be created.
    """
    try:
        numba.njit(cache=True)(_kernel)
        return
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
    folder = _make_folder()
    # Set the variable too: Numba reads it again when another variable changes, and child processes
    # can then share the folder.
    os.environ["NUMBA_CACHE_DIR"] = folder
    setattr(numba.config, "CACHE_DIR", folder)  # noqa: B010 - Numba's stub lacks the attribute


def _make_folder() -> str:
    cache = user_cache()
    if cache is not None:
        with suppress(OSError):
            folder = cache / "kernels"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return str(folder)
    temporary = tempfile.mkdtemp(prefix="streamtrain-kernels-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _kernel() -> None:
    """Do nothing; never compiled, since Numba looks for a folder as soon as it is decorated."""
