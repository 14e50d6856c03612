"""Records of synthetic runs: power-law loss curves with given seeds, sizes and outcomes."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

COLUMNS = ("x0", "x1", "x2", "x3")


def points(train_rows: int, first_row: int = 1024) -> list[int]:
    """Return the rows of the evaluations: 0, first_row × 2^(k/2), and the end."""
    rows = [round(first_row * 2 ** (k / 2)) for k in range(80)]
    return [0, *(row for row in rows if row < train_rows), train_rows]


def make_records(
    sizes: Sequence[int] = (256, 1024, 4096, 65536, 1_000_000),
    *,
    trials: int = 2,
    train_rows: int = 4_000_000,
    lrs: Sequence[float] = (0.001, 0.004, 0.016),
    target_loss: Sequence[float] = (),
    outcomes: dict[int, str] | None = None,
    nan_sizes: Sequence[int] = (),
    holdout: str = "rows",
    features: Sequence[str] = COLUMNS,
    verb: str = "sweep",
    truth: bool = True,
    timing: bool = True,
    seed: int = 0,
) -> list[dict]:
    """Return the records of a sweep.

    `outcomes` maps a size to `diverged`, `out_of_memory` or `failed` at all its rates.
    """
    rng = np.random.default_rng(seed)
    outcomes = outcomes or {}
    records = [
        _run(sizes, trials, train_rows, lrs, target_loss, holdout, features, verb, truth),
        _baseline(holdout),
    ]
    for trial in range(trials):
        for size in sizes:
            for index, lr in enumerate(lrs):
                best = min(len(lrs) - 1, int(math.log10(max(size, 10)) / 2.5))
                outcome = outcomes.get(size, "finished")
                records += _learner(
                    rng,
                    trial,
                    size,
                    lr,
                    1 + abs(index - best),
                    train_rows,
                    outcome,
                    size in nan_sizes,
                    holdout,
                )
        records.append(
            {
                "event": "pass",
                "trial": trial,
                "rows_read": train_rows,
                "learners": len(sizes) * len(lrs),
                "replicas": len(sizes) * len(lrs),
                "seconds": 9.5,
                "receipt": {"count": train_rows, "digest": f"{trial:016x}"},
                "stats": {
                    "read_seconds": 0.3,
                    "decode_seconds": 0.5,
                    "shuffle_seconds": 0.4,
                    "consumer_seconds": 8.0,
                },
            }
        )
    if timing:
        records += _timings(rng, sizes)
    rows = trials * train_rows
    records.append(
        {
            "event": "end",
            "seconds": 19.6,
            "rows_read": rows,
            "passes": trials,
            "rows_saved": rows * (len(sizes) * len(lrs) - 1),
            "projected_bytes": 400_000_000,
            "peak_rss_bytes": 310_000_000,
        }
    )
    return records


def make_growing() -> list[dict]:
    """Return the records of a `train` of 4 M rows at 1,024 rows, then 4,096, each with timings."""
    header, *records = make_records([1024], trials=1, lrs=[0.004], verb="train")
    schedule = {"batch_schedule": [[1024, 0], [4096, 65_000], [8192, 4_000_000]]}
    header = {**header, "config": {**header["config"], "train": schedule}}
    later = [
        {**record, "batch_size": 4096, "seconds": record["seconds"] / 2}
        for record in records
        if record["event"] == "timing"
    ]
    return [header, *records[:-1], *later, records[-1]]


def _run(sizes, trials, train_rows, lrs, target_loss, holdout, features, verb, truth) -> dict:
    ground_truth = {
        "kind": "friedman2",
        "noise_variance": 1400.0,
        "noiseless_variance": 138600.0,
        "target_variance": 140000.0,
        "best_loss": 0.01,
        "best_linear_loss": 0.17,
    }
    return {
        "event": "run",
        "schema_version": 1,
        "verb": verb,
        "version": "0.1.0",
        "batch_sizes": list(sizes),
        "lrs": [list(lrs) for _ in sizes],
        "trials": trials,
        "train_rows": train_rows,
        "epoch_rows": train_rows,
        "target_loss": list(target_loss),
        "config": {"order": {"seed": 0}, "model": {"hidden": [32, 32]}},
        "command": "streamtrain sweep data/ --batch-sizes 256..65536*4,1M",
        "data": {
            "url": "data/",
            "fingerprint": "3f9a0c5be2d1",
            "num_rows": train_rows + 131072,
            "num_shards": 2,
            "features": list(features),
            "target": "y",
            "holdout_rows": 131072 if holdout == "rows" else 0,
            "holdout_source": holdout,
            "integrity": "verified",
            "truth": ground_truth if truth else None,
        },
        "standard": {"mean": [0.0] * 5, "scale": [1.0] * 5},
        "target_sd": 374.2,
        "env": {"python": "3.11.2", "torch": "2.13.0", "cpu": "made up", "cores": 2},
        "memory": {"budget_bytes": 2**31, "projected_bytes": 400_000_000},
    }


def _baseline(holdout: str) -> dict:
    scored_on = "holdout" if holdout != "none" else "training"
    return {
        "event": "baseline",
        "best_constant_loss": {"value": 1.0003, "rmse": 374.25, "scored_on": scored_on},
        "best_linear_loss": {"value": 0.1702, "rmse": 154.4, "scored_on": scored_on},
    }


def _learner(rng, trial, size, lr, handicap, train_rows, outcome, nan, holdout) -> list[dict]:
    records, shift = [], rng.normal(0, 0.05)
    replica = {"trial": trial, "batch_size": size, "lr": lr}
    rows_seen = points(train_rows)
    if outcome == "out_of_memory":
        rows_seen = []
    elif outcome != "finished":
        rows_seen = rows_seen[:12]
    for rows in rows_seen:
        steps = rows // size
        fall = (1 + steps * min(1, size / 3000) / (8 * handicap)) ** -0.9
        loss = 0.01 + 0.99 * fall * math.exp(shift * min(steps, 1) + rng.normal(0, 0.01))
        if nan or (outcome == "diverged" and rows > 8000):
            loss = math.nan
        held_out = None if math.isnan(loss) or holdout == "none" else loss
        records.append(
            {
                "event": "evaluation",
                **replica,
                "rows": rows,
                "steps": steps,
                "holdout_loss": held_out,
                "holdout_rmse": None if held_out is None else 374.2 * math.sqrt(held_out),
                "train_loss": None if math.isnan(loss) else loss / 2,
                "seconds": rows / 4e6,
            }
        )
    reasons = {"out_of_memory": "needs 9.1 GiB, 2 GiB are allowed", "failed": "bad <b>luck</b>"}
    reason = reasons.get(outcome, "")
    last = rows_seen[-1] if rows_seen else 0
    return [
        *records,
        {
            "event": "outcome",
            **replica,
            "outcome": outcome,
            "rows": last,
            "steps": last // size,
            "reason": reason,
        },
    ]


def _timings(rng, sizes) -> list[dict]:
    records = []
    for repeat in range(5):
        records.append(
            {
                "event": "delivery",
                "repeat": repeat,
                "rows": 2_000_000,
                "seconds": 2e6 / 1.2e7 * math.exp(rng.normal(0, 0.02)),
            }
        )
        for size in sizes:
            seconds = 1e6 * (9e-5 / size + 6e-8) * math.exp(rng.normal(0, 0.02))
            records.append(
                {
                    "event": "timing",
                    "batch_size": size,
                    "repeat": repeat,
                    "rows": 1_000_000,
                    "seconds": seconds,
                }
            )
    return records


def with_measures(
    records: list[dict], sizes: Sequence[int] = (256, 1024, 4096, 65536)
) -> list[dict]:
    """Return the records of a run that also has arms, a confirmation and every measurement.

    The measurements are real ones, on 4 M rows of friedman2.
    """
    measures = json.loads((Path(__file__).parent / "measures.json").read_text())
    records[0]["lr_rules"], records[0]["lr"] = ["tuned", "fixed", "linear"], 0.004
    extra = [{"event": "measures", "measures": measures}]
    for size in sizes[:2]:
        extra += [
            {
                "event": "confirmation",
                "lr": 0.01,
                "batch_size": size,
                "trial": trial,
                "seconds": 0.5 + 0.01 * trial,
                "fill_seconds": 0.1,
            }
            for trial in range(2)
        ]
    return [*records[:-1], *extra, records[-1]]
