"""Which kernels these are, for Numba's disk cache.

The cache knows a kernel by the file it stands in, and does not notice an edited callee in another
file. But it looks at what a function holds in its closure: a kernel that calls into other files has
`SOURCES` there, and is compiled anew when any kernel changed.
"""

import hashlib
from pathlib import Path

import numba


def hash_sources(folder: Path) -> str:
    """Hexadecimal digest of the Python files of a folder, names and contents, and of the compiler's
    version.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


#: Of this folder.
SOURCES = hash_sources(Path(__file__).parent)
