"""Try a minibatch size that grows, beside the recommended one, on seeds that chose neither.

Schedules are proposed by `science/growing.py`. One trial finds the fastest of them and its learning
rate, and the others train it and the recommended size in turn on the same rows.
"""

import math
import time
from collections.abc import Mapping, Sequence

from streamtrain.records import BatchStage, Emit, Evaluation, GrowthTried, Record
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.run.sweep_plan import for_trial
from streamtrain.science.contest import levels
from streamtrain.science.frontier import frontier
from streamtrain.science.growing import candidates, costs_of, mean_log_seconds, seconds_of
from streamtrain.science.judge import judge
from streamtrain.science.run_log import Run
from streamtrain.science.tuning import rounded_rate
from streamtrain.training.batch_schedule import Stage

#: Trials, and the fewest for which a schedule is tried at all.
TRIALS, FEWEST_TRIALS = 5, 3


def grow(prepared: Prepared, run: Run, emit: Emit, max_seconds: float) -> None:
    """Emit a `growth` record per trial of a growing size; none where there is no case for it.

    There is none without a recommended size, where there is nothing to grow from or to, or where
    `max_seconds` are too few for three trials. After `max_seconds` no further trial is begun.
    """
    started = time.perf_counter()
    judgement = judge(run)
    chosen = next(
        (cell for cell in judgement.cells if cell.batch_size == judgement.choice.batch_size), None
    )
    if chosen is None or judgement.target is None:
        return
    points = frontier(run, judgement.cells, chosen.batch_size, judgement.target)
    rates = {cell.batch_size: cell.lr for cell in judgement.cells}
    grids = {
        stages: _rates_between(rates[stages[0].batch_size], rates[stages[-1].batch_size])
        for stages in candidates(run, points, chosen, judgement.cells)
    }
    prepared = for_trial(prepared, run, max(chosen.curves))
    constant = (BatchStage(first_row=0, batch_size=chosen.batch_size),)
    while grids:
        affordable = _affordable_trials(run, grids, constant, prepared.last_row, max_seconds)
        if affordable >= FEWEST_TRIALS:
            break
        grids.popitem()
    else:
        return
    first = 1 + max(record.trial for record in run.passes)
    targets = levels(run, judgement.target)
    log_seconds = {
        (stages, lr): mean_log_seconds(costs_of(run, stages), stages, *curve, targets)
        for stages, grid in grids.items()
        for lr, curve in train_stages(prepared, stages, grid, first).items()
    }
    stages, lr = min(log_seconds, key=log_seconds.__getitem__)
    for trial in range(first + 1, first + 1 + min(TRIALS, affordable)):
        if time.perf_counter() - started > max_seconds:
            return
        at_rows, growing = train_stages(prepared, stages, (lr,), trial)[lr]
        _, fixed = train_stages(prepared, constant, (chosen.lr,), trial)[chosen.lr]
        emit(
            GrowthTried(
                trial=trial,
                stages=stages,
                lr=lr,
                batch_size=chosen.batch_size,
                rows=tuple(at_rows),
                growing_loss=tuple(growing),
                constant_loss=tuple(fixed),
            )
        )


def _affordable_trials(
    run: Run,
    grids: Mapping[tuple[BatchStage, ...], Sequence[float]],
    constant: tuple[BatchStage, ...],
    rows: int,
    max_seconds: float,
) -> int:
    """The trials that fit into `max_seconds` after the one that chooses from `grids`.

    `grids`: the learning rates of each schedule.
    """
    fill_seconds = run.passes[-1].fill_seconds
    seconds = {
        stages: fill_seconds + seconds_of(costs_of(run, stages), stages, rows)
        for stages in [*grids, constant]
    }
    choosing = sum(len(grid) * seconds[stages] for stages, grid in grids.items())
    per_trial = seconds[constant] + max(seconds[stages] for stages in grids)
    return int((max_seconds - choosing) / per_trial)


def _rates_between(first: float, last: float) -> tuple[float, ...]:
    """Return two learning rates and the one between them, ascending; one where they are equal."""
    rates = {rounded_rate(rate) for rate in (first, math.sqrt(first * last), last)}
    return tuple(sorted(rates))


def train_stages(
    prepared: Prepared, stages: Sequence[BatchStage], lrs: tuple[float, ...], trial: int
) -> dict[float, tuple[list[int], list[float | None]]]:
    """Train on the rows of a trial; return the rows and held-out losses of its evaluations."""
    train = prepared.config.train
    later = tuple(
        Stage(
            first_row=stage.first_row,
            batch_size=stage.batch_size,
            beta2=train.at(stage.batch_size).beta2,
        )
        for stage in stages[1:]
    )
    learner = prepared.learner(stages[0].batch_size, lrs, trial, stages=later)
    curves: dict[float, tuple[list[int], list[float | None]]] = {lr: ([], []) for lr in lrs}

    def on_record(record: Record) -> None:
        if isinstance(record, Evaluation):
            rows, losses = curves[record.lr]
            rows.append(record.rows)
            losses.append(record.holdout_loss)

    run_pass(prepared, [learner], trial, on_record, kind="growth")
    return curves
