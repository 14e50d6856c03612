"""Where compiled kernels are kept when neither the package's folder nor the user's own may be
written.

Numba keeps them in one of the two, and refuses to import a kernel where it can use neither: as
another user than the one that installed the package, in a container without a home. Then they go to
a folder of this process, which only its user may read, and which goes with it: each process
compiles anew then, unless NUMBA_CACHE_DIR names a folder of the user's.
"""

import atexit
import os
import shutil
import tempfile

import numba


def ensure_cache_folder() -> None:
    """Call before the first kernel is imported.

    Raises OSError when nothing at all may be written.
    """
    try:
        numba.njit(cache=True)(_kernel)
        return
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
    folder = tempfile.mkdtemp(prefix="streamtrain-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # The variable too: Numba reads it again when another one changes, and processes started from
    # here need no folder of their own.
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = folder


def _kernel() -> None:
    """Never compiled: Numba looks for a place as soon as it is decorated."""
