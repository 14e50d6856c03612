"""The figures of a cell, as `summary.json` has them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamtrain.report.summary_parts import NOT_MEASURED, CellFigures, Confirmation
from streamtrain.science.cells import (
    Cell,
    losses_at,
    seconds_of_rows,
    seconds_to_target,
    throughput,
)
from streamtrain.science.equal_budget import losses_at_seconds, losses_at_steps
from streamtrain.science.intervals import (
    Estimate,
    independent_ratio,
    kaplan_meier_median,
    measure,
)
from streamtrain.science.run_log import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAt:
    """The rows, steps and seconds of training at which losses are compared."""

    rows: int | None
    steps: int | None
    seconds: float | None


def cell_figures(
    run: Run,
    cell: Cell,
    compared_at: ComparedAt,
    slower_by: Estimate = NOT_MEASURED,
    seconds: float | None = None,
) -> CellFigures:
    """Return the figures of a cell; for their units see `CellFigures`.

    `seconds`: those to the target as the frontier has them, None where it has none.
    """
    figures = target_figures(run, cell)
    if seconds is not None:
        figures["seconds_to_target"] = _around(seconds, figures["seconds_to_target"])
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
        **figures,
    )


def _around(value: float, figure: Estimate) -> Estimate:
    """Return a figure with another value, and with its interval widened to include it."""
    if figure.lo is None or figure.hi is None:
        return replace(figure, value=value)
    return replace(figure, value=value, lo=min(figure.lo, value), hi=max(figure.hi, value))


def target_figures(run: Run, cell: Cell) -> dict[str, Estimate]:
    """Return steps, rows and seconds to the target; `n` counts the trials that reached it.

    Where some trials did not reach it, the value is the Kaplan-Meier median of all trials, without
    an interval; it is None where fewer than half reached it.
    """
    missed_rows = cell.censored_rows
    missed_seconds = seconds_of_rows(run, cell, missed_rows)
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


def confirmations(
    run: Run, cells: Sequence[Cell], figures: Sequence[CellFigures]
) -> tuple[Confirmation, ...]:
    """Return the sizes trained to the target from start to end, with their predicted seconds.

    The predicted seconds are those of all trials, in `figures`. The trainings are a few trials,
    which may need more or fewer rows, so their seconds per row are compared with those of the
    timing repeats.
    """
    confirmed: list[Confirmation] = []
    for cell, figure in zip(cells, figures, strict=True):
        records = {
            record.trial: record
            for record in run.confirmations
            if record.batch_size == cell.batch_size
        }
        speeds, _ = throughput(run, cell.batch_size)
        predicted = figure.seconds_to_target
        trials = sorted(records.keys() & cell.steps_to_target.keys())
        per_row = [
            records[trial].seconds / rows
            for trial in trials
            if (rows := cell.row_at_target(trial)) and records[trial].seconds > 0
        ]
        if not per_row or not speeds or predicted.value is None:
            continue
        ratio = independent_ratio(per_row, [1 / speed for speed in speeds])
        confirmed.append(
            Confirmation(
                batch_size=cell.batch_size,
                predicted_seconds=predicted,
                measured_seconds=_times(predicted.value, ratio),
                ratio=ratio,
                fill_seconds=_log_figure(records[trial].fill_seconds for trial in trials),
            )
        )
    return tuple(confirmed)


def _times(seconds: float, ratio: Estimate) -> Estimate:
    """Return the seconds, multiplied by a ratio and its interval."""
    value, lo, hi = (
        None if end is None else seconds * end for end in (ratio.value, ratio.lo, ratio.hi)
    )
    return Estimate(value=value, lo=lo, hi=hi, n=ratio.n)


def _log_figure(values: Iterable[float | None]) -> Estimate:
    """Return the figure of a positive quantity, whose interval is taken on logarithms."""
    return measure(values, log=True)


def _fraction(fraction: Estimate) -> Estimate:
    """Return a fraction with its interval kept between 0 and 1."""
    if fraction.lo is None or fraction.hi is None:
        return fraction
    return replace(fraction, lo=max(fraction.lo, 0.0), hi=min(fraction.hi, 1.0))
