"""The measurements of `make gpu-check`: `python -m tests.gpu_check.measure PART [--dry]`.

Each part prints its figures as it finds them, one JSON object a line, so that one that is cut off
keeps what it found. `--dry` takes small sizes on the CPU; with `NUMBA_ENABLE_CUDASIM=1`, and very
small ones, the fused engine's parts run in Numba's simulator, too.
"""

import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import cuda

import data_gen
from streamtrain.base.budget import share_budget
from streamtrain.bench.torch_loop import TorchLoop
from streamtrain.config import TrainConfig, make_config
from streamtrain.errors import first_line
from streamtrain.kernels import cuda_layout
from streamtrain.kernels.cuda_launch import can_launch
from streamtrain.kernels.cuda_source import SIMULATED
from streamtrain.records import PassEnded
from streamtrain.run.at_once import needs_of
from streamtrain.run.passes import run_pass
from streamtrain.run.passes_ahead import PassesAhead, make_learners
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.science.tuning import PassPlan
from streamtrain.stream.pinned_copy import to_device
from streamtrain.training import device_choice
from streamtrain.training.cuda_fit import fits
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.model import Shape
from streamtrain.training.torch.shared_rows import SharedBlock
from tests.gpu_check.check import TOOLKIT
from tests.run.whole_runs import run_sweep, run_train

DRY = "--dry" in sys.argv
DEVICE = "cpu" if DRY else "cuda"
SHAPE = Shape(widths=(4, 4, 1) if SIMULATED else (4, 32, 32, 1), activation="relu")
SIZES = (32, 4096) if DRY else (32, 256, 1024, 4096, 16_384, 131_072, 1_048_576)
SHARED_SIZES = (32, 64) if DRY else (2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 1_048_576)
LEARNER_SIZES = (16, 32) if DRY else (32, 128, 512, 2048, 8192)
REPLICAS = (1, 2) if DRY else (1, 8, 40, 120, 132)
PASS_ROWS = 160 if DRY else 2**21
RUN_ROWS = 200_000 if DRY else 20_000_000
SWEEP_ROWS = 4_000 if DRY else 1_000_000

#: Rows of the measurements of the fused engine.
FEW, MANY = (64, 64) if DRY else (2**17, 2**19)

#: Where NVIDIA's toolkit has compute-sanitizer.
SANITIZER_FOLDERS = ("bin", "compute-sanitizer", "extras/compute-sanitizer")

#: Cycles of a row-update of 4-32-32-1 on one multiprocessor: 3,424 multiply-adds, 128 per cycle.
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


