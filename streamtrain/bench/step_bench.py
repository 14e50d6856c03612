"""`streamtrain bench step`: a training step of our engines compared with a plain PyTorch loop.

The product of two matrices (sgemm) gives the arithmetic speed of the machine. All sides take turns
in one process, on the same rows in memory, and are compiled before.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from typing import Any, Self

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.bench.bench_verdict import figure, require_positive
from streamtrain.bench.step_figures import (
    DEVICE,
    HOST,
    RATES,
    Key,
    cell,
    flops_per_row,
    limit,
    scaling,
)
from streamtrain.bench.stream_bench import REPEATS, Side, take_turns
from streamtrain.bench.torch_loop import TorchLoop, torch_threads
from streamtrain.config import Config, TrainConfig
from streamtrain.run.sweep_plan import bench_sizes
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.cuda_engine import CudaEngine
from streamtrain.training.cuda_fit import fits
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import ENGINES, choose_engine, make_model
from streamtrain.training.fused_engine import FusedEngine, gradient_slots, one_blas_thread
from streamtrain.training.model import Model, Shape, initial_parameters
from streamtrain.training.torch.device_feed import train_device
from streamtrain.training.torch.shared_rows import SharedBlock
from streamtrain.training.torch.torch_engine import TorchEngine
from streamtrain.types import Json

FEATURES = 4

#: Rows in memory that steps are timed on: 5 MB, which is more than the caches of a core; more where
#: a minibatch is larger.
ROWS = 2**18

#: A timed region takes at least this long, or one step.
REGION_SECONDS = 0.1

#: Rows times parameters that each replica trains on in a region: `ROWS` for 4-32-32-1. A larger
#: model gets fewer rows, since it would take minutes otherwise.
REPLICA_WORK = ROWS * 1249

#: Edge of the square matrices of the product.
SGEMM = 1024


def measure_step(config: Config, *, repeats: int = REPEATS) -> Json:
    """Time a step at each of `config.sweep.batch_sizes` with every engine that can take it.

    Engines run on one thread of the CPU. Rates are in rows per second. `cells` compares an engine
    at a batch size with eager torch at the better of one and all threads. On a GPU there are two
    cells: both sides with rows that are there already, and both with rows copied from the host.
    `scaling` compares the fused engine on all threads with one thread.

    Raises ConfigError for what no engine can do, and for fewer than one repeat.
    """
    require_positive("--repeats", repeats)
    if config.train.device == "auto":  # both sides on one device
        on_cpu = config.train.model_copy(update={"device": "cpu"})
        config = config.model_copy(update={"train": on_cpu})
    sizes, train = bench_sizes(config), config.train
    model = make_model(config.model, FEATURES).for_trial(config.order.seed, 0)
    engines, places = engines_of(train, model), places_of(train)
    threads = train.threads or default_readers()
    thread_counts = sorted({1, threads})
    random = np.random.default_rng(config.order.seed)
    num_rows = max(ROWS, *sizes)
    rows = random.standard_normal((num_rows, FEATURES + 1)).astype(np.float32)
    with ExitStack() as stack:
        sides, compile_seconds = _all_sides(
            stack, config, model, rows, sizes, engines, places, thread_counts
        )
        samples = take_turns(sides, repeats, warm=[])
    sgemm_figure = figure(samples[("sgemm",)])
    sgemm_gflops = sgemm_figure["value"]
    flops = flops_per_row(model)
    cells = [
        cell(samples, name, size, place, thread_counts, flops)
        for size in sizes
        for name in engines
        for place in places
    ]
    return {
        "features": FEATURES,
        "hidden": list(config.model.hidden),
        "activation": config.model.activation,
        "model": model.to_json(),
        "optimizer": train.optimizer,
        "loss": train.loss,
        "average": train.average,
        "device": train.device,
        "parameters": model.num_parameters,
        "threads": threads,
        "rows": len(rows),
        "repeats": repeats,
        "compile_seconds": compile_seconds,
        "flops_a_row": flops,
        "sgemm_gflops": sgemm_gflops,
        "cells": cells,
        "scaling": scaling(samples, sizes, threads),
        "limit": limit(cells, sgemm_gflops, model.num_parameters),
        "intervals": {"sgemm_gflops": sgemm_figure},
    }


def _all_sides(
    stack: ExitStack,
    config: Config,
    model: Model,
    rows: np.ndarray,
    sizes: Sequence[int],
    engines: Sequence[str],
    places: Sequence[str],
    thread_counts: Sequence[int],
) -> tuple[dict[Key, Side], dict[str, float]]:
    """Return every side by its key, and the seconds that compiling each engine took.

    `thread_counts`: one, and all threads if these are more. `stack` ends what the sides need.
    """
    threads = thread_counts[-1]
    one_core = stack.enter_context(ComputePool(1))
    all_cores = stack.enter_context(ComputePool(threads))
    engine_sides, compile_seconds = _engine_sides(engines, sizes, places, config, model, rows)
    sides: dict[Key, Side] = {("sgemm",): sgemm(), **engine_sides}
    fused_in_parallel = "fused" in engines and threads > 1
    for size in sizes:
        for count, place in product(thread_counts, places):
            loop = TorchLoop(model, rows, size, config.train, count, from_host=place == HOST)
            sides["eager", size, place, count] = region(loop.take, size)
        if fused_in_parallel and gradient_slots(size, model.num_parameters) > 1:
            engine = make_engine("fused", config, model, size, all_cores)
            sides["shared", size] = on_one_thread(engine_side, engine, rows)
    if fused_in_parallel and isinstance(model, Shape):
        for key, cores in (("replicas", one_core), ("replicas, all threads", all_cores)):
            replicas = Replicas(config, model, rows, cores)
            sides[(key,)] = on_one_thread(_enter_replicas, stack, replicas)
    return sides, compile_seconds


def _engine_sides(
    engines: Sequence[str],
    sizes: Sequence[int],
    places: Sequence[str],
    config: Config,
    model: Model,
    rows: np.ndarray,
) -> tuple[dict[Key, Side], dict[str, float]]:
    """Return each engine at each size and place, and the seconds that compiling an engine took."""
    sides: dict[Key, Side] = {}
    compile_seconds: dict[str, float] = {}
    for name in engines:
        started = time.perf_counter()
        for size, place in product(sizes, places):
            engine = make_engine(name, config, model, size)
            sides[name, size, place] = on_one_thread(placed_side, engine, rows, place)
        compile_seconds[name] = time.perf_counter() - started
    return sides, compile_seconds


def engines_of(train: TrainConfig, model: Model) -> tuple[str, ...]:
    """Return the engines to compare: the one that the options name, or all of the device."""
    chosen, _ = choose_engine(train, model)
    if train.engine != "auto":
        return (chosen,)
    if chosen == "fused":
        return "fused", "torch"
    device = train_device(train.device)
    works = device.type != "cpu" and train.precision == "float32" and not fits(model, device)
    return ("fused-cuda", chosen) if works else (chosen,)


def places_of(train: TrainConfig) -> tuple[str, ...]:
    """Return where rows lie before they are trained on: in the host's memory, or on the GPU too."""
    return (HOST,) if train_device(train.device).type == "cpu" else (HOST, DEVICE)


