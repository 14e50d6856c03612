"""`--dry-run`: the files, rows and bytes of a run, and about how long it takes.

Reads one span and tries a few steps; writes nothing.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Literal

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.base.words import plural
from streamtrain.cluster.choice import check_options, is_wanted
from streamtrain.config import Config
from streamtrain.records import UntilFlat, stages_text
from streamtrain.report.expected_time import (
    Cost,
    NumModels,
    RowCosts,
    Times,
    models_of,
    sweep_times,
    train_times,
)
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.run.shared_facts import NO_LAST_ROW
from streamtrain.run.sweep_plan import plan_sweep
from streamtrain.run.warm_up import warm_up
from streamtrain.stream.fetch import FetchStats
from streamtrain.stream.window import shuffle_once
from streamtrain.training.batch_schedule import all_stages, most_sizes, with_sizes
from streamtrain.training.engine_choice import running
from streamtrain.types import Json

#: Seconds for which the steps of each batch size are tried, the rows they are tried on, and the
#: fewest calls.
_TRY_SECONDS = 0.1
_TRY_ROWS = 2**17
_FEWEST_CALLS = 3

#: The models of a sweep whose records decide on its passes.
_NO_MODELS: Json = dict.fromkeys(NumModels._fields)


def plan_run(
    config: Config, verb: Literal["sweep", "train"], *, began: float | None = None
) -> Json:
    """Return the plan of `sweep` or `train`, ready for strict JSON.

    `seconds` are those of all passes and of what follows them, without opening the data;
    `training_seconds` those of steps and evaluations if rows cost nothing, `reading_seconds` those
    of the passes if nothing were trained. Both share the processor, so `seconds` may be more than
    the larger one. A sweep takes `seconds` at least and `most_seconds` at most, as its records
    decide; a training that a flat loss ends takes `seconds` at most. All are None where a clock or
    a budget ends the run. `began`: as for `run_sweep`. Raises what the run itself would raise
    before its first step.
    """
    if is_wanted(config.cluster):
        check_options(verb, config)
    return _train_plan(config) if verb == "train" else _sweep_plan(config, began)


def _train_plan(config: Config) -> Json:
    prepared = prepare(config, learners=most_sizes(config.train), rates=1, until_flat=True)
    stages = all_stages(with_sizes(config.train, prepared.epoch_rows, prepared.last_row))
    sizes = tuple(dict.fromkeys(stage.batch_size for stage in stages))
    has_end = prepared.last_row < NO_LAST_ROW
    costs = _row_costs(prepared, sizes, (config.train.rate,), has_end=has_end)
    times = train_times(prepared, costs, stages) if has_end else None
    return {
        "verb": "train",
        **_data(prepared),
        "trials": 1,
        "batch_sizes": list(sizes),
        "batch_schedule": stages_text(stages),
        "learning_rates": [config.train.rate],
        **NumModels(rates=1, models=1, most_models=1, fresh_passes=0, most_extensions=0)._asdict(),
        "train_rows": prepared.end_row,
        "until_flat": None if prepared.until_flat is None else asdict(prepared.until_flat),
        "budget_seconds": None,
        "budget_rows": None,
        **_speeds(prepared, costs, times, times),
    }


def _sweep_plan(config: Config, began: float | None) -> Json:
    # imports torch, as the sweep does
    from streamtrain.run.reserve import with_reserve

    started = time.perf_counter()
    plan = plan_sweep(config)
    prepared, opening = plan.prepared, time.perf_counter() - started
    before = 0.0 if began is None else started - began
    ladder = with_reserve(prepared, plan.ladder, plan.sizes, opening, before)
    has_end = ladder is None and prepared.last_row < NO_LAST_ROW
    costs = _row_costs(prepared, plan.sizes, plan.rates, has_end=has_end)
    fewest, most = sweep_times(plan, costs) if has_end else (None, None)
    return {
        "verb": "sweep",
        **_data(prepared),
        "trials": None if ladder is not None else plan.trials,
        "batch_sizes": list(plan.sizes),
        "batch_schedule": None,
        "learning_rates": list(plan.rates),
        **(_NO_MODELS if ladder is not None else models_of(plan)._asdict()),
        "train_rows": prepared.end_row if ladder is None else None,
        "until_flat": None,
        "budget_seconds": None if ladder is None else ladder.announced_seconds,
        "budget_rows": None if ladder is None else ladder.budget_rows,
        **_speeds(prepared, costs, fewest, most),
    }


def _data(prepared: Prepared) -> Json:
    """Return what is read, and within which memory."""
    source, budget, dataset = prepared.source, prepared.budget, prepared.source.dataset
    value_bytes = np.dtype(dataset.decoded_type).itemsize
    return {
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
        "window_rows": source.window_rows,
        "holdout_rows": 0 if prepared.evaluation is None else len(prepared.evaluation),
        "projected_bytes": budget.projected_bytes,
        "budget_bytes": budget.limit_bytes,
        "windows": budget.windows,
        "readers": budget.readers,
        "engine": prepared.engine,
        "cluster": is_wanted(prepared.config.cluster),
    }


def _speeds(prepared: Prepared, costs: RowCosts, fewest: Times | None, most: Times | None) -> Json:
    """Return what rows cost, and the times that follow."""
    times = dict.fromkeys(Times._fields) if fewest is None else fewest._asdict()
    return {
        "max_seconds": prepared.config.train.max_time,
        "read_rows_per_second": costs.read_rate,
        "step_rows_per_second": {str(size): 1 / step.seconds for size, step in costs.steps.items()},
        **times,
        "most_seconds": None if most is None else most.seconds,
    }


def _row_costs(
    prepared: Prepared, sizes: tuple[int, ...], rates: tuple[float, ...], *, has_end: bool
) -> RowCosts:
    """Read a span and try the steps of each size: what rows of this run cost.

    `has_end`: the run ends after known rows, so that its time can be told.
    """
    warm_up(prepared)
    read_rate = _read_rate(prepared)
    steps, evaluation = _try_learners(prepared, sizes, rates)
    return RowCosts(
        read_rate=read_rate,
        stream_rate=_rate_of_tiny_epochs(prepared) if has_end else math.inf,
        steps=steps,
        evaluation=evaluation,
        replicas=len(rates),
    )


def _read_rate(prepared: Prepared) -> float:
    """Return rows per second of one thread that reads and shuffles, from the largest span."""
    spans = prepared.source.spans
    span = spans[int(np.argmax(spans.num_rows))]
    started = time.perf_counter()
    shuffle_once(prepared.source, span)
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


def _try_learners(
    prepared: Prepared, sizes: Sequence[int], rates: Sequence[float]
) -> tuple[dict[int, Cost], Cost]:
    """Return the cost of a learner's steps by batch size, with all its rates, and of evaluating.

    Steps are taken on random rows, on as many threads as the run has.
    """
    shape = (_TRY_ROWS, prepared.source.num_columns)
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    steps, evaluation = {}, Cost(0.0, 0.0)
    threads, holdout = prepared.config.train.threads or default_readers(), prepared.evaluation
    for size in sizes:
        engine = prepared.learner(size, (1e-6,) * len(rates), 0).engine
        stop = min(max(size, 4096), _TRY_ROWS)
        with running([engine], threads):
            steps[size] = _cost(partial(engine.advance, rows, 0, stop), stop)
            if holdout is not None and not evaluation.seconds:
                evaluation = _cost(partial(engine.evaluate, holdout), len(holdout))
    return steps, evaluation


def _cost(work: Callable[[], object], num_rows: int) -> Cost:
    """Return the cost of a row, from calls that take `num_rows` rows each; the first warms up.

    The seconds are the median of at least three calls: one that another program holds up for
    `_TRY_SECONDS` would otherwise be all that is measured.
    """
    work()
    seconds: list[float] = []
    core_started = time.process_time()
    while len(seconds) < _FEWEST_CALLS or sum(seconds) < _TRY_SECONDS:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    core_seconds = (time.process_time() - core_started) / len(seconds)
    return Cost(median(seconds) / num_rows, core_seconds / num_rows)


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
    sizes, rates = len(plan["batch_sizes"]), plan["rates"] or len(plan["learning_rates"])
    each = f"{plural(sizes, 'batch size')}, {plural(rates, 'learning rate')} each"
    if plan["models"] is None:
        return (
            f"starts with {each}; passes of growing rows until the loss is flat, then trials until"
            " the choice is settled"
        )
    trials = plural(plan["trials"], "trial")
    if plan["verb"] == "sweep":
        fewest, most = plan["models"], plan["most_models"]
        models = plural(fewest, "model") if fewest == most else f"{fewest:,} to {most:,} models"
        return f"{models}: {trials}, {each}; one pass over the data per trial{_more_passes(plan)}"
    work = f"{plural(plan['models'], 'model')}: {trials}, {each}"
    if sizes > 1 and plan["batch_schedule"] is not None:
        work += f", --batch-schedule {plan['batch_schedule']}"
    if plan["until_flat"] is not None:
        return f"{work}; {UntilFlat(**plan['until_flat']).text}"
    return work


def _more_passes(plan: Json) -> str:
    """Return what a fixed plan runs beside the passes of its trials."""
    texts = []
    if plan["fresh_passes"]:
        texts.append(f"{plan['fresh_passes']:,} on fresh seeds")
    if plan["most_extensions"]:
        texts.append(f"at most {plan['most_extensions']} to extend the learning rates")
    return f", {' and '.join(texts)}" if texts else ""


def _time_text(plan: Json) -> str:
    rate = format_count(plan["read_rows_per_second"])
    read = f"one span was read and shuffled at {rate} rows/s per thread"
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
    seconds, most = plan["seconds"], plan["most_seconds"]
    about = f"about {format_seconds(seconds)}"
    if plan["train_rows"] is None:
        about = f"at most {about}"
    elif format_seconds(most) != format_seconds(seconds):
        about = f"at least {about} and at most {format_seconds(most)} (where results ask for more)"
    return (
        f"{about}{limit} after opening, {bottleneck} being the"
        f" bottleneck (reading alone {format_seconds(reading)}, training alone"
        f" {format_seconds(training)}); {read}"
    )
