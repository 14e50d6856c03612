"""`--dry-run`: the files, rows and bytes of a run, and about how long it takes.

Reads one span and tries a few steps; writes nothing.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.base.words import plural
from streamtrain.cluster.choice import check_options, is_wanted
from streamtrain.config import Config
from streamtrain.plan.batch_sizes import rows_of_sizes
from streamtrain.records import BatchStage, LadderInfo, UntilFlat, stages_text
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.run.shared_facts import NO_LAST_ROW
from streamtrain.run.sweep_plan import plan_sweep
from streamtrain.run.timing import REPEATS, timing_seconds
from streamtrain.run.warm_up import warm_up
from streamtrain.stream.fetch import FetchStats
from streamtrain.stream.window import shuffle_once
from streamtrain.training.batch_schedule import all_stages, most_sizes, with_sizes
from streamtrain.training.engine_choice import running
from streamtrain.training.learner import evaluation_rows
from streamtrain.training.until_flat import points_until_flat
from streamtrain.types import Json

#: Seconds for which the steps of each batch size are tried, the rows they are tried on, and the
#: fewest calls.
_TRY_SECONDS = 0.1
_TRY_ROWS = 2**17
_FEWEST_CALLS = 3


class _Cost(NamedTuple):
    """The cost of one row: seconds by the clock, and processor seconds of all threads."""

    seconds: float
    core_seconds: float


class _Times(NamedTuple):
    """The times that `plan_run` returns."""

    seconds: float
    reading_seconds: float
    training_seconds: float


_NO_TIMES: Json = dict.fromkeys(_Times._fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a run would do: its learners, each with all `rates`, and the trials that repeat them.

    `sizes`: the minibatch sizes of the learners, or of the only one, whose `stages` they are.
    `ladder`: that of a sweep which chooses its own rows and trials.
    """

    prepared: Prepared
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    learners: int = 1
    trials: int = 1
    stages: tuple[BatchStage, ...] | None = None
    ladder: LadderInfo | None = None


def plan_run(config: Config, verb: Literal["sweep", "train"]) -> Json:
    """Return the plan of `sweep` or `train`, ready for strict JSON.

    `seconds` are those of all passes and of the timing after them, without opening the data;
    `training_seconds` those of steps and evaluations if rows cost nothing, `reading_seconds` those
    of the passes if nothing were trained. Both share the processor, so `seconds` may be more than
    the larger one. All are None where a clock or a budget ends the run; where a flat loss does,
    they are for the most rows that it can take. Raises what the run itself would raise before its
    first step.
    """
    if is_wanted(config.cluster):
        check_options(verb, config)
    work = _train_work(config) if verb == "train" else _sweep_work(config)
    prepared, ladder, stages = work.prepared, work.ladder, work.stages
    source, budget, dataset = prepared.source, prepared.budget, prepared.source.dataset
    warm_up(prepared)
    read_rate = _read_rate(prepared)
    steps, evaluation = _try_learners(prepared, work.sizes, work.rates)
    value_bytes = np.dtype(dataset.decoded_type).itemsize
    times: _Times | None = None
    if ladder is None and prepared.last_row < NO_LAST_ROW:
        times = _run_times(work, read_rate, steps, evaluation)
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
        "trials": None if ladder is not None else work.trials,
        "batch_sizes": list(work.sizes),
        "batch_schedule": None if stages is None else stages_text(stages),
        "learning_rates": list(work.rates),
        "models": None if ladder is not None else work.trials * work.learners * len(work.rates),
        "train_rows": prepared.end_row if ladder is None else None,
        "until_flat": None if prepared.until_flat is None else asdict(prepared.until_flat),
        "budget_seconds": None if ladder is None else ladder.announced_seconds,
        "budget_rows": None if ladder is None else ladder.budget_rows,
        "max_seconds": config.train.max_time,
        "read_rows_per_second": read_rate,
        "step_rows_per_second": {str(size): 1 / step.seconds for size, step in steps.items()},
        **(_NO_TIMES if times is None else times._asdict()),
    }


def _train_work(config: Config) -> _Work:
    """Return what `train` would do."""
    prepared = prepare(config, learners=most_sizes(config.train), rates=1, until_flat=True)
    stages = all_stages(with_sizes(config.train, prepared.epoch_rows, prepared.last_row))
    return _Work(
        prepared=prepared,
        sizes=tuple(dict.fromkeys(stage.batch_size for stage in stages)),
        rates=(config.train.rate,),
        stages=stages,
    )


