"""`streamtrain bench step`: a training step of our engines beside a plain PyTorch loop, and beside
the fastest product of matrices.

All sides take turns in one process, on the same rows in memory; what is compiled is compiled
before.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.bench.stream_bench import REPEATS, take_turns
from streamtrain.bench.torch_loop import TorchLoop, torch_threads
from streamtrain.config import Config
from streamtrain.errors import ConfigError
from streamtrain.science.intervals import measure, paired_ratio
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import ENGINES, choose_engine, make_model
from streamtrain.training.fused_engine import FusedEngine, gradient_slots, one_blas_thread
from streamtrain.training.model import Model, Shape, initial_parameters
from streamtrain.types import Json

FEATURES = 4

#: Rows in memory that steps are timed on: 5 MB, more than a core's caches; more where a minibatch
#: is larger.
ROWS = 2**18

#: A timed region takes at least this long, or one step.
REGION_SECONDS = 0.1

#: Rows times parameters that each replica trains on in a region: `ROWS` of 4-32-32-1; fewer rows of
#: a larger model, or it would take minutes.
REPLICA_WORK = ROWS * 1249

#: Learning rates of the replicas that share the cores.
RATES = (1e-6, 2e-6, 4e-6)

#: Edge of the square matrices of the product.
SGEMM = 1024

Side = Callable[[], float]


def measure_step(config: Config, *, repeats: int = REPEATS) -> Json:
    """Time a step at each of `config.sweep.batch_sizes` with every engine that can take it, on one
    thread of the CPU, and torch eager.

    Rates are rows a second. `cells`: an engine at a batch size, beside torch eager at the better of
    one and all threads. `scaling`: the fused engine on all threads beside one. Raises ConfigError
    for what no engine can do and for fewer than one repeat.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats is {repeats}; it takes at least 1.")
    sizes, train = config.sweep.batch_sizes, config.train
    model = make_model(config.model, FEATURES).of_trial(config.order.seed, 0)
    chosen, _ = choose_engine(train, model)
    engines = ("fused", "torch") if train.engine == "auto" and chosen == "fused" else (chosen,)
    threads = train.threads or default_readers()
    rows = (
        np.random.default_rng(config.order.seed)
        .standard_normal((max(ROWS, *sizes), FEATURES + 1))
        .astype(np.float32)
    )
    sides: dict[tuple, Side] = {("sgemm",): sgemm()}
    compile_seconds = {}
    with ExitStack() as stack:
        one, every = (stack.enter_context(ComputePool(count)) for count in (1, threads))
        for name in engines:
            started = time.perf_counter()
            for size in sizes:
                sides[name, size] = on_one_thread(
                    engine_side, make_engine(name, config, model, size), rows
                )
            compile_seconds[name] = time.perf_counter() - started
        for size in sizes:
            for count in sorted({1, threads}):
                sides["eager", size, count] = region(
                    TorchLoop(model, rows, size, train, count).take, size
                )
            if (
                "fused" in engines
                and threads > 1
                and gradient_slots(size, model.num_parameters) > 1
            ):
                sides["shared", size] = on_one_thread(
                    engine_side, make_engine("fused", config, model, size, every), rows
                )
        if "fused" in engines and threads > 1:
            for key, cores in (("replicas", one), ("replicas, all threads", every)):
                replicas = Replicas(config, model, rows, cores)
                sides[key,] = on_one_thread(
                    lambda replicas: stack.enter_context(replicas).train, replicas
                )
        samples = take_turns(sides, repeats, warm=[])
    sgemm_gflops = measure(samples["sgemm",], log=True)["value"]
    flops = flops_a_row(model)
    cells = [
        cell(samples, name, size, sorted({1, threads}), flops) for size in sizes for name in engines
    ]
    return {
        "features": FEATURES,
        "hidden": list(config.model.hidden),
        "activation": config.model.activation,
        "model": model.to_json(),
        "optimizer": train.optimizer,
        "loss": train.loss,
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
    }


def make_engine(
    name: str, config: Config, model: Model, batch_size: int, cores: ComputePool | None = None
) -> Engine:
    """An engine of one replica at a rate too small to move it."""
    parameters = initial_parameters(model, config.order.seed, 0)
    engine = ENGINES[name](model, parameters, batch_size, RATES[:1], config.train, ROWS)
    if cores is not None:
        engine.cores = cores
    return engine


def engine_side(engine: Engine, rows: np.ndarray) -> Side:
    """The engine's steps, going through the rows as often as needed; compiled before, where they
    are.
    """

    def take(steps: int) -> None:
        left = steps * engine.batch_size
        while left:
            taken = min(left, len(rows))
            engine.advance(rows, 0, taken)
            left -= taken

    return region(take, engine.batch_size)


def region(take: Callable[[int], object], batch_size: int) -> Side:
    """A side that takes as many steps as fill a region, found once by trying; it returns rows a
    second.
    """
    take(2)
    steps, seconds = 1, _seconds(take, 1)
    while seconds < REGION_SECONDS / 4:
        steps *= 4
        seconds = _seconds(take, steps)
    steps = max(1, round(steps * REGION_SECONDS / seconds))
    return lambda: steps * batch_size / _seconds(take, steps)


def on_one_thread(make: Callable[..., Side], *arguments: Any) -> Side:
    """The side that `make` makes, with BLAS and torch on one thread a caller.

    It is made so too: what torch compiles holds the number of threads, and would be compiled anew,
    inside the clock, for another one.
    """

    def limited() -> float:
        with one_blas_thread(), torch_threads(1):
            return side()

    with one_blas_thread(), torch_threads(1):
        side = make(*arguments)
    return limited


