"""A cell's figures, as `summary.json` has them."""

from collections.abc import Sequence
from typing import Any

from streamtrain.science.cells import Cell, losses_at, seconds_to_target, throughput
from streamtrain.science.interval import measure, paired_ratio
from streamtrain.science.run import Run


def cell_figures(run: Run, cell: Cell, rows: int | None) -> dict[str, Any]:
    """The cell as `summary.json` has it; every measured figure is `{value, n, lo, hi}`. Units: see `schema.json`."""
    speeds, waits = throughput(run, cell.batch_size)
    return {
        "batch_size": cell.batch_size,
        "lr": cell.lr,
        "status": cell.status,
        "rows_per_second": measure(speeds, log=True),
        "wait_fraction": measure(waits),
        "holdout_loss": measure(losses_at(cell, rows), log=True),
        "holdout_rmse": measure(losses_at(cell, rows, "holdout_rmse"), log=True),
        **target_figures(run, cell),
    }


def target_figures(run: Run, cell: Cell) -> dict[str, Any]:
    """Steps, rows and seconds to the target; null where a trial did not reach it (`n` counts those that did)."""
    figures = {
        "steps_to_target": measure(cell.steps_to_target.values(), log=True),
        "rows_to_target": measure(cell.rows_to_target.values(), log=True),
        "seconds_to_target": measure(seconds_to_target(run, cell).values(), log=True),
    }
    if cell.status != "reached":
        figures = {name: {"value": None, "n": figure["n"], "lo": None, "hi": None} for name, figure in figures.items()}
    return figures


def confirmation(run: Run, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Sizes that were trained to the target from end to end: seconds predicted and measured, over the same trials.

    `fill_seconds` came before the first block and is in neither; `ratio` is measured over predicted.
    """
    found = []
    for cell in cells:
        records = {one["trial"]: one for one in run.confirmations if one["batch_size"] == cell.batch_size}
        predicted = seconds_to_target(run, cell)
        both = sorted(records.keys() & predicted.keys())
        if both:
            measured = [records[trial]["seconds"] for trial in both]
            ratio, lo, hi = paired_ratio(measured, [predicted[trial] for trial in both])
            found.append({
                "batch_size": cell.batch_size, "predicted_seconds": measure((predicted[trial] for trial in both), log=True),
                "measured_seconds": measure(measured, log=True), "ratio": {"value": ratio, "n": len(both), "lo": lo, "hi": hi},
                "fill_seconds": measure((records[trial]["fill_seconds"] for trial in both), log=True),
            })  # fmt: skip
    return found