def facts() -> Iterator[Figures]:
    """Yield what the machine is and has; "stop" where no GPU can be used."""
    yield {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numba": importlib.metadata.version("numba"),
        "numba_cuda": _version("numba-cuda"),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if not DRY:
        try:
            torch.zeros(1, device=DEVICE)
        except (RuntimeError, AssertionError) as error:
            yield {"stop": f"no GPU that torch {torch.__version__} can use: {first_line(error)}"}
            return
        card = torch.cuda.get_device_properties(0)
        yield {
            "gpu": card.name,
            "driver": _ask_driver("driver_version"),
            "multiprocessors": card.multi_processor_count,
            "memory_bytes": card.total_memory,
            "shared_bytes": getattr(card, "shared_memory_per_block_optin", "not told"),
        }
    yield {"numba_can_launch": can_launch(), "numba_compiles": _numba_compiles()}
    yield {"fused_engine": fits(SHAPE, torch.device(DEVICE)) or "works"}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ask_driver(what: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "not told"


def _numba_compiles() -> str:
    """Return "yes", or why a small kernel does not compile."""
    try:
        cuda.jit("void(float32[::1])")(lambda array: None)
    # Numba and NVIDIA's compilers raise anything.
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return "yes"


def ceilings() -> Iterator[Figures]:
    """Yield the bandwidth of copies, and the cost of a launch."""
    count = 2**20 if DRY else 2**28
    source, target = torch.ones(count, device=DEVICE), torch.empty(count, device=DEVICE)
    yield {"copy_GB/s": 8 * count / seconds_of(lambda: target.copy_(source)) / 1e9}
    rows = torch.empty((131_072, 5), device=DEVICE)
    for name, host in (
        ("pinned", torch.empty((131_072, 5), pin_memory=not DRY)),
        ("pageable", torch.empty((131_072, 5))),
    ):
        seconds = seconds_of(partial(rows.copy_, host, non_blocking=True))
        yield {f"{name}_to_gpu_GB/s": 20 * 131_072 / seconds / 1e9}
    array = make_rows(2**16 if DRY else 2**23)
    seconds = seconds_of(lambda: to_device(array, torch.device(DEVICE)))
    yield {"block_to_gpu_GB/s": array.nbytes / seconds / 1e9}
    one = torch.zeros(1, device=DEVICE)
    yield {"launch_us": seconds_of(lambda: [one.add_(1) for _ in range(100)]) * 1e4}


def make(name: str, size: int, replicas: int = 1) -> Any:
    """Return an engine of replicas that move too little to diverge."""
    start, rates = SHAPE.initial_parameters(0, 0), (1e-6,) * replicas
    return ENGINES[name](SHAPE, start, size, rates, TrainConfig(device=DEVICE, engine="torch"))


def make_rows(count: int) -> np.ndarray:
    """Return random rows of SHAPE."""
    return np.random.default_rng(0).standard_normal((count, 5)).astype(np.float32)


def on_gpu(engine: Any, rows: np.ndarray) -> Any:
    """Return the engine, with the rows on the GPU."""
    engine.shared_block = SharedBlock(engine.device)
    engine.shared_block.put(rows)
    return engine


def why_not_fused() -> str:
    """Return why the fused engine cannot be measured here, or ""."""
    return fits(SHAPE, torch.device(DEVICE))


def step_times(name: str) -> Iterator[Figures]:
    """Yield microseconds per step of an engine, with rows from the host and on the device."""
    for size in (16,) if SIMULATED else SIZES:
        rows = make_rows(max(FEW if SIMULATED else 2**17, size) // size * size)
        engine = make(name, size)
        advance = partial(engine.advance, rows, 0, len(rows))
        per_step = 1e6 / (len(rows) // size)
        yield {f"{name}_host_{size}_us": seconds_of(advance) * per_step}
        on_gpu(engine, rows)
        yield {f"{name}_gpu_{size}_us": seconds_of(advance) * per_step}
        if name == "torch" and engine._replayed is not None:
            yield {"assembler": engine._replayed.assembler}


def steps() -> Iterator[Figures]:
    """Yield microseconds per step of torch eager, with rows on the device, and of our engine."""
    for size in SIZES:
        rows = make_rows(max(2**17, size) // size * size)
        loop = TorchLoop(SHAPE, rows, size, TrainConfig(device=DEVICE), 1)
        few = max(1, min(50, 2**17 // size))
        yield {f"eager_{size}_us": seconds_of(partial(loop.take, few)) / few * 1e6}
    yield from step_times("torch")


def fused() -> Iterator[Figures]:
    """Yield what the fused engine does; one process, since its kernels compile for each."""
    if why := why_not_fused():
        yield {"says": f"not measured: {why}"}
        return
    yield from population((1024, 32))
    yield from step_times("fused-cuda")
    yield from sharing()
    yield from population((65_536,))
    yield from side_by_side()
    yield from at_once()


def population(sizes: tuple[int, ...]) -> Iterator[Figures]:
    """Yield row-updates per second of replicas side by side, and their share of the floor."""
    clock = "not told" if DRY else _ask_driver("clocks.max.sm")
    card = None if DRY else torch.cuda.get_device_properties(0)
    for size in sizes:
        rows = make_rows(FEW if size == 32 else MANY)
        for replicas in REPLICAS:
            engine = on_gpu(make("fused-cuda", size, replicas), rows)
            seconds = seconds_of(partial(engine.advance, rows, 0, len(rows)))
            updates = replicas * len(rows) / seconds
            yield {f"{replicas}_replicas_at_{size}": updates}
            if card is not None and clock != "not told":
                floor = card.multi_processor_count * float(clock) * 1e6 / CYCLES
                yield {f"{replicas}_replicas_at_{size}_of_floor": updates / floor}


def sharing() -> Iterator[Figures]:
    """Yield microseconds of a minibatch with many blocks and with one: it decides `SPLIT_FROM`.

    `sharing_pays_from`: the smallest minibatch from which on many blocks are faster, by replicas.
    """
    usual = cuda_layout.SPLIT_FROM
    try:
        for replicas in (1, 2) if DRY else (1, 8, 132):
            ratios: list[float] = []
            for size in SHARED_SIZES:
                rows = make_rows(max(FEW, size) // size * size)
                per_step = 1e6 * size / len(rows)
                taken: list[float] = []
                for split_from in (0, 2**62):
                    cuda_layout.SPLIT_FROM = split_from
                    engine = on_gpu(make("fused-cuda", size, replicas), rows)
                    taken.append(seconds_of(partial(engine.advance, rows, 0, len(rows))))
                ratios.append(taken[1] / taken[0])
                yield {
                    f"many_blocks_{replicas}_at_{size}_us": taken[0] * per_step,
                    f"one_block_{replicas}_at_{size}_us": taken[1] * per_step,
                }
            yield {f"sharing_pays_from_{replicas}": pays_from(SHARED_SIZES, ratios)}
        yield {"sharing_is_used_from": usual}
    finally:
        cuda_layout.SPLIT_FROM = usual


def pays_from(sizes: tuple[int, ...], ratios: list[float]) -> int | str:
    """Return the smallest size from which on every ratio is above 1.

    >>> pays_from((1, 2, 4, 8), [1.2, 0.9, 1.1, 3.0])
    4
    >>> pays_from((1, 2), [1.2, 0.9])
    'no size'
    """
    found: int | str = "no size"
    for size, ratio in reversed([*zip(sizes, ratios, strict=True)]):
        if ratio <= 1:
            break
        found = size
    return found


def side_by_side() -> Iterator[Figures]:
    """Yield the seconds of the learners of a pass side by side and in turn."""
    rows = make_rows(64 if DRY else 2**18)
    engines = [on_gpu(make("fused-cuda", size, 5), rows) for size in LEARNER_SIZES]

    def train(engine: Any) -> None:
        engine.advance(rows, 0, len(rows))

    yield {"in_turn_s": seconds_of(lambda: [train(engine) for engine in engines])}
    with ThreadPoolExecutor(len(engines)) as pool:
        yield {"side_by_side_s": seconds_of(lambda: list(pool.map(train, engines)))}


def at_once(queues: str = "") -> Iterator[Figures]:
    """Yield the seconds of three passes of a sweep in turn and at once, each with rows of its own.

    `waited`: the fraction of its time that a pass in turn waited for rows. `queues` is put into the
    names of the figures.
    """
    with tempfile.TemporaryDirectory() as name:
        data = f"{name}/data"
        data_gen.generate(data, kind="friedman2", rows=PASS_ROWS)
        values = {
            "data": {"path": data, "holdout": PASS_ROWS // 8},
            "model": {"hidden": SHAPE.widths[1:-1]},
            "train": {"device": "cpu", "engine": "fused"},
            "fetch": {"readers": 3} if DRY else {},
        }
        config = make_config(values)
        prepared = prepare(config, learners=len(LEARNER_SIZES), rates=1)
        on_device = config.train.model_copy(update={"device": DEVICE})
        config = config.model_copy(update={"train": on_device})
        prepared = replace(prepared, config=config, engine="fused-cuda")
        lrs = dict.fromkeys(LEARNER_SIZES, (1e-4,))
        plans = [PassPlan(kind="fresh", trial=trial, lrs=lrs) for trial in range(3)]
        needs = needs_of(prepared, plans[0])
        budget = share_budget(prepared.budget, len(plans), needs.host_bytes)
        yield {f"blocks_of_a_pass{queues}": needs.blocks}
        if budget is None:
            yield {"says": "passes at once are not measured: memory or cores are too few"}
            return
        ended = [run_plan(prepared, plan) for plan in plans]  # the first one also warms up
        started = time.perf_counter()
        ended = [run_plan(prepared, plan) for plan in plans]
        yield {
            f"passes_in_turn{queues}_s": time.perf_counter() - started,
            f"waited{queues}": ended[0].stats["wait_seconds"] / ended[0].seconds,
        }
        sharing = replace(prepared, budget=budget)
        started = time.perf_counter()
        with PassesAhead() as ahead:
            ahead.start(sharing, plans[1:])
            run_plan(sharing, plans[0])
            others = [ahead.take(plan) for plan in plans[1:]]
        yield {f"passes_at_once{queues}_s": time.perf_counter() - started}
        if None in others:
            raise SystemExit("a pass failed at once with others")


def run_plan(prepared: Prepared, plan: PassPlan) -> PassEnded:
    """Run a pass and return its record."""
    learners = make_learners(prepared, plan)
    return run_pass(prepared, learners, plan.trial, lambda record: None, kind=plan.kind)


def passes() -> Iterator[Figures]:
    """Yield the figures of `at_once` with 32 queues of launches instead of CUDA's 8.

    Streams that share a queue may wait for each other, and three passes have 15 of them.
    """
    if why := why_not_fused():
        yield {"says": f"not measured: {why}"}
        return
    yield from at_once("_32_queues")


def races() -> Iterator[Figures]:
    """Yield what NVIDIA's compute-sanitizer says of the fused engine's kernels in `raced`.

    It finds accesses of shared memory that no barrier orders, which the simulator cannot.
    """
    if why := why_not_fused():
        yield {"says": f"not checked: {why}"}
        return
    folders = [os.environ.get("PATH", ""), *(f"{TOOLKIT}/{name}" for name in SANITIZER_FOLDERS)]
    program = shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
    if program is None:
        yield {"says": "not checked: no compute-sanitizer"}
        return
    command = [program, "--tool", "racecheck", sys.executable, "-m", "tests.gpu_check.measure"]
    done = subprocess.run([*command, "raced"], capture_output=True, text=True, check=False)
    summary = race_summary(done.stdout + done.stderr)
    yield {"racecheck": summary}
    if summary[0] in "123456789":
        raise SystemExit(1)


def race_summary(output: str) -> str:
    r"""Return the summary of racecheck if the program ran to its end, or the last line.

    >>> race_summary('{"raced": "advance"}\n{"raced": "all"}\n== RACECHECK SUMMARY: 0 hazards')
    '0 hazards'
    >>> race_summary("== Error: Device not supported\n")
    '== Error: Device not supported'
    """
    lines = output.strip().splitlines() or ["nothing"]
    found = [line.partition("SUMMARY: ")[2] for line in lines if "RACECHECK SUMMARY: " in line]
    return found[-1] if found and '{"raced": "all"}' in lines else lines[-1]


def raced() -> Iterator[Figures]:
    """Take a few steps by each kernel of the fused engine; for `races`."""
    cuda_layout.SPLIT_FROM, cuda_layout.PART_ROWS = 64, 16
    shape, rows = Shape(widths=(4, 8, 8, 1), activation="tanh"), make_rows(150)
    train = TrainConfig(device=DEVICE, engine="torch", clip_norm=0.1)
    for size, label in ((32, "advance"), (64, "all")):
        start = shape.initial_parameters(0, 0)
        engine = ENGINES["fused-cuda"](shape, start, size, (1e-3, 1e-2), train, 150)
        engine.advance(rows, 0, len(rows))
        engine.finish_epoch()
        engine.evaluate(rows)
        yield {"raced": label}


def auto() -> Iterator[Figures]:
    """Yield what `--device auto` measures and chooses: it decides `SHORT_SECONDS`.

    `compile_s`: the seconds until the engines of a run have taken their first steps on the GPU.
    """
    if why := why_not_fused():
        yield {"says": f"not measured: {why}"}
        return
    if DRY:
        device_choice.LEAST_ROWS = device_choice.MOST_ROWS = 64
    rows = make_rows(64 if DRY else 8192)
    started = time.perf_counter()
    for size in LEARNER_SIZES:
        engine = make("fused-cuda", size, 5)
        engine.check()
        engine.advance(rows, 0, len(rows))
        engine.evaluate(rows)
    compile_seconds = time.perf_counter() - started
    yield {"compile_s": compile_seconds}
    started = time.perf_counter()
    choice = device_choice.measure_devices(
        TrainConfig(device=DEVICE if DRY else "auto"), SHAPE, "fused-cuda", LEARNER_SIZES, 5
    )
    yield {
        "auto_s": time.perf_counter() - started,
        "auto_engine": choice.engine,
        "auto_reason": choice.reason,
    }
    if choice.rates is not None and "fused-cuda" in choice.rates:
        rates = choice.rates
        yield {
            "cpu_row_updates/s": rates["fused"],
            "gpu_row_updates/s": rates["fused-cuda"],
            "gpu_pays_from_s": break_even(compile_seconds, rates["fused"], rates["fused-cuda"]),
            "short_seconds": device_choice.SHORT_SECONDS,
        }


def break_even(compile_seconds: float, cpu: float, gpu: float) -> float | str:
    """Return the seconds on the CPU from which on a run is done sooner on the GPU.

    T seconds on the CPU are `compile_seconds` + T * cpu / gpu on the GPU.

    >>> break_even(20, 1e8, 5e8)
    25.0
    >>> break_even(20, 1e8, 9e7)
    'never'
    """
    return compile_seconds / (1 - cpu / gpu) if gpu > cpu else "never"


def runs() -> Iterator[Figures]:
    """Yield the figures of `train` at 64 Ki and of `sweep`, from Parquet, on both devices."""
    on_device = [] if DRY else ["torch", *([] if why_not_fused() else ["fused"])]
    engines = [("cpu", "fused"), *((DEVICE, name) for name in on_device)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        generate(folder)
        yield {"generate_s": time.perf_counter() - started}
        for device, engine in engines:
            summary = run("train", folder, device, engine, batch_size=65_536, epochs=1)
            (cell,) = summary["cells"]
            label = f"train_{engine}_on_{device}"
            yield {
                f"{label}_rows/s": cell["rows_per_second"]["value"],
                f"{label}_waits": cell["wait_fraction"]["value"],
                f"{label}_loss": cell["holdout_loss"]["value"],
            }
        for device, engine in engines:
            summary = run("sweep", folder, device, engine, max_rows=SWEEP_ROWS)
            label = f"sweep_{engine}_on_{device}"
            yield {
                f"{label}_winner": summary["recommendation"]["batch_size"],
                f"{label}_seconds": summary["seconds"],
            }


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


def generate(folder: Path) -> None:
    """Write the Parquet rows that runs read."""
    command = ["generate", str(folder / "data"), "--kind", "friedman2", "--rows", str(RUN_ROWS)]
    subprocess.run([sys.executable, "-m", "streamtrain", *command, "-q"], check=True)


PARTS: dict[str, Callable[[], Iterator[Figures]]] = {
    "facts": facts,
    "ceilings": ceilings,
    "fused": fused,
    "passes": passes,
    "auto": auto,
    "races": races,
    "raced": raced,
    "steps": steps,
    "runs": runs,
}

if __name__ == "__main__":
    if sys.argv[1] == "passes":  # read when the first kernel is launched or memory allocated
        os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "32"
    for figures in PARTS[sys.argv[1]]():
        print(json.dumps(figures), flush=True)
