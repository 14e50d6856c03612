"""The figures of `bench step`: rates, ratios and the limit, from the samples of all sides."""

from typing import Any

import numpy as np

from streamtrain.base.units import format_percent
from streamtrain.bench.bench_verdict import figure, ratio_figure
from streamtrain.training.model import Model, Shape
from streamtrain.types import Json

#: Learning rates of the replicas that share the cores.
RATES = (1e-6, 2e-6, 4e-6)

#: Where rows lie before they are trained on.
HOST, DEVICE = "host", "device"

#: What a side is called: ("sgemm",), (engine, batch size, place), ("eager", batch size, place,
#: threads), …
Key = tuple[Any, ...]
Samples = dict[Key, list[float]]


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
    samples: Samples,
    engine: str,
    size: int,
    place: str,
    thread_counts: list[int],
    flops: int | None,
) -> Json:
    """Return the figures of an engine at a batch size, with the rows of both sides in one place.

    Eager torch counts at the number of threads with the higher median.
    """
    ours = samples[engine, size, place]
    eager_threads = max(
        thread_counts, key=lambda count: float(np.median(samples["eager", size, place, count]))
    )
    eager = samples["eager", size, place, eager_threads]
    rate, eager_rate, ratio = figure(ours), figure(eager), ratio_figure(ours, eager)
    return {
        "batch_size": size,
        "engine": engine,
        "rows_on": place,
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
        _scaling_entry([size], 1, threads, samples["shared", size], samples["fused", size, HOST])
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
        (
            cell
            for cell in cells
            if cell["gflops"] is not None
            and (cell["engine"], cell["rows_on"]) == (engine, cells[-1]["rows_on"])
        ),
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
    reached = format_percent(fractions[best])
    if fractions[best] < 0.5:
        return (
            f"The {engine} step reaches {reached} of sgemm at best, at {best:,}: calls and memory,"
            " not arithmetic, are the limit."
        )
    text = f"At {best:,} rows the {engine} step runs at {reached} of sgemm: arithmetic is the limit"
    if fractions[smallest] > 0.9 * fractions[best]:
        return f"{text} at every size."
    return (
        f"{text}; at {smallest:,} rows, {format_percent(fractions[smallest])}: an update of"
        f" {parameters:,} parameters every {smallest:,} rows takes the rest."
    )