def make_engine(
    name: str, config: Config, model: Model, batch_size: int, cores: ComputePool | None = None
) -> Engine:
    """Return an engine of one replica, with a learning rate too small to move it."""
    parameters = initial_parameters(model, config.order.seed, 0)
    engine = ENGINES[name](model, parameters, batch_size, RATES[:1], config.train, ROWS)
    if cores is not None:
        assert isinstance(engine, FusedEngine)
        engine.cores = cores
    return engine


def placed_side(engine: Engine, rows: np.ndarray, place: str) -> Side:
    """Return `engine_side` with the rows where `place` says."""
    if place == DEVICE and isinstance(engine, CudaEngine | TorchEngine):
        engine.shared_block = SharedBlock(engine.device)
        engine.shared_block.put(rows)
    return engine_side(engine, rows)


def engine_side(engine: Engine, rows: np.ndarray) -> Side:
    """Return a side that takes steps of the engine, over the rows as often as needed."""

    def take(steps: int) -> None:
        rows_left = steps * engine.batch_size
        while rows_left:
            taken = min(rows_left, len(rows))
            engine.advance(rows, 0, taken)
            rows_left -= taken

    return region(take, engine.batch_size)


def region(take: Callable[[int], object], batch_size: int) -> Side:
    """Return a side that takes the steps of one timed region and returns rows per second.

    `take(n)` takes n steps. The number of steps that fills a region is found here, by trying, after
    two steps that compile what has to be compiled.
    """
    take(2)
    steps, seconds = 1, _seconds(take, 1)
    while seconds < REGION_SECONDS / 4:
        steps *= 4
        seconds = _seconds(take, steps)
    steps = max(1, round(steps * REGION_SECONDS / seconds))
    return lambda: steps * batch_size / _seconds(take, steps)


