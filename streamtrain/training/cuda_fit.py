"""Which models the fused engine trains on a GPU, how it lays them out, and what room there is."""

from dataclasses import dataclass

import torch

from streamtrain.kernels import activations
from streamtrain.kernels.cuda_launch import can_launch
from streamtrain.kernels.cuda_layout import Layout, choose_layout
from streamtrain.kernels.cuda_source import SIMULATED
from streamtrain.training.fused_engine import ACTIVATION_CODES
from streamtrain.training.model import Model, Shape

#: Threads of a CUDA block.
THREADS = 256

#: Threads in the simulator, where each is a thread of Python.
SIMULATED_THREADS = 4

#: The most hidden layers.
MOST_HIDDEN = 4

#: Shared memory of a block on an H100, for the simulator.
_SIMULATED_BYTES = 227 * 1024

#: A batch size for which the choice of a layout has every tile to try.
UNLIMITED_ROWS = 2**62


def fits(model: Model, device: torch.device) -> str:
    """Return why the engine cannot train a model on a device, or "".

    >>> fits(Shape(widths=(4, 8, 8, 8, 8, 8, 1), activation="relu"), torch.device("cuda"))
    'it trains at most 4 hidden layers, not 5'
    """
    if not isinstance(model, Shape):
        return f"it trains perceptrons, not --model {model.name}"
    hidden = len(model.widths) - 2
    if hidden > MOST_HIDDEN:
        return f"it trains at most {MOST_HIDDEN} hidden layers, not {hidden}"
    if not SIMULATED and device.type != "cuda":
        return "it needs a GPU"
    if device.index:  # Numba launches on the first device of a thread only
        return f"it uses the first GPU only, not {device}"
    if not can_launch():
        return "Numba finds no GPU: install streamtrain[cuda], and see streamtrain doctor"
    limit = shared_bytes(device)
    if layout_of(model, UNLIMITED_ROWS, limit) is None:
        return (
            f"the model's {model.num_parameters:,} parameters and what training them takes do not"
            f" fit the {limit // 1024} KiB of shared memory of a multiprocessor"
        )
    return ""


def layout_of(shape: Shape, batch_size: int, limit_bytes: int) -> Layout | None:
    """Return where the arrays of a replica lie in shared memory, or None if they do not fit."""
    keeps_sums = ACTIVATION_CODES[shape.activation] in (activations.SILU, activations.GELU)
    threads = SIMULATED_THREADS if SIMULATED else THREADS
    return choose_layout(shape.widths, keeps_sums, batch_size, threads, limit_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRoom:
    """The multiprocessors of a GPU, and the bytes of its memory that are free now."""

    multiprocessors: int
    free_bytes: int


def gpu_room(device: torch.device) -> GpuRoom:
    """Return what a GPU has for the passes of a sweep."""
    free_bytes, _ = torch.cuda.mem_get_info(device)
    properties = torch.cuda.get_device_properties(device)
    return GpuRoom(multiprocessors=properties.multi_processor_count, free_bytes=free_bytes)


def shared_bytes(device: torch.device) -> int:
    """Return the most shared memory of a block on the device."""
    if device.type == "cpu":
        return _SIMULATED_BYTES
    properties = torch.cuda.get_device_properties(device)
    # Not every release of torch tells what a kernel may ask for.
    plain = properties.shared_memory_per_block
    return int(getattr(properties, "shared_memory_per_block_optin", plain))
