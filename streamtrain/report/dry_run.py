"""`--dry-run`: the files, rows and bytes of a run, and about how long it takes.

Reads one span and tries a few steps; writes nothing.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.base.words import plural
from streamtrain.cluster.choice import is_wanted
from streamtrain.config import Config, TrainConfig
from streamtrain.records import UntilFlat
from streamtrain.run.prepare import NO_LAST_ROW, Prepared, prepare, warm_up
from streamtrain.run.sweep_plan import plan_sweep
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.types import Json

#: Seconds for which the steps of each batch size are tried, and the rows they are tried on.
_TRY_SECONDS = 0.1
_TRY_ROWS = 2**17


def plan_run(config: Config, verb: str) -> Json:
    """Return the plan of `sweep` or `train`, ready for strict JSON.

    `training_seconds` is rows × models over the rate of the tried steps, with as many learners side
    by side as there are threads; None where only a clock ends the run. `reading_seconds` is the
    time of the passes if nothing were trained. Where a flat loss ends the run, both are for the
    most rows that it can take. Raises what the run itself would raise before its first step.
    """
    if verb == "train":
        prepared, ladder = prepare(config, learners=1, rates=1, until_flat=True), None
        sizes, rates = _train_sizes(config.train), (config.train.rate,)
        learners = trials = 1
    else:
        plan = plan_sweep(config)
        prepared, ladder = plan.prepared, plan.ladder
        sizes, rates, trials = plan.sizes, plan.rates, plan.trials
        learners = len(sizes)
    source, budget, dataset = prepared.source, prepared.budget, prepared.source.dataset
    warm_up(prepared)
    read_rate = _read_rate(prepared)
    step_rates = _step_rates(prepared, sizes, rates)
    value_bytes = np.dtype(dataset.decoded_type).itemsize
    rows = reading_seconds = training_seconds = None
    if ladder is None and prepared.last_row < NO_LAST_ROW:
        rows = prepared.last_row
        workers = min(budget.readers, learners) if prepared.engine == "fused" else 1
        rows_of = (
            _rows_of_sizes(config.train, rows) if verb == "train" else dict.fromkeys(sizes, rows)
        )
        seconds = sum(rows_of[size] / rate for size, rate in step_rates.items())
        read_rates = (read_rate * budget.readers, _rate_of_tiny_epochs(prepared))
        reading_seconds = trials * rows / min(read_rates)
        training_seconds = trials * seconds / workers
    return {
        "verb": verb,
        "url": dataset.url,
        "format": dataset.shards[0].format,
        "num_rows": dataset.num_rows,
        "num_shards": len(dataset.shards),
        "features": list(dataset.features),
        "target": dataset.target,
        "integrity": dataset.integrity,
        "decoded_bytes": dataset.num_rows * len(dataset.columns) * value_bytes,
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
        "trials": None if ladder is not None else trials,
        "batch_sizes": list(sizes),
        "learning_rates": list(rates),
        "models": None if ladder is not None else trials * learners * len(rates),
        "train_rows": prepared.end_row if ladder is None else None,
        "until_flat": None if prepared.until_flat is None else asdict(prepared.until_flat),
        "budget_seconds": None if ladder is None else ladder.budget_seconds,
        "budget_rows": None if ladder is None else ladder.budget_rows,
        "max_seconds": config.train.max_time,
        "read_rows_per_second": read_rate,
        "step_rows_per_second": {str(size): rate for size, rate in step_rates.items()},
        "reading_seconds": reading_seconds,
        "training_seconds": training_seconds,
    }


def _train_sizes(train: TrainConfig) -> tuple[int, ...]:
    """Return the minibatch sizes of `train`, each once, in the order in which they begin."""
    schedule = train.batch_schedule or ((train.batch_size, 0),)
    return tuple(dict.fromkeys(size for size, _ in schedule))


def _rows_of_sizes(train: TrainConfig, rows: int) -> dict[int, int]:
    """Return the rows of `train` that are taken in minibatches of each size.

    >>> _rows_of_sizes(TrainConfig(batch_schedule="8@0,16@100,8@150"), 400)
    {8: 350, 16: 50}
    """
    schedule = train.batch_schedule or ((train.batch_size, 0),)
    taken = dict.fromkeys(_train_sizes(train), 0)
    ends = [*(row for _, row in schedule[1:]), rows]
    for (size, start), end in zip(schedule, ends, strict=True):
        taken[size] += max(0, min(end, rows) - start)
    return taken


def _read_rate(prepared: Prepared) -> float:
    """Return rows per second of one thread, from reading the largest span."""
    spans = prepared.source.spans
    span = spans[int(np.argmax(spans.num_rows))]
    started = time.perf_counter()
    prepared.source.read(span)
    return span.num_rows / max(time.perf_counter() - started, 1e-9)


def _rate_of_tiny_epochs(prepared: Prepared) -> float:
    """Return rows per second of the stream where an epoch is one window; else infinity.

    The fixed time of a window then exceeds that of reading its few rows.
    """
    if len(prepared.plan(0, 0)) > 1:
        return math.inf
    blocks = prepared.blocks(0, FetchStats())
    next(blocks)
    rows, started = 0, time.perf_counter()
    while rows == 0 or time.perf_counter() - started < _TRY_SECONDS:
        rows += prepared.epoch_rows
        next(blocks)
    seconds = time.perf_counter() - started
    blocks.close()
    return rows / seconds


@one_blas_thread()
def _step_rates(
    prepared: Prepared, sizes: Sequence[int], rates: Sequence[float]
) -> dict[int, float]:
    """Return rows per second of a learner with all its rates by batch size, on rows of noise."""
    shape = (_TRY_ROWS, prepared.source.num_columns)
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    step_rates = {}
    for size in sizes:
        engine = prepared.learner(size, tuple(1e-6 for _ in rates), 0).engine
        stop = min(max(size, 4096), _TRY_ROWS)
        engine.advance(rows, 0, stop)
        num_rows, started = 0, time.perf_counter()
        while num_rows == 0 or time.perf_counter() - started < _TRY_SECONDS:
            engine.advance(rows, 0, stop)
            num_rows += stop
        step_rates[size] = num_rows / (time.perf_counter() - started)
    return step_rates


def plan_text(plan: Json) -> str:
    """Return the plan in a few lines."""
    shards = plural(plan["num_shards"], f"{plan['format'].capitalize()} shard")
    facts = {
        "data": (
            f"{plural(plan['num_rows'], 'row')} in {shards};"
            f" {format_bytes(plan['decoded_bytes'])} decoded; integrity {plan['integrity']}"
        ),
        "columns": f"{', '.join(plan['features'])} → {plan['target']}",
        "order": (
            f"{plural(plan['num_spans'], 'span')} in {plural(plan['num_windows'], 'window')} of at"
            f" most {plan['window_rows']:,} rows"
        ),
        "held out": plural(plan["holdout_rows"], "row"),
        "memory": (
            f"{format_bytes(plan['projected_bytes'])} projected,"
            f" {format_bytes(plan['budget_bytes'])} allowed; {plural(plan['windows'], 'window')}"
            f" in flight, {plural(plan['readers'], 'reader')}"
        ),
        "work": _work_text(plan),
        "time": _time_text(plan),
    }
    if plan["cluster"]:
        facts["cluster"] = "not contacted: memory and time are for one worker like this machine"
    return "\n".join(f"{name:<11}{text}" for name, text in facts.items())


def _work_text(plan: Json) -> str:
    sizes, rates = len(plan["batch_sizes"]), len(plan["learning_rates"])
    each = f"{plural(sizes, 'batch size')}, {plural(rates, 'learning rate')} each"
    if plan["models"] is None:
        return (
            f"starts with {each}; passes of growing rows until the loss is flat, then trials until"
            " the choice is settled"
        )
    work = f"{plural(plan['models'], 'model')}: {plural(plan['trials'], 'trial')}, {each}"
    if plan["until_flat"] is not None:
        return f"{work}; {UntilFlat(**plan['until_flat']).text}"
    return f"{work}; one pass over the data per trial" if plan["trials"] > 1 else work


def _time_text(plan: Json) -> str:
    read = f"one span was read at {format_count(plan['read_rows_per_second'])} rows/s per thread"
    if plan["budget_seconds"] is not None:
        return f"at most about {format_seconds(plan['budget_seconds'])}; {read}"
    if plan["budget_rows"] is not None:
        return f"until {format_count(plan['budget_rows'])} rows are read; {read}"
    if plan["training_seconds"] is None:
        return f"until {format_seconds(plan['max_seconds'])} have passed; {read}"
    reading, training = plan["reading_seconds"], plan["training_seconds"]
    bottleneck = "training" if training >= reading else "reading"
    limit = ""
    if plan["max_seconds"] is not None:
        limit = f", and never longer than {format_seconds(plan['max_seconds'])}"
    about = "about" if plan["train_rows"] is not None else "at most about"
    return (
        f"{about} {format_seconds(max(training, reading))}{limit}, {bottleneck} being the"
        f" bottleneck (reading alone {format_seconds(reading)}, training alone"
        f" {format_seconds(training)}); {read}"
    )
