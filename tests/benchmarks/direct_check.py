"""Check what a plain sweep recommends by training it and its neighbours directly. Run by hand.

    python -m tests.benchmarks.direct_check TABLE [TABLE ...] --out runs/direct [-- SWEEP-FLAGS]

Each table is swept as a user would, by `streamtrain sweep TABLE` with the flags after `--`. Then
the recommended size, the next ones by a factor of four to both sides, and those listed as
equivalent are trained on `--trials` fresh seeds to the sweep's target, at the sweep's learning
rates. Seconds are rows times the processor time of a row (`contestants.py`), and log seconds
are averaged over losses from the target to 5 % above it, as a sweep does. The table says by how
much the recommended size is slower than the fastest of them, paired over the seeds, and whether
that is at most `--within`. A size that missed the target in a trial counts with its last row, and
its ratio is a lower bound.

The RMSE of a least-squares model, and of LightGBM where it is installed (300 trees of 31 leaves,
rate 0.1, on up to `MOST_ROWS` of the training rows), are on the sweep's held-out rows.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from streamtrain.config import make_config
from streamtrain.report.run_files import read_records
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.run.warm_up import warm_up
from streamtrain.science.contest import levels
from streamtrain.science.ladder import SIZE_STEP
from streamtrain.science.run_log import Run, collect
from streamtrain.science.spending import rung_rows
from streamtrain.stream.fetch import FetchStats
from tests.benchmarks.contestants import (
    Contestant,
    constant,
    log_seconds,
    ratio,
    row_seconds,
    text_of_ratio,
    text_of_seconds,
    train,
)

#: The first trial of the check: far from those of any sweep.
FIRST_TRIAL = 1000

#: LightGBM is trained on at most this many rows.
MOST_ROWS = 1_000_000


def sweep(table: str, out: Path, flags: list[str]) -> float:
    """Sweep a table on the command line, and return the seconds that it took."""
    started = time.perf_counter()
    words = ["sweep", table, "--out", str(out), "--progress", "none", *flags]
    done = subprocess.run(
        [sys.executable, "-m", "streamtrain", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (out.parent / f"{out.name}.txt").write_text(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stdout[-1000:])
    return time.perf_counter() - started


def lightgbm_rmse(prepared: Prepared) -> float | None:
    """Return the RMSE of boosted trees on the held-out rows, in units of the target."""
    try:
        import lightgbm  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    blocks, rows, count = prepared.blocks(0, FetchStats()), [], 0
    for block in blocks:
        rows.append(block.rows.copy())
        count += len(block.rows)
        if block.ends_epoch or count >= MOST_ROWS:
            break
    blocks.close()
    known = np.concatenate(rows)[:MOST_ROWS]
    model = lightgbm.train(
        {"objective": "regression", "verbosity": -1, "num_threads": 1, "seed": 0},
        lightgbm.Dataset(known[:, :-1], known[:, -1]),
        num_boost_round=300,
    )
    assert prepared.evaluation is not None
    error = np.asarray(model.predict(prepared.evaluation[:, :-1])) - prepared.evaluation[:, -1]
    return float(np.sqrt(np.mean(error**2)) / prepared.standard.scale[-1])


def checked_sizes(run: Run, chosen: int, equivalent: list[int]) -> list[int]:
    """The chosen size, those equivalent to it, and the neighbours that the sweep has rates for."""
    wanted = {chosen, chosen * SIZE_STEP, chosen // SIZE_STEP, *equivalent}
    return sorted(wanted & set(run.batch_sizes))


def check(table: str, out: Path, options: argparse.Namespace) -> dict[str, object]:
    """Sweep a table, or take the sweep that is in `out`, and check what it recommends."""
    took = None if (out / "summary.json").exists() else sweep(table, out, options.flags)
    summary = json.loads((out / "summary.json").read_text())
    advice, run = summary["recommendation"], collect(read_records(out / "events.jsonl"))
    config = make_config(yaml.safe_load((out / "config.resolved.yaml").read_text()))
    prepared = prepare(config, learners=1, rates=1)
    linear, rmse = summary["best_linear_loss"], advice["expected_rmse"] or {}
    found: dict[str, object] = {
        "table": Path(table).stem,
        "rows": prepared.source.dataset.num_rows,
        "took": took,
        "budget": summary["config"]["sweep"]["budget"],
        "sweep_seconds": summary["seconds"],
        "target_rmse": advice["target_rmse"],
        "expected_rmse": rmse.get("value"),
        "linear_rmse": linear and linear["rmse"],
        "lightgbm_rmse": lightgbm_rmse(prepared),
        "sentence": summary["sentence"],
    }
    chosen, target = advice["batch_size"], advice["target_loss"]
    if chosen is None or target is None:
        return found | {"verdict": "nothing recommended"}
    rates = dict(zip(run.batch_sizes, run.winners[0].lrs, strict=True))
    contestants = {
        size: Contestant(constant(size), rates[size])
        for size in checked_sizes(run, chosen, advice["equivalent"])
    }
    rows = rung_rows(run, max(record.trial for record in run.passes))
    prepared, losses = prepared.with_rows(rows), levels(run, target)
    warm_up(prepared, tuple(contestants), (0.001,))
    costs = row_seconds(prepared, contestants, options.repeats)
    logs: dict[int, list[float]] = {size: [] for size in contestants}
    missed = dict.fromkeys(contestants, 0)
    for trial in range(FIRST_TRIAL, FIRST_TRIAL + options.trials):
        for size, contestant in contestants.items():
            curve = train(prepared, contestant.stages, (contestant.lr,), trial)[contestant.lr]
            seconds, reached = log_seconds(costs, contestant, curve, losses)
            logs[size].append(seconds)
            missed[size] += not reached
    best = min(contestants, key=lambda size: (missed[size], sum(logs[size])))
    slower = ratio(logs[chosen], logs[best]) if chosen != best else None
    value = 1.0 if slower is None or slower.value is None else slower.value
    right = value <= 1 + options.within and missed[chosen] <= missed[best]
    return found | {
        "chosen": chosen,
        "equivalent": advice["equivalent"],
        "settled": advice["settled"],
        "bound": advice["slower_by"]["hi"],
        "best": best,
        "slower": "–" if slower is None else text_of_ratio(slower),
        "sizes": {
            size: text_of_seconds(logs[size], all_reached=not missed[size])
            + f" ({missed[size]} missed)" * bool(missed[size])
            for size in contestants
        },
        "costs": costs,
        "log_seconds": logs,
        "verdict": "right" if right else "WRONG",
    }


def row_of(found: dict) -> str:
    """Return one Markdown row."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    bound = found.get("bound")
    cells = [
        found["table"],
        f"{found['rows']:,}",
        f"{number(found['sweep_seconds'])} s",
        str(found.get("chosen", "none")),
        {True: "yes", False: "no", None: "–"}[found.get("settled")],
        "–" if bound is None else f"{100 * bound:.0f} %",
        "; ".join(f"{size}: {text}" for size, text in found.get("sizes", {}).items()),
        found.get("slower", "–"),
        found["verdict"],
        *(number(found[f"{name}_rmse"]) for name in ("target", "expected", "linear", "lightgbm")),
    ]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| table | rows | sweep | size | settled | bound | trained directly | slower than the best |"
    " verdict | RMSE: target | expected | linear | LightGBM |\n|" + "---|" * 13
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps and results")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=10, help="timings of the steps")
    parser.add_argument("--within", type=float, default=0.2)
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    options.flags = words[cut + 1 :]
    options.out.mkdir(parents=True, exist_ok=True)
    print(HEAD, flush=True)
    for table in options.tables:
        name = Path(table).stem
        found = check(table, options.out / name, options)
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1))
        print(row_of(found), flush=True)


if __name__ == "__main__":
    main()
