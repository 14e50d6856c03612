"""Torch with its usual settings, whatever the caller has set."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def usual_torch() -> Iterator[None]:
    """Suspend the caller's inference mode, `no_grad`, autocast and default device in this block.

    These belong to a thread, so other threads are not affected. The default dtype belongs to the
    process: it is not changed, and tensors are made with an explicit dtype. Where torch is not
    imported yet, nothing has been set, and it is not imported here.
    """
    if "torch" not in sys.modules:
        yield
        return
    import torch

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


@contextmanager
def torch_settings(device: "torch.device", threads: int, *, tf32: bool) -> Iterator[None]:
    """Set torch's device, threads and precision for a run in this block.

    Threads and precision belong to the process, and are restored on leaving.
    """
    import torch

    old_threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
            wanted = "high" if tf32 else "highest"
            if wanted != precision:  # some releases of torch warn when it is set
                torch.set_float32_matmul_precision(wanted)
                stack.callback(torch.set_float32_matmul_precision, precision)
        elif threads != old_threads:
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, old_threads)
        yield
