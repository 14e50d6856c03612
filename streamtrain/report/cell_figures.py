"""A cell's figures, as `summary.json` has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.science.cells import (
    Cell,
    losses_at,
    seconds_per_row,
    seconds_to_target,
    throughput,
)
from streamtrain.science.equal_budget import losses_at_seconds, losses_at_steps
from streamtrain.science.intervals import kaplan_meier_median, measure, paired_ratio
from streamtrain.science.run_log import Run


def cell_figures(
    run: Run, cell: Cell, rows: int | None, steps: int | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """The cell as `summary.json` has it; every measured figure is `{value, n, lo, hi}`.

    Units: see `schema.json`.

    `rows`, `steps`, `seconds`: where losses are compared.
    """
    speeds, waits = throughput(run, cell.batch_size)
    return {
        "batch_size": cell.batch_size,
        "lr": cell.lr,
        "status": cell.status,
        "rows_per_second": measure(speeds, log=True),
        "wait_fraction": _share(measure(waits)),
        "holdout_loss": measure(losses_at(cell, rows), log=True),
        "holdout_rmse": measure(losses_at(cell, rows, "holdout_rmse"), log=True),
        "holdout_loss_at_steps": measure(losses_at_steps(cell, steps), log=True),
        "holdout_loss_at_seconds": measure(losses_at_seconds(run, cell, seconds), log=True),
        **target_figures(run, cell),
    }


def target_figures(run: Run, cell: Cell) -> dict[str, Any]:
    """Steps, rows and seconds to the target; `n` counts the trials that reached it.

    Where some did not, the value is the Kaplan-Meier median of all trials: null where fewer than
    half arrived, and without interval.
    """
    each, away = seconds_per_row(run, cell), cell.censored_rows
    figures = {
        "steps_to_target": (cell.steps_to_target, cell.censored_steps),
        "rows_to_target": (cell.rows_to_target, away),
        "seconds_to_target": (
            seconds_to_target(run, cell),
            {trial: rows * each[trial] for trial, rows in away.items()} if each else {},
        ),
    }
    return {
        name: _censored(there, missed) if missed else measure(there.values(), log=True)
        for name, (there, missed) in figures.items()
    }


def _share(figure: dict[str, Any]) -> dict[str, Any]:
    """A share of the time lies between 0 and 1, and so does its interval."""
    bounds = {
        name: None if figure[name] is None else min(max(figure[name], 0.0), 1.0)
        for name in ("lo", "hi")
    }
    return {**figure, **bounds}


def _censored(there: Mapping[int, float], missed: Mapping[int, float]) -> dict[str, Any]:
    return {
        "value": kaplan_meier_median(there.values(), missed.values()),
        "n": len(there),
        "lo": None,
        "hi": None,
    }


def confirmation(run: Run, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Sizes that were trained to the target from end to end: seconds predicted and measured, over
    the same trials.

    `fill_seconds` came before the first block and is in neither; `ratio` is measured over
    predicted.
    """
    found = []
    for cell in cells:
        records = {one.trial: one for one in run.confirmations if one.batch_size == cell.batch_size}
        predicted = seconds_to_target(run, cell)
        both = sorted(records.keys() & predicted.keys())
        if both:
            measured = [records[trial].seconds for trial in both]
            ratio, lo, hi = paired_ratio(measured, [predicted[trial] for trial in both])
            found.append(
                {
                    "batch_size": cell.batch_size,
                    "predicted_seconds": measure((predicted[trial] for trial in both), log=True),
                    "measured_seconds": measure(measured, log=True),
                    "ratio": {"value": ratio, "n": len(both), "lo": lo, "hi": hi},
                    "fill_seconds": measure(
                        (records[trial].fill_seconds for trial in both), log=True
                    ),
                }
            )
    return found
