"""`summary.json`: everything a run found, as one document.

`schema.json` gives every key's meaning and unit.
"""

import math
from collections.abc import Iterable
from typing import Any

from streamtrain.records import RunEnded, to_json
from streamtrain.report.cell_figures import cell_figures, confirmation, target_figures
from streamtrain.report.text.advice import warn
from streamtrain.report.text.explanation import explain
from streamtrain.report.text.recommendation import describe, sentence
from streamtrain.report.workers import workers_summary
from streamtrain.science.cells import rows_in_common
from streamtrain.science.equal_budget import equal_seconds, equal_steps
from streamtrain.science.intervals import Estimate
from streamtrain.science.judge import arm_cells, judge
from streamtrain.science.landmarks import landmarks
from streamtrain.science.run_log import Run, collect
from streamtrain.types import Json

SCHEMA_VERSION = 1


def summarize(records: Iterable[Json]) -> dict[str, Any]:
    """The summary of a run, ready for strict JSON (no NaN); a pure function of its records.

    Raises DataError when the records hold no run.
    """
    return summarize_run(collect(records))


def summarize_run(run: Run) -> dict[str, Any]:
    """`summarize` for records that are already collected."""
    judgement = judge(run)
    target, cells, choice = judgement.target, judgement.cells, judgement.choice
    equal = (
        rows_in_common(cells),
        equal_steps(cells) if run.has_holdout else None,
        equal_seconds(run, cells) if run.has_holdout else None,
    )
    figures = [cell_figures(run, cell, *equal) for cell in cells]
    recommendation = describe(run, cells, figures, choice, target)
    header = run.header
    summary = {
        "schema_version": SCHEMA_VERSION,
        "verb": header.verb,
        "command": header.command or None,
        "trials": header.trials,
        "epoch_rows": header.epoch_rows,
        "version": header.version or header.env.get("streamtrain"),
        "train_rows": run.train_rows,
        "target_loss": target,
        "target_loss_chosen": judgement.chosen,
        "lr_rules": run.rules,
        "fresh_seeds": judgement.fresh,
        **dict(
            zip(
                ("holdout_loss_at_rows", "holdout_loss_at_steps", "holdout_loss_at_seconds"),
                equal,
                strict=True,
            )
        ),
        "cells": figures,
        "recommendation": recommendation,
        "sentence": sentence(run, figures, recommendation, target),
        **_references(run),
        "landmarks": landmarks(run, judgement).to_json(),
        "confirmation": confirmation(run, cells),
        "measures": run.measures,
        "arms": {rule: _arm(run, rule, target, equal) for rule in run.rules[1:]},
        "workers": workers_summary(run),
        "other_targets": [
            _other_target(run, other, i) for i, other in enumerate(header.target_loss[1:], 1)
        ],
        **_costs(run),
        "integrity": header.integrity or header.data.integrity,
        "quarantined": next(
            (one.quarantined for one in reversed(run.passes) if one.quarantined), None
        ),
        "data": to_json(header.data),
        "standard": header.standard,
        "target_sd": header.target_sd,
        "env": header.env,
        "config": header.config,
    }
    summary["why"] = explain(summary)
    summary["warnings"] = warn(run, cells, summary)
    return strict(summary)


def strict(value: Any) -> Any:
    """The same document with None for every NaN and infinity, lists for tuples, and plain numbers
    for NumPy's.
    """
    if isinstance(value, Estimate):
        value = value.to_json()
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _arm(
    run: Run, rule: str, target: float | None, equal: tuple[int | None, int | None, float | None]
) -> list[dict[str, Any]]:
    """The cells of a rule that is shown beside the first and never judged, at the same target,
    rows, steps and seconds.
    """
    return [cell_figures(run, cell, *equal) for cell in arm_cells(run, rule, target)]


def _other_target(run: Run, target: float, place: int) -> dict[str, Any]:
    """A further target: each size at its best rate for it.

    It is shown, and never enters the recommendation.
    """
    cells = arm_cells(run, run.rules[0], target, place)
    return {
        "target_loss": target,
        "cells": [
            {
                "batch_size": cell.batch_size,
                "lr": cell.lr,
                "status": cell.status,
                **target_figures(run, cell),
            }
            for cell in cells
        ],
    }


def _references(run: Run) -> dict[str, Any]:
    """The losses to compare with: of the best constant, the best linear model, and the best of all
    where it is known.
    """
    truth = run.header.data.truth
    possible = truth and {
        "value": truth["best_loss"],
        "rmse": math.sqrt(truth["noise_variance"]),
        "scored_on": "population",
    }
    return {
        "best_constant_loss": to_json(run.baseline.best_constant_loss),
        "best_linear_loss": to_json(run.baseline.best_linear_loss),
        "best_possible_loss": possible or None,
    }


def _costs(run: Run) -> dict[str, Any]:
    """What the run read and used."""
    stats: dict[str, float] = {}
    for one in run.passes:
        for name, seconds in one.stats.items():
            if name.endswith("_seconds"):
                stats[name] = stats.get(name, 0.0) + seconds
    memory, end = run.header.memory, run.end or RunEnded()
    rows_read = sum(one.rows_read for one in run.passes)
    return {
        "rows_read": rows_read if end.rows_read is None else end.rows_read,
        "passes": len(run.passes) if end.passes is None else end.passes,
        "rows_saved": end.rows_saved,
        "seconds": end.seconds,
        "projected_bytes": (
            memory.projected_bytes if end.projected_bytes is None else end.projected_bytes
        ),
        "budget_bytes": memory.budget_bytes,
        "peak_rss_bytes": end.peak_rss_bytes,
        "receipts": [
            {"trial": one.trial, **one.receipt.to_json()}
            for one in run.passes
            if one.receipt is not None
        ],
        "stream_seconds": stats,
        "read_bytes": sum(one.stats.get("read_bytes", 0) for one in run.passes),
    }