class Replicas:
    """The learners of one trial, `RATES` at each batch size, side by side on the cores as in a
    pass; a context.
    """

    def __init__(self, config: Config, model: Model, rows: np.ndarray, cores: ComputePool):
        parameters = initial_parameters(model, config.order.seed, 0)
        self.rows = rows[: max(REPLICA_WORK // model.num_parameters, 1024)]
        self.engines = [
            FusedEngine(model, parameters, size, RATES, config.train, ROWS)
            for size in config.sweep.batch_sizes
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
        """Every replica trains on all rows; returns rows a second, each counted once a replica."""
        started = time.perf_counter()
        list(
            self._callers.map(
                lambda engine: engine.advance(self.rows, 0, len(self.rows)), self.engines
            )
        )
        return len(self.rows) * len(self.engines) * len(RATES) / (time.perf_counter() - started)


def sgemm() -> Side:
    """Billions of operations a second of NumPy's product of two float32 squares, on one thread."""
    a, b = np.random.default_rng(0).standard_normal((2, SGEMM, SGEMM)).astype(np.float32)
    out = np.empty_like(a)

    def side() -> float:
        with one_blas_thread():
            seconds, times = 0.0, 0
            while seconds < REGION_SECONDS:
                seconds += _seconds(lambda _: np.dot(a, b, out=out), 1)
                times += 1
        return times * 2 * SGEMM**3 / seconds / 1e9

    side()
    return side


def flops_a_row(model: Model) -> int | None:
    """Operations of a training step for each row: three products a layer, but for the first layer's
    deltas. None for a user's module.

    >>> flops_a_row(Shape(widths=(4, 32, 32, 1), activation="relu"))
    6848
    """
    if not isinstance(model, Shape):
        return None
    sizes = [inputs * outputs for inputs, outputs in model.layers]
    return 6 * sum(sizes) - 2 * sizes[0]


def cell(
    samples: dict[tuple, list[float]], engine: str, size: int, counts: list[int], flops: int | None
) -> Json:
    """An engine at a batch size; torch eager at whichever number of threads has the higher
    median.
    """
    ours = samples[engine, size]
    better = max(counts, key=lambda count: np.median(samples["eager", size, count]))
    eager = samples["eager", size, better]
    rate, ratio = measure(ours, log=True), paired_ratio(ours, eager)
    return {
        "batch_size": size,
        "engine": engine,
        "rows_per_second": rate["value"],
        "torch_eager_rows_per_second": measure(eager, log=True)["value"],
        "ratio": ratio[0],
        "gflops": None if flops is None else rate["value"] * flops / 1e9,
        "threads": 1,
        "torch_eager_threads": better,
        "intervals": {
            "rows_per_second": rate.to_json(),
            "ratio": {"value": ratio[0], "n": len(ours), "lo": ratio[1], "hi": ratio[2]},
        },
    }


def scaling(samples: dict[tuple, list[float]], sizes: tuple[int, ...], threads: int) -> list[Json]:
    """The fused engine on all threads beside one: each size whose rows are shared, then replicas of
    all sizes side by side.
    """
    pairs = [
        ((size,), 1, samples["shared", size], samples["fused", size])
        for size in sizes
        if ("shared", size) in samples
    ]
    if ("replicas",) in samples:
        pairs.append(
            (
                sizes,
                len(RATES) * len(sizes),
                samples["replicas, all threads",],
                samples["replicas",],
            )
        )
    found = []
    for batch_sizes, replicas, several, one in pairs:
        ratio, lo, hi = paired_ratio(several, one)
        found.append(
            {
                "batch_sizes": list(batch_sizes),
                "replicas": replicas,
                "threads": threads,
                "rows_per_second": measure(several, log=True)["value"],
                "one_thread_rows_per_second": measure(one, log=True)["value"],
                "ratio": ratio,
                "intervals": {"ratio": {"value": ratio, "n": len(one), "lo": lo, "hi": hi}},
            }
        )
    return found


def limit(cells: list[Json], sgemm_gflops: float, parameters: int) -> str:
    """One sentence: what keeps the fused step, or else the only engine's, from being faster."""
    known = sorted(
        (c for c in cells if c["gflops"] is not None and c["engine"] == cells[0]["engine"]),
        key=lambda c: c["batch_size"],
    )
    if not known:
        return (
            "What limits the step of a module of your own is not known: its operations are not"
            " counted."
        )
    shares = {c["batch_size"]: c["gflops"] / sgemm_gflops for c in known}
    small, best = known[0]["batch_size"], max(shares, key=lambda size: shares[size])
    if shares[best] < 0.5:
        return (
            f"The {known[0]['engine']} step reaches {shares[best]:.0%} of sgemm at best, at"
            f" {best:,}: calls and memory, not arithmetic, are the limit."
        )
    text = (
        f"At {best:,} rows the {known[0]['engine']} step runs at {shares[best]:.0%} of sgemm:"
        " arithmetic is the limit"
    )
    if shares[small] > 0.9 * shares[best]:
        return text + " at every size."
    return (
        text
        + f"; at {small:,} rows, {shares[small]:.0%}: an update of {parameters:,} parameters every"
        f" {small:,} rows takes the rest."
    )


def _seconds(take: Callable[[int], object], steps: int) -> float:
    started = time.perf_counter()
    take(steps)
    return time.perf_counter() - started
