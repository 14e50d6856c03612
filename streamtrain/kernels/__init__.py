"""Numba kernels: arrays in, arrays out.

Each has an oracle in tests: NumPy's for rows and pages, torch's for the fused step.

Kernels are compiled on first use, release the GIL, use no threads of their own, and are cached on
disk. Numba's cache does not notice an edited callee in another file: a cached kernel calls only
what stands in its own, or holds the hash of all of them (`sources.py`).
"""

from streamtrain.kernels.cache_folder import ensure_cache_folder

ensure_cache_folder()
