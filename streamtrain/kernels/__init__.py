"""Numba kernels, which take arrays and write arrays.

Tests compare each with a plain implementation: NumPy for rows and pages, torch for the fused step.

Kernels are compiled on first use and cached on disk. They release the GIL and start no threads.
Numba's cache does not notice that a callee in another file has changed. A cached kernel therefore
either calls only functions in the same file, or keeps the hash of all kernels in its closure
(sources.py).
"""

from streamtrain.kernels.cache_folder import ensure_cache_folder

ensure_cache_folder()
