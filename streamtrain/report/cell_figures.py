"""The figures of a cell, as `summary.json` has them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamtrain.report.summary_parts import NOT_MEASURED, CellFigures, Confirmation
from streamtrain.science.cells import (
    Cell,
    losses_at,
    seconds_per_row,
    seconds_to_target,
    throughput,
)
from streamtrain.science.equal_budget import losses_at_seconds, losses_at_steps
from streamtrain.science.intervals import (
    Estimate,
    kaplan_meier_median,
    measure,
    paired_ratio,
)
from streamtrain.science.run_log import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAt:
    """The rows, steps and seconds of training at which losses are compared."""

    rows: int | None
    steps: int | None
    seconds: float | None


def cell_figures(
    run: Run, cell: Cell, compared_at: ComparedAt, slower_by: Estimate = NOT_MEASURED
) -> CellFigures:
    """Return the figures of a cell; for their units see `CellFigures`."""
    speeds, waits = throughput(run, cell.batch_size)
    losses_by_time = losses_at_seconds(run, cell, compared_at.seconds)
    return CellFigures(
        batch_size=cell.batch_size,
        lr=cell.lr,
        status=cell.status,
        rows_per_second=_log_figure(speeds),
        wait_fraction=_fraction(measure(waits)),
        holdout_loss=_log_figure(losses_at(cell, compared_at.rows)),
        holdout_rmse=_log_figure(losses_at(cell, compared_at.rows, "holdout_rmse")),
        holdout_loss_at_steps=_log_figure(losses_at_steps(cell, compared_at.steps)),
        holdout_loss_at_seconds=_log_figure(losses_by_time),
        slower_by=slower_by,
        **target_figures(run, cell),
    )


def target_figures(run: Run, cell: Cell) -> dict[str, Estimate]:
    """Return steps, rows and seconds to the target; `n` counts the trials that reached it.

    Where some trials did not reach it, the value is the Kaplan-Meier median of all trials, without
    an interval; it is None where fewer than half reached it.
    """
    per_row, missed_rows = seconds_per_row(run, cell), cell.censored_rows
    missed_seconds = {
        trial: rows * per_row[trial] for trial, rows in missed_rows.items() if per_row
    }
    return {
        "steps_to_target": _censored(cell.steps_to_target, cell.censored_steps),
        "rows_to_target": _censored(cell.rows_to_target, missed_rows),
        "seconds_to_target": _censored(seconds_to_target(run, cell), missed_seconds),
    }


def _censored(reached: Mapping[int, float], missed: Mapping[int, float]) -> Estimate:
    """Return the figure of the trials that reached the target and those that missed it."""
    if not missed:
        return _log_figure(reached.values())
    return Estimate(value=kaplan_meier_median(reached.values(), missed.values()), n=len(reached))


def confirmations(run: Run, cells: Sequence[Cell]) -> tuple[Confirmation, ...]:
    """Return the sizes trained to the target from start to end, with their predicted seconds."""
    confirmed = []
    for cell in cells:
        records = {
            record.trial: record
            for record in run.confirmations
            if record.batch_size == cell.batch_size
        }
        predicted = seconds_to_target(run, cell)
        trials = sorted(records.keys() & predicted.keys())
        if not trials:
            continue
        measured = [records[trial].seconds for trial in trials]
        confirmed.append(
            Confirmation(
                batch_size=cell.batch_size,
                predicted_seconds=_log_figure(predicted[trial] for trial in trials),
                measured_seconds=_log_figure(measured),
                ratio=paired_ratio(measured, [predicted[trial] for trial in trials]),
                fill_seconds=_log_figure(records[trial].fill_seconds for trial in trials),
            )
        )
    return tuple(confirmed)


def _log_figure(values: Iterable[float | None]) -> Estimate:
    """Return the figure of a positive quantity, whose interval is taken on logarithms."""
    return measure(values, log=True)


def _fraction(fraction: Estimate) -> Estimate:
    """Return a fraction with its interval kept between 0 and 1."""
    if fraction.lo is None or fraction.hi is None:
        return fraction
    return replace(fraction, lo=max(fraction.lo, 0.0), hi=min(fraction.hi, 1.0))
