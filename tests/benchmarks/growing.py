"""Compare a minibatch size that grows during training with the best constant one. Run by hand.

    python -m tests.benchmarks.growing --friedman2
    python -m tests.benchmarks.growing --table 'power_plant.csv' \
        --table 'bikes.csv --target cnt --features hr,temp,hum,workingday --run runs/sweep-1'

friedman2: 4 M generated rows with a noise of 0.1, seconds to an excess loss of 40e-5, 20e-5 and
10e-5, in units of the target's variance. The excess is measured on 65,536 other rows without noise.
A table: seconds to the target of a plain sweep, and to 1 % above the smallest loss that a constant
size held in each of the trials that choose.

For each target there is a sweep to it (of a table: one, or the one in `--run`), which proposes
sizes that grow if it finds a case for them (`--grow`). Contestants are constant sizes, the proposed
sizes at their own rate, and fixed rules, by which a size B begins at row factor·B^power. Constant
sizes and rules have the best of `--rates` for each target, chosen on `CHOOSING` trials. `--trials`
further trials judge all of them on the same rows; the best constant size is the best of these
trials, which favours it. Seconds are rows times the processor time of a row, as in
`contestants.py`, and log seconds are averaged over four losses from the target to 5 % above it.
Ratios are to the best constant size, paired over trials, with 95 % t intervals. A contestant that
misses a target in a trial counts with its last row.
"""

import argparse
import json
import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data_gen
import streamtrain as st
from streamtrain.config import Config, make_config
from streamtrain.config.flag_table import SWEEP_FLAGS
from streamtrain.config.load import flag_values, merge
from streamtrain.plan.batch_sizes import largest_size
from streamtrain.records import BatchStage, GrowthTried
from streamtrain.report.run_files import read_records
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.run.warm_up import warm_up
from streamtrain.science.crossing import smallest_target
from tests.benchmarks.contestants import (
    Contestant,
    constant,
    log_seconds,
    power_law,
    ratio,
    row_seconds,
    text_of_ratio,
    text_of_seconds,
    train,
)

EXCESSES = (40e-5, 20e-5, 10e-5)
RATES = (0.002, 0.004, 0.008, 0.016)
SIZES = (16, 32, 64, 128, 256, 512, 1024)

#: Factor, power, first and last size of each rule.
RULES = (
    (512.0, 1.0, 32, 1024),
    (512.0, 1.0, 16, 1024),
    (1024.0, 1.0, 32, 1024),
    (2048.0, 1.0, 32, 1024),
    (64.0, 1.5, 32, 1024),
)

#: Trials that choose rates, and the first of those that judge.
CHOOSING, FIRST_JUDGE = range(3), 100

