"""A folder for compiled kernels if neither the package's folder nor the user's own is writable.

Numba caches kernels in one of these two, and fails to import a kernel if both are read-only, as
when another user installed the package, or in a container without a home folder. Kernels are then
cached in a temporary folder that only this user can read and that is removed at exit. So every
process compiles again, unless NUMBA_CACHE_DIR names a writable folder.
"""

import atexit
import os
import shutil
import tempfile

import numba


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
    folder = tempfile.mkdtemp(prefix="streamtrain-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Set the variable too: Numba reads it again when another variable changes, and child processes
    # can then share the folder.
    os.environ["NUMBA_CACHE_DIR"] = folder
    setattr(numba.config, "CACHE_DIR", folder)  # noqa: B010 - Numba's stub lacks the attribute


def _kernel() -> None:
    """Do nothing; never compiled, since Numba looks for a folder as soon as it is decorated."""
