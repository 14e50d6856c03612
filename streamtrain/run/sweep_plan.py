"""What a sweep tries and within which limits, from its configuration and its data.

A sweep climbs a ladder within a budget (`science/ladder.py`) unless a flag asks for the fixed plan
of `science/tuning.py`.
"""

import math
from dataclasses import dataclass

from streamtrain.config import DEFAULT_BUDGET, Config
from streamtrain.errors import ConfigError
from streamtrain.plan.batch_sizes import FIXED_SIZES, first_sizes, fixed_sizes, largest_size
from streamtrain.records import LadderInfo
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.science.ladder import MOST_SIZES
from streamtrain.science.run_log import Run
from streamtrain.science.spending import rung_rows
from streamtrain.science.tuning import EXTENDED_BY, rounded_rate
from streamtrain.types import Json

#: The trials of a fixed plan, where none are given.
DEFAULT_TRIALS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What a sweep starts with: its data, limits, batch sizes, and the rates and trials of each.

    `ladder` is None for a fixed plan. With one, `trials` is 1: further trials follow from records.
    """

    prepared: Prepared
    ladder: LadderInfo | None
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    trials: int


def plan_sweep(config: Config, window_rows: int | None = None) -> SweepPlan:
    """Open the data of a sweep and return its plan. Raises what `prepare` and `ladder_of` raise.

    `window_rows`: the default window of a sweep that is resumed.
    """
    prepared = prepare(
        config,
        learners=_most_sizes(config),
        rates=_most_rates(config),
        window_rows=window_rows,
    )
    ladder = ladder_of(prepared)
    fixed_trials = config.sweep.trials or DEFAULT_TRIALS
    return SweepPlan(
        prepared=prepared,
        ladder=ladder,
        sizes=sizes_of(prepared, ladder),
        rates=learning_rates(config),
        trials=fixed_trials if ladder is None else 1,
    )


def learning_rates(config: Config) -> tuple[float, ...]:
    """Return the learning rates tried at every batch size, ascending.

    `sweep.lr_grid` is a list of rates, or the number of rates to try: these are half a decade
    apart, centred on `train.lr`.
    """
    grid = config.sweep.lr_grid
    if not isinstance(grid, int):
        return tuple(sorted(set(grid)))
    center = config.train.rate
    exponents = [(k - (grid - 1) / 2) / 2 for k in range(grid)]
    return tuple(rounded_rate(center * 10**exponent) for exponent in exponents)


def _most_rates(config: Config) -> int:
    """Return the largest number of replicas that a batch size can have in one pass."""
    rules = config.sweep.lr_rule
    tuned = max(len(learning_rates(config)), EXTENDED_BY) if "tuned" in rules else 0
    extended = EXTENDED_BY if config.sweep.extend_grid and tuned > 1 else 0
    return tuned + extended + len(rules)


def _most_sizes(config: Config) -> int:
    """Return the largest number of batch sizes in one pass."""
    given = config.sweep.batch_sizes
    return MOST_SIZES if given is None else len(given)


def bench_sizes(config: Config) -> tuple[int, ...]:
    """Return the batch sizes of a benchmark, which has no table to choose them from."""
    given = config.sweep.batch_sizes
    return FIXED_SIZES if given is None else given


def sizes_of(prepared: Prepared, ladder: LadderInfo | None) -> tuple[int, ...]:
    """Return the batch sizes that a sweep starts with."""
    if (given := prepared.config.sweep.batch_sizes) is not None:
        return given
    most = largest_size(prepared.epoch_rows)
    return first_sizes(most) if ladder is not None else fixed_sizes(most)


def ladder_of(prepared: Prepared) -> LadderInfo | None:
    """Return the limits of a sweep that chooses its own rows and trials; None for a fixed plan.

    Raises ConfigError where a budget is given together with what only a fixed plan can do.
    """
    config = prepared.config
    budget, train = config.sweep.budget, config.train
    if reason := _why_fixed(prepared):
        if budget is not None:
            raise ConfigError(f"--budget cannot be combined with {reason}. Leave out one of them.")
        if config.sweep.goal != "time-to-loss":
            raise ConfigError(
                f"--goal {config.sweep.goal} needs a budget, which cannot be combined with"
                f" {reason}. Leave out one of them."
            )
        return None
    if budget is None:
        budget = DEFAULT_BUDGET
    limited = train.max_rows is not None or train.epochs is not None
    seconds = budget if isinstance(budget, float) else None
    if train.max_time is not None:
        seconds = min(train.max_time, math.inf if seconds is None else seconds)
    return LadderInfo(
        budget_seconds=seconds,
        budget_rows=None if isinstance(budget, float) else budget,
        most_rows=prepared.last_row if limited else None,
        largest_size=(
            None if config.sweep.batch_sizes is not None else largest_size(prepared.epoch_rows)
        ),
    )


def for_trial(prepared: Prepared, run: Run, trial: int) -> Prepared:
    """Return the state for a pass as long as the one that a trial had, to train it again."""
    if run.header.ladder is None:
        return prepared
    return prepared.with_rows(rung_rows(run, trial))


def sweep_rules(config: Config) -> Json:
    """Return the fields of the `run` record that `science/tuning.py` bases its decisions on."""
    sweep = config.sweep
    return {
        "lr": config.train.rate,
        "lr_rules": list(sweep.lr_rule),
        "halving": sweep.halving,
        "extend": sweep.extend_grid,
        "rerun": sweep.rerun,
        "within": sweep.within,
        "goal": sweep.goal,
    }


def _why_fixed(prepared: Prepared) -> str | None:
    """The flag that asks for a fixed plan; None if none does."""
    sweep = prepared.config.sweep
    reasons = {
        "--trials": sweep.trials is not None,
        "--lr-rule": sweep.lr_rule != ("tuned",),
        "--halving off": not sweep.halving,
        "--extend-grid off": not sweep.extend_grid,
        "--rerun off": not sweep.rerun,
        "several --target-loss": len(sweep.target_loss) > 1,
        "--holdout 0": prepared.evaluation is None,
    }
    return next((name for name, given in reasons.items() if given), None)