def _sweep_work(config: Config) -> _Work:
    """Return what `sweep` would start with."""
    from streamtrain.run.measure import with_reserve

    started = time.perf_counter()
    plan = plan_sweep(config)
    return _Work(
        prepared=plan.prepared,
        sizes=plan.sizes,
        rates=plan.rates,
        learners=len(plan.sizes),
        trials=plan.trials,
        ladder=with_reserve(plan.prepared, plan.ladder, plan.sizes, time.perf_counter() - started),
    )


def _run_times(
    work: _Work, read_rate: float, steps: Mapping[int, _Cost], evaluation: _Cost
) -> _Times:
    """Return the times of all passes, and in `seconds` of the timing after them too."""
    prepared, trials = work.prepared, work.trials
    rows = prepared.last_row
    rows_of = dict.fromkeys(work.sizes, float(rows))
    if work.stages is not None:
        rows_of = rows_of_sizes(work.stages, rows)
    times = _pass_times(prepared, read_rate, steps, evaluation, rows_of)
    times = _Times(*(trials * seconds for seconds in times))
    if is_wanted(prepared.config.cluster):
        return times
    # the sizes of one training share the timed region of one
    after = timing_seconds(times.seconds, max(REPEATS, trials), work.learners)
    return times._replace(seconds=times.seconds + after)


def _pass_times(
    prepared: Prepared,
    read_rate: float,
    steps: Mapping[int, _Cost],
    evaluation: _Cost,
    rows_of: Mapping[int, float],
) -> _Times:
    """Return the times of one pass in which the learner of each size takes its rows.

    Learners of the fused engine train side by side, and share the cores with reading.
    """
    rows, cores = prepared.last_row, prepared.config.train.threads or default_readers()
    held_out = 0 if prepared.evaluation is None else len(prepared.evaluation)
    evaluated = held_out * _num_evaluations(prepared)
    learners = [
        _Cost(
            seconds=rows_of[size] * step.seconds + evaluated * evaluation.seconds,
            core_seconds=rows_of[size] * step.core_seconds + evaluated * evaluation.core_seconds,
        )
        for size, step in steps.items()
    ]
    reading = rows / min(read_rate * prepared.budget.readers, _rate_of_tiny_epochs(prepared))
    training = sum(cost.seconds for cost in learners)
    core_seconds = sum(cost.core_seconds for cost in learners)
    if prepared.engine == "fused":
        training = max(core_seconds / cores, *(cost.seconds for cost in learners), 0.0)
    # one thread builds the first window, and nothing is trained before it is there
    first = min(prepared.source.window_rows, rows) / read_rate
    later_core_seconds = max(0.0, rows / read_rate - first)
    both = max(reading - first, training, (core_seconds + later_core_seconds) / cores)
    return _Times(first + both, reading, training)


def _num_evaluations(prepared: Prepared) -> int:
    """Return how often a learner is evaluated at most."""
    points = evaluation_rows(prepared.config.eval.first_row, prepared.last_row)
    if prepared.until_flat is not None:
        points = points_until_flat(points, prepared.until_flat)
    return sum(1 for _ in points)


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
) -> tuple[dict[int, _Cost], _Cost]:
    """Return the cost of a learner's steps by batch size, with all its rates, and of evaluating.

    Steps are taken on random rows, on as many threads as the run has.
    """
    shape = (_TRY_ROWS, prepared.source.num_columns)
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    steps, evaluation = {}, _Cost(0.0, 0.0)
    threads, holdout = prepared.config.train.threads or default_readers(), prepared.evaluation
    for size in sizes:
        engine = prepared.learner(size, (1e-6,) * len(rates), 0).engine
        stop = min(max(size, 4096), _TRY_ROWS)
        with running([engine], threads):
            steps[size] = _cost(partial(engine.advance, rows, 0, stop), stop)
            if holdout is not None and not evaluation.seconds:
                evaluation = _cost(partial(engine.evaluate, holdout), len(holdout))
    return steps, evaluation


def _cost(work: Callable[[], object], num_rows: int) -> _Cost:
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
    return _Cost(median(seconds) / num_rows, core_seconds / num_rows)


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
    if sizes > 1 and plan["batch_schedule"] is not None:
        work += f", --batch-schedule {plan['batch_schedule']}"
    if plan["until_flat"] is not None:
        return f"{work}; {UntilFlat(**plan['until_flat']).text}"
    return f"{work}; one pass over the data per trial" if plan["trials"] > 1 else work


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
    about = "about" if plan["train_rows"] is not None else "at most about"
    return (
        f"{about} {format_seconds(plan['seconds'])}{limit} after opening, {bottleneck} being the"
        f" bottleneck (reading alone {format_seconds(reading)}, training alone"
        f" {format_seconds(training)}); {read}"
    )