def on_one_thread(make: Callable[..., Side], *arguments: Any) -> Side:
    """Return the side that `make(*arguments)` makes, run with one thread of BLAS and torch.

    It is made with one thread too: compiled torch code depends on the number of threads, and would
    be compiled again, inside the timed region, for another number.
    """

    def limited() -> float:
        with one_blas_thread(), torch_threads(1):
            return side()

    with one_blas_thread(), torch_threads(1):
        side = make(*arguments)
    return limited


class Replicas:
    """The learners of one trial, `RATES` at each batch size, in parallel on the cores as in a pass.

    A context, which trains once when it is entered.
    """

    def __init__(self, config: Config, model: Shape, rows: np.ndarray, cores: ComputePool):
        parameters = initial_parameters(model, config.order.seed, 0)
        self.rows = rows[: max(REPLICA_WORK // model.num_parameters, 1024)]
        self.engines = [
            FusedEngine(model, parameters, size, RATES, config.train, ROWS)
            for size in bench_sizes(config)
        ]
        for engine in self.engines:
            engine.cores = cores
        self._callers = ThreadPoolExecutor(len(self.engines))

    def __enter__(self) -> Self:
        self.train()
        return self

    def __exit__(self, *error: object) -> None:
        self._callers.shutdown()

    def train(self) -> float:
        """Train every replica on all rows; return rows per second, summed over replicas."""
        num_rows = len(self.rows)
        started = time.perf_counter()
        # a list, so that all of them are waited for
        list(self._callers.map(lambda engine: engine.advance(self.rows, 0, num_rows), self.engines))
        seconds = time.perf_counter() - started
        return num_rows * len(self.engines) * len(RATES) / seconds


def _enter_replicas(stack: ExitStack, replicas: Replicas) -> Side:
    return stack.enter_context(replicas).train


def sgemm() -> Side:
    """Return a side that measures NumPy's float32 matrix product on one thread, in GFLOP/s."""
    a, b = np.random.default_rng(0).standard_normal((2, SGEMM, SGEMM)).astype(np.float32)
    out = np.empty_like(a)

    def side() -> float:
        with one_blas_thread():
            seconds, products = 0.0, 0
            while seconds < REGION_SECONDS:
                seconds += _seconds(lambda _: np.dot(a, b, out=out), 1)
                products += 1
        return products * 2 * SGEMM**3 / seconds / 1e9

    side()
    return side


def _seconds(take: Callable[[int], object], steps: int) -> float:
    started = time.perf_counter()
    take(steps)
    return time.perf_counter() - started
