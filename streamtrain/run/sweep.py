"""The sweep: trials x batch sizes x learning rates.

One pass over the data feeds every learner of a trial, on the same rows.

Passes follow one another as `science/tuning.py` reads it from the records: tuning, extensions of
the grid, fresh seeds. Then the step and the stream are timed apart, and the recommended size is
trained once more, from end to end.
"""

import time
from dataclasses import asdict, replace

from streamtrain.base.budget import peak_rss_bytes
from streamtrain.base.units import format_bytes
from streamtrain.config import Config
from streamtrain.records import (
    Baseline,
    DataInfo,
    Emit,
    Measured,
    MeasuringStarted,
    MemoryInfo,
    PassEnded,
    PassPlanned,
    Record,
    RunEnded,
    RunStarted,
    WinningRates,
    started_record,
)
from streamtrain.run.confirm import confirm
from streamtrain.run.measure import (
    TrainedModel,
    equal_cells,
    measure,
    measure_at_target,
    measure_costs,
)
from streamtrain.run.passes import PassRunner, run_pass
from streamtrain.run.prepare import NO_LAST_ROW, Prepared, prepare, warm_up
from streamtrain.run.timing import REPEATS, measure_throughput
from streamtrain.science.judge import arm_cells, judge
from streamtrain.science.run_log import Run
from streamtrain.science.tuning import (
    EXTENDED_BY,
    PassPlan,
    choose_winners,
    is_tuned,
    last_pass,
    next_fresh_pass,
    next_tuning_pass,
)
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.training.learner import Learner
from streamtrain.types import Json

#: Records that are told between passes, or end one.
_BETWEEN_PASSES = (Baseline, PassEnded, WinningRates)


#: What torch and the pool of rows take while models are measured, when no training goes on (130 to
#: 240 MiB were seen).
MEASURING_BYTES = 256 * 2**20


def learning_rates(config: Config) -> tuple[float, ...]:
    """The rates tried at every batch size: a list as given, or a number of them, half a decade
    apart, around `train.lr`.
    """
    grid = config.sweep.lr_grid
    if not isinstance(grid, int):
        return tuple(sorted(set(grid)))
    center = config.train.rate
    return tuple(float(f"{center * 10 ** ((k - (grid - 1) / 2) / 2):.3g}") for k in range(grid))


def sweep(
    config: Config,
    emit: Emit,
    describe: Json,
    saving: Checkpointer | None = None,
    place: PassRunner = run_pass,
) -> None:
    """Run a sweep and emit its Records.

    `describe`: what the `run` record says beside what the sweep itself knows.

    With `saving` it can be interrupted, and an interrupted sweep goes on: which pass comes next
    follows from the records told.
    """
    started = time.perf_counter()
    sizes, rates = config.sweep.batch_sizes, learning_rates(config)
    prepared = prepare(config, learners=len(sizes), rates=most_rates(config))
    compile_seconds, before = warm_up(prepared, sizes, rates)
    header = run_record(
        prepared,
        describe,
        verb="sweep",
        compile_seconds=compile_seconds,
        sizes=sizes,
        rates=[rates] * len(sizes),
        trials=config.sweep.trials,
    )
    told = saving.begin(prepared.fingerprint(verb="sweep")) if saving is not None else []
    run = Run(header=started_record(told[0]) if told else replace(header, **sweep_rules(config)))
    # The passes that have ended say which one was interrupted; what that one told is known again
    # only when it goes on.
    ended = 1 + max(
        (at for at, record in enumerate(told) if isinstance(record, _BETWEEN_PASSES)), default=0
    )
    for record in told[1:ended]:
        run.add(record)
    interrupted = told[ended:]

    def go_on(plan: PassPlan, *, again: bool = False) -> list[Learner]:
        again = again or bool(interrupted)
        while interrupted:
            run.add(interrupted.pop(0))
        return _make_pass(prepared, run, plan, tell, saving, place, again=again)

    def tell(record: Record) -> None:
        run.add(record)
        emit(record)

    if not told:
        emit(run.header)
        tell(prepared.baselines)
    learners: list[Learner] = []
    while plan := next_tuning_pass(run):
        learners = go_on(plan)
    if "tuned" in run.rules and not run.winners:
        tell(choose_winners(run))
    while plan := next_fresh_pass(run):
        learners = go_on(plan)
    if not learners:  # interrupted after the last pass: its learners come from its checkpoint
        learners = go_on(last_pass(run), again=True)
    peak = max(0, peak_rss_bytes() - before)
    measure_throughput(
        prepared,
        tuple(size for size in sizes if _can_step(run, size)),
        tell,
        max(REPEATS, run.trials),
    )
    if config.sweep.measure:
        _measure(prepared, run, learners, tell)
    if config.sweep.confirm:
        confirm(prepared, run, tell)
    rows_read = sum(record.rows_read for record in run.passes)
    apart = sum(record.rows_read * record.replicas for record in run.passes)
    emit(
        end_record(
            prepared,
            seconds=time.perf_counter() - started + (saving.seconds if saving is not None else 0),
            rows_read=rows_read,
            passes=len(run.passes),
            saved=apart - rows_read,
            peak=peak,
        )
    )


