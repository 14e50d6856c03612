"""The choice between the CPU and a GPU for `--device auto`, by what both do with this run.

All learners of a pass train a few rows, side by side as in a pass, on each of them.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.base.units import format_count, format_seconds
from streamtrain.config import TrainConfig
from streamtrain.errors import StreamTrainError, first_line
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import (
    ENGINES,
    check_engine,
    choose_engine,
    find_gpu,
    running,
    share_block,
)
from streamtrain.training.model import Model, initial_parameters

#: A run that the CPU trains in less time stays there: compiling for a GPU takes about that long.
#: Not measured on a GPU yet; it should be `gpu_pays_from_s` of `make gpu-check`.
SHORT_SECONDS = 30.0

#: Rows that every learner trains in one measurement: the largest minibatch, within these limits.
LEAST_ROWS, MOST_ROWS = 2**15, 2**18

#: Measurements of a device, of which the fastest counts.
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """The engine of a run and the reason for it.

    `rates`: row-updates per second of all replicas together, by engine; None where nothing was
    measured.
    """

    engine: str
    reason: str
    rates: dict[str, float] | None = None


def gpu_candidate(train: TrainConfig, model: Model) -> str | None:
    """Return the engine on a GPU that may train a run instead of the fused engine on the CPU.

    None where the options decide, or where there is no GPU.
    """
    if train.device != "auto" or train.engine == "torch":
        return None
    device = find_gpu(train.device)
    if device is None or choose_engine(train, model)[0] != "fused":
        return None
    from streamtrain.training.cuda_fit import fits

    if not fits(model, device):
        return "fused-cuda"
    return "torch" if train.engine == "auto" else None


def measure_devices(
    train: TrainConfig,
    model: Model,
    candidate: str,
    sizes: Sequence[int],
    replicas: int,
    *,
    rows: float = math.inf,
    seconds: float = math.inf,
) -> DeviceChoice:
    """Return the faster of the fused engine on the CPU and `candidate` on the GPU.

    Each batch size has a learner of `replicas`. A run ends after `rows` rows of each learner, or
    after `seconds`; where the CPU takes less than `SHORT_SECONDS`, the GPU is not measured.
    """
    from streamtrain.training.torch.device_feed import train_device

    device = train_device(train.device)
    count = max(LEAST_ROWS, min(MOST_ROWS, max(sizes)))
    block = np.random.default_rng(0).standard_normal((count, model.num_features + 1))
    block = block.astype(np.float32)
    updates = count * len(sizes) * replicas
    cpu_seconds = _seconds("fused", train, model, sizes, replicas, block)
    cpu = updates / cpu_seconds
    if (needed := min(rows / count * cpu_seconds, seconds)) < SHORT_SECONDS:
        return DeviceChoice(
            engine="fused",
            reason=(
                f"the CPU needs {format_seconds(needed)} for this run, less than it takes to"
                f" compile for {device} (--device cuda trains there)"
            ),
        )
    try:
        gpu = updates / _seconds(candidate, train, model, sizes, replicas, block)
    except (StreamTrainError, RuntimeError, MemoryError) as error:
        return DeviceChoice(
            engine="fused",
            reason=f"on the CPU, since {device} could not be measured: {first_line(error)}",
            rates={"fused": cpu},
        )
    rates = {"fused": cpu, candidate: gpu}
    on_cpu = f"{format_count(cpu)} row-updates/s on the CPU"
    on_gpu = f"{format_count(gpu)} on {device}"
    if gpu > cpu:
        reason = f"the faster one for this run: {on_gpu}, {on_cpu}, measured"
        return DeviceChoice(engine=candidate, reason=reason, rates=rates)
    reason = f"the faster one for this run: {on_cpu}, {on_gpu} ({candidate}), measured"
    return DeviceChoice(engine="fused", reason=reason, rates=rates)


def _seconds(
    name: str,
    train: TrainConfig,
    model: Model,
    sizes: Sequence[int],
    replicas: int,
    block: np.ndarray,
) -> float:
    """Return the seconds in which learners of all sizes train the block once, side by side."""
    start_P = initial_parameters(model, 0, 0)
    # too small to move them; rates differ, as do those of a run
    rates = tuple(1e-9 * (1 + replica) for replica in range(replicas))
    engines: list[Engine] = [
        ENGINES[name](model.for_trial(0, 0), start_P, size, rates, train.at(size), len(block))
        for size in sizes
    ]
    with (
        ThreadPoolExecutor(1 if name == "torch" else len(engines)) as pool,
        running(engines, train.threads or default_readers()),
    ):
        for engine in engines:
            check_engine(engine)
        shared = share_block(engines)
        taken: list[float] = []
        for _ in range(1 + REPEATS):  # the first one compiles
            started = time.perf_counter()
            if shared is not None:
                shared.put(block)
            list(pool.map(lambda engine: engine.advance(block, 0, len(block)), engines))
            taken.append(time.perf_counter() - started)
        if shared is not None:
            shared.drop()
    return min(taken[1:])
