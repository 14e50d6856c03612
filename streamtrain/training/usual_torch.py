"""Torch with its usual settings, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_torch() -> Iterator[None]:
    """Suspend the caller's inference mode, `no_grad`, autocast and default device in this block.

    These belong to a thread, so other threads are not affected. The default dtype belongs to the
    process: it is not changed, and tensors are made with an explicit dtype.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            # Only then, because with a default device every call of torch goes through Python.
            stack.enter_context(torch.device("cpu"))
        yield