def sweep_rules(config: Config) -> Json:
    """What `science/tuning.py` reads of the config."""
    sweep = config.sweep
    return {
        "lr": config.train.rate,
        "lr_rules": list(sweep.lr_rule),
        "halving": sweep.halving,
        "extend": sweep.extend_grid,
        "rerun": sweep.rerun,
    }


def most_rates(config: Config) -> int:
    """Replicas of a batch size that one pass may have."""
    tuned = max(len(learning_rates(config)), EXTENDED_BY) if "tuned" in config.sweep.lr_rule else 0
    return (
        tuned
        + (EXTENDED_BY if config.sweep.extend_grid and tuned > 1 else 0)
        + len(config.sweep.lr_rule)
    )


def _measure(prepared: Prepared, run: Run, learners: list[Learner], emit: Emit) -> None:
    """Measure the sizes as the last pass left them, at the judged rate where it had that one; what
    it will cost is told first.
    """
    judgement, what, budget = judge(run), prepared.config.sweep.measure, prepared.budget
    if budget.projected_bytes + MEASURING_BYTES > budget.limit_bytes:
        text = (
            f"not measured: --memory {format_bytes(budget.limit_bytes)} leaves no"
            f" {format_bytes(MEASURING_BYTES)} for it beside the stream"
        )
        emit(MeasuringStarted(skipped=text))
        return
    judged = {cell.batch_size: cell.lr for cell in judgement.cells}
    models = []
    for engine in (learner.engine for learner in learners):
        place = (
            engine.learning_rates.index(judged[engine.batch_size])
            if judged[engine.batch_size] in engine.learning_rates
            else 0
        )
        lr, parameters_P = engine.learning_rates[place], engine.parameters()[place]
        models.append(TrainedModel(batch_size=engine.batch_size, lr=lr, parameters=parameters_P))
    targets = [judgement.target, *run.header.target_loss[1:]]
    equal = [
        (target, arm_cells(run, run.rules[0], target, place))
        for place, target in enumerate(targets)
        if target is not None
    ]
    trained = sum(
        len(reached) * len(trials) for reached, trials in (equal_cells(cells) for _, cells in equal)
    )
    emit(MeasuringStarted(costs=tuple(measure_costs(prepared, models, what, at_target=trained))))
    measures = measure(
        prepared, models, what, reference=judgement.choice.batch_size, trial=run.passes[-1].trial
    )
    if "sharpness" in measures:
        found = [measure_at_target(prepared, cells, target) for target, cells in equal]
        measures["sharpness"]["at_targets"] = [one for one in found if one is not None]
    emit(Measured(measures=measures))


