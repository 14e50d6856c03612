"""The measurements of `make gpu-check`: `python -m tests.gpu_check.measure PART [--dry]`.

Each part prints one JSON object of figures. `--dry` takes small sizes on the CPU.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamtrain.bench.torch_loop import TorchLoop
from streamtrain.config import TrainConfig, make_config
from streamtrain.kernels import cuda_layout
from streamtrain.kernels.cuda_launch import can_launch
from streamtrain.stream.pinned_copy import to_device
from streamtrain.training.cuda_fit import fits
from streamtrain.training.device_choice import measure_devices
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.model import Shape
from streamtrain.training.torch.shared_rows import SharedBlock
from tests.run.whole_runs import run_sweep, run_train

DRY = "--dry" in sys.argv
DEVICE = "cpu" if DRY else "cuda"
SHAPE = Shape(widths=(4, 32, 32, 1), activation="relu")
SIZES = (32, 4096) if DRY else (32, 256, 1024, 4096, 16_384, 131_072, 1_048_576)
LARGE_SIZES = (64,) if DRY else (16_384, 131_072, 1_048_576)
LEARNER_SIZES = (16, 32) if DRY else (32, 128, 512, 2048, 8192)
REPLICAS = (1, 2) if DRY else (1, 8, 40, 120, 132)
RUN_ROWS = 200_000 if DRY else 50_000_000

#: Cycles of a row-update of SHAPE on one multiprocessor: 3,424 multiply-adds, 128 per cycle.
CYCLES = 26.75

Figures = dict[str, Any]


def seconds_of(call: Callable[[], object], least: float = 0.02 if DRY else 0.15) -> float:
    """Return the median seconds of a call, which is repeated to fill regions; the device waits."""

    def region(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            call()
        if not DRY:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / count

    region(1)
    count = max(1, round(least / max(region(1), 1e-7)))
    return statistics.median(region(count) for _ in range(3))


def facts() -> Figures:
    """Return what the machine is and has."""
    found: Figures = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "numba_can_launch": can_launch(),
        "fused_engine": fits(SHAPE, torch.device(DEVICE)) or "works",
        "date": time.strftime("%Y-%m-%d"),
    }
    if not DRY:
        card = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": card.name,
            "multiprocessors": card.multi_processor_count,
            "memory_bytes": card.total_memory,
            "shared_bytes": getattr(card, "shared_memory_per_block_optin", "not told"),
        }
    return found


def ceilings() -> Figures:
    """Return the bandwidth of copies, and the cost of a launch."""
    count = 2**20 if DRY else 2**28
    source, target = torch.ones(count, device=DEVICE), torch.empty(count, device=DEVICE)
    found: Figures = {"copy_GB/s": 8 * count / seconds_of(lambda: target.copy_(source)) / 1e9}
    rows = torch.empty((131_072, 5), device=DEVICE)
    for name, host in (
        ("pinned", torch.empty((131_072, 5), pin_memory=not DRY)),
        ("pageable", torch.empty((131_072, 5))),
    ):
        seconds = seconds_of(partial(rows.copy_, host, non_blocking=True))
        found[f"{name}_to_gpu_GB/s"] = 20 * 131_072 / seconds / 1e9
    array = make_rows(2**16 if DRY else 2**23)
    seconds = seconds_of(lambda: to_device(array, torch.device(DEVICE)))
    found["block_to_gpu_GB/s"] = array.nbytes / seconds / 1e9
    one = torch.zeros(1, device=DEVICE)
    found["launch_us"] = seconds_of(lambda: [one.add_(1) for _ in range(100)]) * 1e4
    return found


def make(name: str, size: int, replicas: int = 1) -> Any:
    """Return an engine of replicas that move too little to diverge."""
    start, rates = SHAPE.initial_parameters(0, 0), (1e-6,) * replicas
    return ENGINES[name](SHAPE, start, size, rates, TrainConfig(device=DEVICE, engine="torch"))


def make_rows(count: int) -> np.ndarray:
    """Return random rows of SHAPE."""
    return np.random.default_rng(0).standard_normal((count, 5)).astype(np.float32)


def engine_names() -> list[str]:
    """Return the engines that can be measured here."""
    works = not fits(SHAPE, torch.device(DEVICE))
    return ["torch", "fused-cuda"] if works else ["torch"]


def steps() -> Figures:
    """Return microseconds per step of torch eager and of our engines.

    Torch eager has its rows on the device; each of ours once so, and once with rows from the host.
    """
    found: Figures = {}
    for size in SIZES:
        rows = make_rows(max(2**17, size) // size * size)
        loop = TorchLoop(SHAPE, rows, size, TrainConfig(device=DEVICE), 1)
        few = max(1, min(50, 2**17 // size))
        found[f"eager_{size}_us"] = seconds_of(partial(loop.take, few)) / few * 1e6
        for name in engine_names():
            engine = make(name, size)
            advance = partial(engine.advance, rows, 0, len(rows))
            found[f"{name}_host_{size}_us"] = seconds_of(advance) / (len(rows) // size) * 1e6
            on_gpu(engine, rows)
            found[f"{name}_gpu_{size}_us"] = seconds_of(advance) / (len(rows) // size) * 1e6
            if name == "torch" and engine._replayed is not None:
                found["assembler"] = engine._replayed.assembler
    return found


def population() -> Figures:
    """Return row-updates per second of replicas side by side, and their share of the floor."""
    if "fused-cuda" not in engine_names():
        return {"says": f"not measured: {fits(SHAPE, torch.device(DEVICE))}"}
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    clock = float(
        subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    )
    card = torch.cuda.get_device_properties(0)
    floor = card.multi_processor_count * clock * 1e6 / CYCLES
    found: Figures = {"floor_row_updates/s": floor}
    for size in (32, 1024, 65_536):
        rows = make_rows(2**17 if size == 32 else 2**19)
        for replicas in REPLICAS:
            engine = on_gpu(make("fused-cuda", size, replicas), rows)
            seconds = seconds_of(partial(engine.advance, rows, 0, len(rows)))
            updates = replicas * len(rows) / seconds
            found[f"{replicas}_replicas_at_{size}"] = updates
            found[f"{replicas}_replicas_at_{size}_of_floor"] = updates / floor
    return found


def sharing() -> Figures:
    """Return what sharing brings: minibatches among blocks, the GPU among learners, and `auto`.

    Microseconds per minibatch with many blocks and with one; seconds of the learners of a pass side
    by side and in turn; the choice of `--device auto` and the seconds that it took.
    """
    if "fused-cuda" not in engine_names():
        return {"says": f"not measured: {fits(SHAPE, torch.device(DEVICE))}"}
    found: Figures = {}
    shared_from = cuda_layout.SPLIT_FROM
    for size in LARGE_SIZES:
        rows = make_rows(size if DRY else max(2**17, size))
        for replicas in (1, 2) if DRY else (1, 8, 132):
            for label, split_from in (("shared", shared_from), ("one_block", 2**62)):
                cuda_layout.SPLIT_FROM = split_from
                engine = on_gpu(make("fused-cuda", size, replicas), rows)
                seconds = seconds_of(partial(engine.advance, rows, 0, len(rows)))
                found[f"{label}_{replicas}_at_{size}_us"] = seconds * size / len(rows) * 1e6
    cuda_layout.SPLIT_FROM = shared_from
    rows = make_rows(64 if DRY else 2**18)
    engines = [on_gpu(make("fused-cuda", size, 5), rows) for size in LEARNER_SIZES]

    def train(engine: Any) -> None:
        engine.advance(rows, 0, len(rows))

    found["in_turn_s"] = seconds_of(lambda: [train(engine) for engine in engines])
    with ThreadPoolExecutor(1 if DRY else len(engines)) as pool:
        found["side_by_side_s"] = seconds_of(lambda: list(pool.map(train, engines)))
    started = time.perf_counter()
    choice = measure_devices(TrainConfig(), SHAPE, "fused-cuda", LEARNER_SIZES, 5)
    found["auto_s"] = time.perf_counter() - started
    return found | {"auto_engine": choice.engine, "auto_reason": choice.reason}


def on_gpu(engine: Any, rows: np.ndarray) -> Any:
    """Return the engine, with the rows on the GPU."""
    engine.shared_block = SharedBlock(engine.device)
    engine.shared_block.put(rows)
    return engine


def run(verb: str, folder: Path, device: str, engine: str, **train: Any) -> dict[str, Any]:
    """Run `train` or `sweep` on generated rows; return its summary."""
    values = {
        "data": {"path": str(folder / "data")},
        "train": {"device": device, "engine": engine} | train,
        "sweep": {"batch_sizes": "64..64Ki*4", "trials": 2},
    }
    command = run_train if verb == "train" else run_sweep
    out = folder / f"{verb}-{device}-{engine}"
    return command(make_config(values), out, report=False).summary


def engines_of_runs() -> list[tuple[str, str]]:
    """Return the devices and engines that runs are compared on."""
    on_gpu = [] if DRY else [(DEVICE, name.split("-")[0]) for name in engine_names()]
    return [("cpu", "fused"), *on_gpu]


def train() -> Figures:
    """Return rows per second of `train` at 64 Ki from Parquet, and how long it waited for rows."""
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder)
        for device, engine in engines_of_runs():
            summary = run("train", folder, device, engine, batch_size=65_536, epochs=1)
            (cell,) = summary["cells"]
            label = f"{engine}_on_{device}"
            found[f"{label}_rows/s"] = cell["rows_per_second"]["value"]
            found[f"{label}_waits"] = cell["wait_fraction"]["value"]
            found[f"{label}_loss"] = cell["holdout_loss"]["value"]
    return found


def sweep() -> Figures:
    """Return the winner and the seconds of `sweep` on the CPU and the GPU."""
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder)
        for device, engine in engines_of_runs():
            summary = run("sweep", folder, device, engine, max_rows=RUN_ROWS // 50)
            label = f"{engine}_on_{device}"
            found[f"{label}_winner"] = summary["recommendation"]["batch_size"]
            found[f"{label}_seconds"] = summary["seconds"]
    return found


def generate(folder: Path) -> None:
    """Write the Parquet rows that runs read."""
    command = ["generate", str(folder / "data"), "--kind", "friedman2", "--rows", str(RUN_ROWS)]
    subprocess.run([sys.executable, "-m", "streamtrain", *command, "-q"], check=True)


PARTS: dict[str, Callable[[], Figures]] = {
    "facts": facts,
    "ceilings": ceilings,
    "steps": steps,
    "population": population,
    "sharing": sharing,
    "train": train,
    "sweep": sweep,
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]]()))
