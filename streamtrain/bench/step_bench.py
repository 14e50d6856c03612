"""`streamtrain bench step`: a training step of our engines compared with a plain PyTorch loop.

The product of two matrices (sgemm) gives the arithmetic speed of the machine. All sides take turns
in one process, on the same rows in memory. Compilation is done before.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.bench.bench_verdict import figure, ratio_figure, require_positive
from streamtrain.bench.stream_bench import REPEATS, Side, take_turns
from streamtrain.bench.torch_loop import TorchLoop, torch_threads
from streamtrain.config import Config
from streamtrain.run.sweep_plan import bench_sizes
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import ENGINES, choose_engine, make_model
from streamtrain.training.fused_engine import FusedEngine, gradient_slots, one_blas_thread
from streamtrain.training.model import Model, Shape, initial_parameters
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

#: Learning rates of the replicas that share the cores.
RATES = (1e-6, 2e-6, 4e-6)

#: Edge of the square matrices of the product.
SGEMM = 1024

#: What a side is called: ("sgemm",), (engine, batch size), ("eager", batch size, threads), …
Key = tuple[Any, ...]
Samples = dict[Key, list[float]]


def measure_step(config: Config, *, repeats: int = REPEATS) -> Json:
    """Time a step at each of `config.sweep.batch_sizes` with every engine that can take it.

    Engines run on one thread of the CPU. Rates are in rows per second. `cells` compares an engine
    at a batch size with eager torch at the better of one and all threads; `scaling` compares the
    fused engine on all threads with one thread.

    Raises ConfigError for what no engine can do, and for fewer than one repeat.
    """
    require_positive("--repeats", repeats)
    sizes, train = bench_sizes(config), config.train
    model = make_model(config.model, FEATURES).for_trial(config.order.seed, 0)
    chosen, _ = choose_engine(train, model)
    engines = ("fused", "torch") if train.engine == "auto" and chosen == "fused" else (chosen,)
    threads = train.threads or default_readers()
    thread_counts = sorted({1, threads})
    random = np.random.default_rng(config.order.seed)
    num_rows = max(ROWS, *sizes)
    rows = random.standard_normal((num_rows, FEATURES + 1)).astype(np.float32)
    sides: dict[Key, Side] = {("sgemm",): sgemm()}
    compile_seconds: dict[str, float] = {}
    fused_in_parallel = "fused" in engines and threads > 1
    with ExitStack() as stack:
        one_core = stack.enter_context(ComputePool(1))
        all_cores = stack.enter_context(ComputePool(threads))
        for name in engines:
            started = time.perf_counter()
            for size in sizes:
                engine = make_engine(name, config, model, size)
                sides[name, size] = on_one_thread(engine_side, engine, rows)
            compile_seconds[name] = time.perf_counter() - started
        for size in sizes:
            for count in thread_counts:
                loop = TorchLoop(model, rows, size, train, count)
                sides["eager", size, count] = region(loop.take, size)
            if fused_in_parallel and gradient_slots(size, model.num_parameters) > 1:
                engine = make_engine("fused", config, model, size, all_cores)
                sides["shared", size] = on_one_thread(engine_side, engine, rows)
        if fused_in_parallel and isinstance(model, Shape):
            for key, cores in (("replicas", one_core), ("replicas, all threads", all_cores)):
                replicas = Replicas(config, model, rows, cores)
                sides[key,] = on_one_thread(_enter_replicas, stack, replicas)
        samples = take_turns(sides, repeats, warm=[])
    sgemm_figure = figure(samples["sgemm",])
    sgemm_gflops = sgemm_figure["value"]
    flops = flops_per_row(model)
    cells = [cell(samples, name, size, thread_counts, flops) for size in sizes for name in engines]
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


def make_engine(
    name: str, config: Config, model: Model, batch_size: int, cores: ComputePool | None = None
) -> Engine:
    """Return an engine of one replica, with a learning rate too small to move it."""
    parameters = initial_parameters(model, config.order.seed, 0)
    engine = ENGINES[name](model, parameters, batch_size, RATES[:1], config.train, ROWS)
    if cores is not None:
        engine.cores = cores
    return engine


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


def flops_per_row(model: Model) -> int | None:
    """Return the operations of a training step per row; None for a user's module.

    A step takes three products per layer, but the first layer needs no deltas for its inputs.

    >>> flops_per_row(Shape(widths=(4, 32, 32, 1), activation="relu"))
    6848
    """
    if not isinstance(model, Shape):
        return None
    sizes = [inputs * outputs for inputs, outputs in model.layers]
    return 6 * sum(sizes) - 2 * sizes[0]


def cell(
    samples: Samples, engine: str, size: int, thread_counts: list[int], flops: int | None
) -> Json:
    """Return the figures of an engine at a batch size.

    Eager torch counts at the number of threads with the higher median.
    """
    ours = samples[engine, size]
    eager_threads = max(
        thread_counts, key=lambda count: float(np.median(samples["eager", size, count]))
    )
    eager = samples["eager", size, eager_threads]
    rate, eager_rate, ratio = figure(ours), figure(eager), ratio_figure(ours, eager)
    return {
        "batch_size": size,
        "engine": engine,
        "rows_per_second": rate["value"],
        "torch_eager_rows_per_second": eager_rate["value"],
        "ratio": ratio["value"],
        "gflops": None if flops is None else rate["value"] * flops / 1e9,
        "threads": 1,
        "torch_eager_threads": eager_threads,
        "intervals": {
            "rows_per_second": rate,
            "torch_eager_rows_per_second": eager_rate,
            "ratio": ratio,
        },
    }


def scaling(samples: Samples, sizes: tuple[int, ...], threads: int) -> list[Json]:
    """Return the fused engine on all threads compared with one thread.

    First come the batch sizes whose rows are shared among threads, then replicas of all sizes in
    parallel.
    """
    entries = [
        _scaling_entry([size], 1, threads, samples["shared", size], samples["fused", size])
        for size in sizes
        if ("shared", size) in samples
    ]
    if ("replicas",) in samples:
        all_threads, one_thread = samples["replicas, all threads",], samples["replicas",]
        replicas = len(RATES) * len(sizes)
        entries.append(_scaling_entry(list(sizes), replicas, threads, all_threads, one_thread))
    return entries


def _scaling_entry(
    sizes: list[int],
    replicas: int,
    threads: int,
    all_threads: list[float],
    one_thread: list[float],
) -> Json:
    ratio = ratio_figure(all_threads, one_thread)
    return {
        "batch_sizes": sizes,
        "replicas": replicas,
        "threads": threads,
        "rows_per_second": figure(all_threads)["value"],
        "one_thread_rows_per_second": figure(one_thread)["value"],
        "ratio": ratio["value"],
        "intervals": {"ratio": ratio},
    }


def limit(cells: list[Json], sgemm_gflops: float, parameters: int) -> str:
    """Return one sentence on what limits the step of the first engine in `cells`."""
    engine = cells[0]["engine"]
    counted = sorted(
        (cell for cell in cells if cell["gflops"] is not None and cell["engine"] == engine),
        key=lambda cell: cell["batch_size"],
    )
    if not counted:
        return (
            "What limits the step of a user's module is not known, because its operations are not"
            " counted."
        )
    fractions = {cell["batch_size"]: cell["gflops"] / sgemm_gflops for cell in counted}
    smallest = counted[0]["batch_size"]
    best = max(fractions, key=lambda size: fractions[size])
    if fractions[best] < 0.5:
        return (
            f"The {engine} step reaches {fractions[best]:.0%} of sgemm at best, at {best:,}: calls"
            " and memory, not arithmetic, are the limit."
        )
    text = (
        f"At {best:,} rows the {engine} step runs at {fractions[best]:.0%} of sgemm: arithmetic is"
        " the limit"
    )
    if fractions[smallest] > 0.9 * fractions[best]:
        return f"{text} at every size."
    return (
        f"{text}; at {smallest:,} rows, {fractions[smallest]:.0%}: an update of {parameters:,}"
        f" parameters every {smallest:,} rows takes the rest."
    )


def _seconds(take: Callable[[int], object], steps: int) -> float:
    started = time.perf_counter()
    take(steps)
    return time.perf_counter() - started