def _can_step(run: Run, batch_size: int) -> bool:
    """False for a size at which every learner ran out of memory or failed: timing it would end the
    sweep the same way.
    """
    curves = [
        curve
        for (size, _), trials in run.curves.items()
        if size == batch_size
        for curve in trials.values()
    ]
    return any(curve.outcome not in ("out_of_memory", "failed") for curve in curves)


def _make_pass(
    prepared: Prepared,
    run: Run,
    plan: PassPlan,
    emit: Emit,
    saving: Checkpointer | None,
    place: PassRunner,
    *,
    again: bool,
) -> list[Learner]:
    """Run one pass and return its learners; under `--max-time` it has an equal share of what is
    left among the passes that are still foreseen.

    `again`: it was announced before the run was interrupted.
    """
    max_time, share = prepared.config.train.max_time, None
    fresh = run.trials if run.header.rerun and is_tuned(run) else 0
    foreseen = max(
        1, run.trials + fresh - sum(record.kind != "extension" for record in run.passes)
    ) + (plan.kind == "extension")
    if max_time is not None:
        share = max(0.0, max_time - sum(record.seconds for record in run.passes)) / foreseen
    if not again:
        replicas = sum(map(len, plan.lrs.values()))
        emit(
            PassPlanned(
                kind=plan.kind,
                trial=plan.trial,
                batch_sizes=len(plan.lrs),
                replicas=replicas,
                passes_left=foreseen,
            )
        )
    learners = [prepared.learner(size, lrs, plan.trial) for size, lrs in plan.lrs.items()]
    place(prepared, learners, plan.trial, emit, kind=plan.kind, max_seconds=share, saving=saving)
    return learners


def run_record(
    prepared: Prepared,
    describe: Json,
    *,
    verb: str,
    compile_seconds: float,
    sizes: tuple[int, ...],
    rates: list[tuple[float, ...]],
    trials: int,
) -> RunStarted:
    """The first record: everything needed to read the others."""
    source, config = prepared.source, prepared.config
    dataset = source.dataset
    other = config.data.eval_data is not None
    data = DataInfo(
        url=dataset.url,
        fingerprint=dataset.fingerprint,
        num_rows=dataset.num_rows,
        num_shards=len(dataset.shards),
        num_spans=len(source.spans),
        features=dataset.features,
        target=dataset.target,
        holdout_rows=0 if prepared.evaluation is None else len(prepared.evaluation),
        holdout_source="none" if prepared.evaluation is None else "eval_data" if other else "rows",
        integrity=dataset.integrity,
        truth=None if dataset.truth is None else asdict(dataset.truth),
        on_null=source.on_null,
        transform=None if source.transform is None else source.transform.record(),
        imputed=(
            None
            if source.fill is None
            else dict(zip(dataset.features, source.fill.tolist(), strict=True))
        ),
    )
    return RunStarted(
        verb=verb,
        batch_sizes=sizes,
        lrs=tuple(rates),
        trials=trials,
        train_rows=prepared.last_row if prepared.last_row < NO_LAST_ROW else None,
        epoch_rows=prepared.epoch_rows,
        integrity=dataset.integrity_text,
        target_loss=tuple(config.sweep.target_loss),
        config=config.model_dump(mode="json"),
        data=data,
        standard=dict(prepared.standard.to_json()),
        target_sd=prepared.target_sd,
        engine=prepared.engine,
        engine_reason=prepared.engine_reason,
        compile_seconds=compile_seconds,
        memory=MemoryInfo(
            budget_bytes=prepared.budget.limit_bytes,
            projected_bytes=prepared.budget.projected_bytes,
        ),
        **describe,
    )


def end_record(
    prepared: Prepared, *, seconds: float, rows_read: int, passes: int, saved: int, peak: int
) -> RunEnded:
    """The last record.

    `peak`: most resident bytes beyond imports and warm-up while the passes ran, `saved`: rows not
    read because learners shared a pass.
    """
    return RunEnded(
        seconds=seconds,
        rows_read=rows_read,
        passes=passes,
        rows_saved=saved,
        projected_bytes=prepared.budget.projected_bytes,
        peak_rss_bytes=peak,
    )
