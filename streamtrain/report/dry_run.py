"""What a run would do: files, rows, bytes, and about how long it takes.

Reads one span and tries a few steps; writes nothing.
"""

import time

import numpy as np

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.cluster.connect import is_wanted
from streamtrain.config import Config
from streamtrain.run.prepare import NO_LAST_ROW, Prepared, prepare, warm_up
from streamtrain.run.sweep import learning_rates
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.types import Json

#: Seconds that steps of one batch size are tried.
_TRY_SECONDS = 0.1
_TRY_ROWS = 2**17


def plan_run(config: Config, verb: str) -> Json:
    """The plan of `sweep` or `train`, ready for strict JSON; raises what the run itself would raise
    before its first step.

    `training_seconds` is rows x models over the rate of the steps that were tried, learners side by
    side on the threads they have; None where only a clock ends the run. `reading_seconds` is a
    pass's, were nothing trained.
    """
    sizes, rates, trials = (
        ((config.train.batch_size,), (config.train.rate,), 1)
        if verb == "train"
        else (config.sweep.batch_sizes, learning_rates(config), config.sweep.trials)
    )
    prepared = prepare(config, learners=len(sizes), rates=len(rates))
    source, budget, dataset = prepared.source, prepared.budget, prepared.source.dataset
    warm_up(prepared)
    span = max(source.spans, key=lambda span: span.num_rows)
    started = time.perf_counter()
    source.read(span)
    read_rate = span.num_rows / max(time.perf_counter() - started, 1e-9)
    rows = prepared.last_row if prepared.last_row < NO_LAST_ROW else None
    step_rates = _step_rates(prepared, sizes, rates)
    workers = min(budget.readers, len(sizes)) if prepared.engine == "fused" else 1
    return {
        "verb": verb,
        "url": dataset.url,
        "format": dataset.shards[0].format,
        "num_rows": dataset.num_rows,
        "num_shards": len(dataset.shards),
        "features": list(dataset.features),
        "target": dataset.target,
        "integrity": dataset.integrity,
        "decoded_bytes": (
            dataset.num_rows * len(dataset.columns) * np.dtype(dataset.decoded_type).itemsize
        ),
        "num_spans": len(source.spans),
        "num_windows": len(prepared.plan(0, 0)),
        "window_rows": prepared.source.window_rows,
        "holdout_rows": 0 if prepared.evaluation is None else len(prepared.evaluation),
        "projected_bytes": budget.projected_bytes,
        "budget_bytes": budget.limit_bytes,
        "windows": budget.windows,
        "readers": budget.readers,
        "engine": prepared.engine,
        "cluster": is_wanted(config.cluster),
        "trials": trials,
        "batch_sizes": list(sizes),
        "learning_rates": list(rates),
        "models": trials * len(sizes) * len(rates),
        "train_rows": rows,
        "max_seconds": config.train.max_time,
        "read_rows_per_second": read_rate,
        "step_rows_per_second": {str(size): rate for size, rate in step_rates.items()},
        "reading_seconds": None if rows is None else trials * rows / read_rate / budget.readers,
        "training_seconds": (
            None
            if rows is None
            else trials * rows * sum(1 / rate for rate in step_rates.values()) / workers
        ),
    }


@one_blas_thread()
def _step_rates(
    prepared: Prepared, sizes: tuple[int, ...], rates: tuple[float, ...]
) -> dict[int, float]:
    """Batch size → rows per second of a learner with all its rates, tried on rows of noise."""
    found = {}
    rows = (
        np.random.default_rng(0)
        .standard_normal((_TRY_ROWS, prepared.source.num_columns))
        .astype(np.float32)
    )
    for size in sizes:
        engine = prepared.learner(size, tuple(1e-6 for _ in rates), 0).engine
        stop = min(max(size, 4096), _TRY_ROWS)
        engine.advance(rows, 0, stop)
        done, started = 0, time.perf_counter()
        while done == 0 or time.perf_counter() - started < _TRY_SECONDS:
            engine.advance(rows, 0, stop)
            done += stop
        found[size] = done / (time.perf_counter() - started)
    return found


def plan_text(plan: Json) -> str:
    """The plan in a few lines for people."""
    shards = _plural(plan["num_shards"], f"{plan['format'].capitalize()} shard")
    work = (
        f"{_plural(plan['models'], 'model')}: {_plural(plan['trials'], 'trial')},"
        f" {_plural(len(plan['batch_sizes']), 'batch size')},"
    )
    work += f" {_plural(len(plan['learning_rates']), 'learning rate')} each"
    lines = [
        (
            f"data       {_plural(plan['num_rows'], 'row')} in {shards};"
            f" {format_bytes(plan['decoded_bytes'])} decoded; integrity {plan['integrity']}"
        ),
        f"columns    {', '.join(plan['features'])} → {plan['target']}",
        (
            f"order      {_plural(plan['num_spans'], 'span')} in"
            f" {_plural(plan['num_windows'], 'window')} of at most {plan['window_rows']:,} rows"
        ),
        f"held out   {_plural(plan['holdout_rows'], 'row')}",
        (
            f"memory     {format_bytes(plan['projected_bytes'])} projected,"
            f" {format_bytes(plan['budget_bytes'])} allowed; {_plural(plan['windows'], 'window')}"
            f" in flight, {_plural(plan['readers'], 'reader')}"
        ),
        f"work       {work}" + ("; one pass over the data a trial" if plan["trials"] > 1 else ""),
        f"time       {_time(plan)}",
    ]
    if plan["cluster"]:
        lines.append(
            "cluster    not asked: memory is of a worker like this machine, time as if there were"
            " only one"
        )
    return "\n".join(lines)


def _time(plan: Json) -> str:
    read = f"one span was read at {format_count(plan['read_rows_per_second'])} rows/s a thread"
    if plan["train_rows"] is None:
        return f"until {format_seconds(plan['max_seconds'])} are over; {read}"
    longest = max(plan["training_seconds"], plan["reading_seconds"])
    by = "training" if plan["training_seconds"] >= plan["reading_seconds"] else "reading"
    limit = (
        ""
        if plan["max_seconds"] is None
        else f", and never longer than {format_seconds(plan['max_seconds'])}"
    )
    share = (
        f"reading alone {format_seconds(plan['reading_seconds'])}, training alone"
        f" {format_seconds(plan['training_seconds'])}"
    )
    return f"about {format_seconds(longest)}{limit}, {by} being the bottleneck ({share}); {read}"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
