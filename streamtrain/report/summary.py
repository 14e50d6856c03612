"""`summary.json`: everything a run found, as one document.

`schema.json` gives every key's meaning and unit.
"""

import math
from collections.abc import Iterable
from typing import Any

from streamtrain.report.cell_figures import cell_figures, confirmation, target_figures
from streamtrain.report.text.advice import warn
from streamtrain.report.text.explanation import explain
from streamtrain.report.text.recommendation import describe, sentence
from streamtrain.report.workers import workers_summary
from streamtrain.science.cells import rows_in_common
from streamtrain.science.equal_budget import equal_seconds, equal_steps
from streamtrain.science.judge import arm_cells, judge
from streamtrain.science.landmarks import landmarks
from streamtrain.science.run_log import Run, collect
from streamtrain.types import Record

SCHEMA_VERSION = 1


def summarize(records: Iterable[Record]) -> dict[str, Any]:
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
    summary = {
        "schema_version": SCHEMA_VERSION,
        **{key: run.header.get(key) for key in ("verb", "command", "trials", "epoch_rows")},
        "version": run.header.get("version") or (run.header.get("env") or {}).get("streamtrain"),
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
        "landmarks": landmarks(run, judgement),
        "confirmation": confirmation(run, cells),
        "measures": run.measures,
        "arms": {rule: _arm(run, rule, target, equal) for rule in run.rules[1:]},
        "workers": workers_summary(run),
        "other_targets": [
            _other_target(run, other, i)
            for i, other in enumerate(run.header.get("target_loss", [])[1:], 1)
        ],
        **_costs(run),
        "integrity": run.header.get("integrity") or run.header["data"].get("integrity"),
        "quarantined": next(
            (one["quarantined"] for one in reversed(run.passes) if one.get("quarantined")), None
        ),
        **{key: run.header.get(key) for key in ("data", "standard", "target_sd", "env", "config")},
    }
    summary["why"] = explain(summary)
    summary["warnings"] = warn(run, cells, summary)
    return strict(summary)


def strict(value: Any) -> Any:
    """The same document with None for every NaN and infinity, lists for tuples, and plain numbers
    for NumPy's.
    """
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
    truth = run.header["data"].get("truth")
    possible = truth and {
        "value": truth["best_loss"],
        "rmse": math.sqrt(truth["noise_variance"]),
        "scored_on": "population",
    }
    return {
        "best_constant_loss": run.baseline.get("best_constant_loss"),
        "best_linear_loss": run.baseline.get("best_linear_loss"),
        "best_possible_loss": possible or None,
    }


def _costs(run: Run) -> dict[str, Any]:
    """What the run read and used."""
    stats: dict[str, float] = {}
    for one in run.passes:
        for name, seconds in (one.get("stats") or {}).items():
            if name.endswith("_seconds"):
                stats[name] = stats.get(name, 0.0) + seconds
    memory = run.header.get("memory") or {}
    return {
        "rows_read": run.end.get("rows_read", sum(one["rows_read"] for one in run.passes)),
        "passes": run.end.get("passes", len(run.passes)),
        "rows_saved": run.end.get("rows_saved"),
        "seconds": run.end.get("seconds"),
        "projected_bytes": run.end.get("projected_bytes", memory.get("projected_bytes")),
        "budget_bytes": memory.get("budget_bytes"),
        "peak_rss_bytes": run.end.get("peak_rss_bytes"),
        "receipts": [
            {"trial": one["trial"], **one["receipt"]} for one in run.passes if one.get("receipt")
        ],
        "stream_seconds": stats,
        "read_bytes": sum((one.get("stats") or {}).get("read_bytes", 0) for one in run.passes),
    }