Stages = tuple[BatchStage, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A data set with the options of a sweep of it, and the losses asked for, if given."""

    name: str
    flags: Mapping[str, object]
    losses: Sequence[float | None]
    rows: int
    run: Path | None = None

    def config(self) -> Config:
        flags = {key: value for key, value in self.flags.items() if key != "path"}
        return make_config(
            merge(
                {"data": {"path": self.flags["path"]}, "train": {"threads": 1}},
                flag_values(flags, SWEEP_FLAGS),
            )
        )


def friedman2(folder: str, rows: int) -> Question:
    """Generate friedman2 and its noiseless evaluation rows."""
    data_gen.generate(f"{folder}/data", kind="friedman2", rows=4_000_000, noise=0.1)
    data_gen.generate(f"{folder}/clean", kind="friedman2", rows=65_536, noise=0.0, seed=1)
    flags = {"path": f"{folder}/data", "eval_data": f"{folder}/clean"}
    return Question(name="friedman2", flags=flags, losses=EXCESSES, rows=rows)


def table(words: str, rows: int) -> Question:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--target")
    parser.add_argument("--features")
    parser.add_argument("--run", type=Path)
    flags = vars(parser.parse_args(shlex.split(words)))
    run = flags.pop("run")
    return Question(name=Path(flags["path"]).stem, flags=flags, losses=(None,), rows=rows, run=run)


def proposed(
    question: Question, loss: float | None, budget: str | None
) -> tuple[float, Contestant | None]:
    """Sweep to a loss; return it, or the sweep's own target, and the growing sizes it tried."""
    with tempfile.TemporaryDirectory() as folder:
        run = question.run or Path(folder) / "run"
        if question.run is None:
            flags = {key: value for key, value in question.flags.items() if key != "path"}
            st.sweep(
                str(question.flags["path"]),
                out=run,
                report=False,
                target_loss=loss,
                budget=budget,
                measure="none",
                confirm=False,
                **flags,  # pyright: ignore[reportArgumentType]
            )
        records = read_records(run / "events.jsonl")
        advice = json.loads((run / "summary.json").read_text())["recommendation"]
    target = loss or advice["target_loss"]
    if target is None:
        raise SystemExit(f"{question.name}: the sweep has no target; give a --run that has one")
    tried = [record for record in records if isinstance(record, GrowthTried)]
    growing = Contestant(tried[0].stages, tried[0].lr) if tried else None
    return target, growing


def choose(
    curves: Mapping[Stages, Sequence[Mapping[float, tuple]]],
    costs: Mapping[int, float],
    losses: Sequence[float],
    rates: Sequence[float],
) -> list[Contestant]:
    """Return each contestant at the rate of the fewest log seconds, missed targets doubled."""

    def cost(stages: Stages, lr: float) -> float:
        found = [
            log_seconds(costs, Contestant(stages, lr), trial[lr], losses)
            for trial in curves[stages]
        ]
        return sum(seconds + (0.0 if reached else math.log(2)) for seconds, reached in found)

    return [Contestant(stages, min(rates, key=lambda lr: cost(stages, lr))) for stages in curves]


def smallest_held(
    curves: Mapping[Stages, Sequence[Mapping[float, tuple]]], rates: Sequence[float]
) -> float:
    """Return the smallest loss that a constant size at one rate held in each choosing trial."""
    return min(
        max(smallest_target(*trial[lr]) for trial in trials)
        for stages, trials in curves.items()
        for lr in rates
        if len(stages) == 1
    )


def curves_of(
    prepared: Prepared, wanted: Mapping[Stages, Sequence[float]], trials: Sequence[int]
) -> dict[Stages, list[dict[float, tuple]]]:
    return {
        stages: [train(prepared, stages, lrs, trial) for trial in trials]
        for stages, lrs in wanted.items()
        if lrs
    }


def answer(question: Question, options: argparse.Namespace) -> dict[str, object]:
    """Measure one data set, print its table, and return its figures."""
    asked = [proposed(question, loss, options.budget) for loss in question.losses]
    prepared = prepare(question.config(), learners=1, rates=len(options.rates)).with_rows(
        question.rows
    )
    most = largest_size(prepared.epoch_rows)
    fixed = [constant(size) for size in SIZES if size <= most]
    fixed += [power_law(factor, p, first, min(last, most)) for factor, p, first, last in RULES]
    proposals = [contestant.stages for _, contestant in asked if contestant is not None]
    sizes = {stage.batch_size for stages in [*fixed, *proposals] for stage in stages}
    warm_up(prepared, tuple(sizes), tuple(options.rates))
    costs = row_seconds(prepared, sizes, options.repeats)
    chosen = curves_of(prepared, dict.fromkeys(fixed, options.rates), CHOOSING)
    if question.losses == (None,):
        asked.append((1.01 * smallest_held(chosen, options.rates), asked[0][1]))
    constant_loss = prepared.baselines.constant_loss
    contests = []
    for target, growing in asked:
        width = min(0.05 * target, ((constant_loss or math.inf) - target) / 4)
        losses = [target + width * k / 3 for k in range(4)]
        contestants = choose(chosen, costs, losses, options.rates)
        contests.append((target, losses, contestants, growing))
    wanted: dict[Stages, set[float]] = {}
    for *_, contestants, growing in contests:
        for contestant in [*contestants, *([] if growing is None else [growing])]:
            wanted.setdefault(contestant.stages, set()).add(contestant.lr)
    trials = range(FIRST_JUDGE, FIRST_JUDGE + options.trials)
    judged = curves_of(prepared, {k: tuple(v) for k, v in wanted.items()}, trials)
    return {
        "name": question.name,
        "costs": costs,
        "targets": [
            report(question.name, target, losses, contestants, growing, judged, costs)
            for target, losses, contestants, growing in contests
        ],
    }


def report(
    name: str,
    target: float,
    losses: Sequence[float],
    contestants: Sequence[Contestant],
    growing: Contestant | None,
    judged: Mapping[Stages, Sequence[Mapping[float, tuple]]],
    costs: Mapping[int, float],
) -> dict[str, object]:
    """Print the table of one target, and return its figures."""
    found = {
        contestant: [
            log_seconds(costs, contestant, trial[contestant.lr], losses)
            for trial in judged[contestant.stages]
        ]
        for contestant in [*contestants, *([] if growing is None else [growing])]
    }
    logs = {key: [seconds for seconds, _ in values] for key, values in found.items()}
    missed = {key: sum(not reached for _, reached in values) for key, values in found.items()}
    constants = [key for key in contestants if len(key.stages) == 1]
    best = min(constants, key=lambda key: (missed[key], sum(logs[key])))
    print(f"\n{name} to a loss of {target:.4g}, {len(logs[best])} trials\n")
    print("| size | rate | time | missed | ratio to the best constant size |")
    print("|---|---:|---:|---:|---|")
    figures = []
    for key in found:
        against = ratio(logs[key], logs[best]) if key != best else None
        text = "–" if against is None else text_of_ratio(against, is_bound=missed[key] > 0)
        kind = " (--grow)" if key == growing else ""
        time = text_of_seconds(logs[key], all_reached=not missed[key])
        print(f"| {key.name}{kind} | {key.lr:g} | {time} | {missed[key]} | {text} |", flush=True)
        figures.append(
            {
                "name": key.name + kind,
                "lr": key.lr,
                "log_seconds": logs[key],
                "missed": missed[key],
                "final": float(np.mean([trial[key.lr][1][-1] for trial in judged[key.stages]])),
            }
        )
    return {"target": target, "best_constant": best.name, "contestants": figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--friedman2", action="store_true")
    parser.add_argument("--table", action="append", default=[], help="PATH [--target] [--features]")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rows", type=int, default=3_000_000, help="of each training")
    parser.add_argument("--repeats", type=int, default=10, help="timings of the steps")
    parser.add_argument("--budget", help="of the sweeps; rows, like 20M, on a busy machine")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="to choose from")
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        questions = [friedman2(folder, options.rows)] if options.friedman2 else []
        questions += [table(words, options.rows) for words in options.table]
        for question in questions:
            figures.append(answer(question, options))
            if options.out:
                options.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
