"""A hash of all kernels, for Numba's disk cache.

The cache identifies a kernel by the file that defines it, and does not notice that a callee in
another file has changed. It does compare the values in a kernel's closure. A kernel that calls into
other files therefore has `SOURCES` in its closure, and is compiled again if any kernel has changed.
"""

import hashlib
from pathlib import Path

import numba


def hash_sources(folder: Path) -> str:
    """Return a hexadecimal digest of a folder's Python files and of Numba's version.

    Names and contents of the files count.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


#: The hash of this folder.
SOURCES = hash_sources(Path(__file__).parent)
