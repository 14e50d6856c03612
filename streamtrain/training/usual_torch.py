"""The torch settings of the caller, which training neither obeys nor changes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_torch() -> Iterator[None]:
    """Leave inference mode, `no_grad`, autocast and the default device of the caller while inside.

    They are settings of a thread, so other threads do not notice. The default dtype is one of the
    process: it stays, and tensors are made with a dtype of their own.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            # Only then, because in a default device every call of torch goes through Python.
            stack.enter_context(torch.device("cpu"))
        yield
