"""Numba kernels: arrays in, arrays out. Each has a NumPy oracle in `tests/kernels/`.

Kernels are compiled on first use, release the GIL, use no threads of their own, and are cached on disk. Kernels that call
each other live in one file, since Numba's cache does not notice an edited callee in another file.
"""
