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

from streamtrain.base.units import format_bytes
from streamtrain.base.user_cache import user_cache
from streamtrain.errors import ResourceError

#: Space that must be free: the kernels for one number of columns take 3 MiB.
SPACE_BYTES = 8 << 20


def ensure_cache_folder() -> None:
    """Make sure that Numba can cache kernels; call it before the first kernel is imported.

    Raises OSError if no temporary folder can be created, ResourceError if it has no space.
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
        folder = cache / "kernels"
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return str(folder)
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True)
            return _with_space(str(folder))
    temporary = tempfile.mkdtemp(prefix="streamtrain-kernels-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return _with_space(temporary)


def _with_space(folder: str) -> str:
    """Return the folder; raise ResourceError if less than `SPACE_BYTES` is free there."""
    free = shutil.disk_usage(folder).free
    if free < SPACE_BYTES:
        with suppress(OSError):
            os.rmdir(folder)
        raise ResourceError(
            f"{folder}: compiled kernels need {format_bytes(SPACE_BYTES)}, and {format_bytes(free)}"
            " are free. Set NUMBA_CACHE_DIR or TMPDIR to a folder with space."
        )
    return folder


def _kernel() -> None:
    """Do nothing; never compiled, since Numba looks for a folder as soon as it is decorated."""
