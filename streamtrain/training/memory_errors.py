"""The recognition of out-of-memory errors, which come as many types."""

#: What the messages of torch, CUDA's runtime and driver, and torch's CPU allocator have in common.
_WORDS = ("out of memory", "out_of_memory", "allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for the out-of-memory errors of Python, torch, Numba and CUDA.

    Pinned memory, a launch and the load of a kernel fail with an ordinary RuntimeError, whose
    message is "CUDA error: out of memory", or names CUDA_ERROR_OUT_OF_MEMORY.
    """
    # torch.OutOfMemoryError by its name, since torch may not have been imported
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error).lower() for words in _WORDS)
