"""How long a run takes, from what its rows cost: for `--dry-run`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamtrain.base.budget import default_readers
from streamtrain.cluster.choice import is_wanted
from streamtrain.plan.batch_sizes import rows_of_sizes
from streamtrain.records import BatchStage, DataInfo, RunStarted
from streamtrain.run.confirm import MOST_SIZES as MOST_CONFIRMED_SIZES
from streamtrain.run.confirm import MOST_TRIALS as MOST_CONFIRMED_TRIALS
from streamtrain.run.prepare import Prepared
from streamtrain.run.sweep_plan import SweepPlan, sweep_rules
from streamtrain.run.timing import REPEATS, timing_seconds
from streamtrain.science.run_log import Run
from streamtrain.science.tuning import ExpectedPass, expected_passes
from streamtrain.training.learner import evaluation_rows
from streamtrain.training.until_flat import points_until_flat


class Cost(NamedTuple):
    """The cost of one row: seconds by the clock, and processor seconds of all threads."""

    seconds: float
    core_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCosts:
    """What the rows of a run cost.

    Attributes:
        read_rate: Rows per second of one thread that reads and shuffles.
        stream_rate: The most rows per second of the stream; infinite where threads limit it.
        steps: The cost of a learner's steps by batch size, with `replicas` learning rates.
        evaluation: The cost of a held-out row, for a learner with `replicas` learning rates.
        replicas: Learning rates that the costs hold for.
    """

    read_rate: float
    stream_rate: float
    steps: Mapping[int, Cost]
    evaluation: Cost
    replicas: int = 1


class Times(NamedTuple):
    """Seconds of a run; reading and training are those that either would take alone."""

    seconds: float
    reading_seconds: float
    training_seconds: float

    def plus(self, other: "Times") -> "Times":
        """Return the sums."""
        return Times(*(one + more for one, more in zip(self, other, strict=True)))


def train_times(prepared: Prepared, costs: RowCosts, stages: Sequence[BatchStage]) -> Times:
    """Return the times of a training, and in `seconds` of the timing after it too."""
    times = _pass_times(prepared, costs, rows_of_sizes(stages, prepared.last_row))
    if is_wanted(prepared.config.cluster):
        return times
    # the sizes of one training share the timed region of one
    after = timing_seconds(times.seconds, REPEATS, 1)
    return times._replace(seconds=times.seconds + after)


def sweep_times(plan: SweepPlan, costs: RowCosts) -> tuple[Times, Times]:
    """Return the times of what a fixed plan runs in any case, and of what it runs at most.

    Which rates are dropped, where grids are extended, and at which rows targets are reached follows
    from the records. So the second times include every pass that these may ask for, each as long as
    the run allows.
    """
    # imports torch, as the sweep does
    from streamtrain.run.measure import MOST_TRIALS as MOST_MEASURED
    from streamtrain.run.reserve import seconds_after

    sweep, sizes = plan.prepared.config.sweep, plan.sizes
    is_judged = plan.prepared.evaluation is not None
    fewest, most = Times(0.0, 0.0, 0.0), Times(0.0, 0.0, 0.0)
    for expected in passes_of(plan):
        fewest = fewest.plus(_pass_times_of(plan, costs, expected.fewest))
        most = most.plus(_pass_times_of(plan, costs, expected.most))
    fewest_after = seconds_after(plan.prepared, sizes, at_target=0)
    most_after, trained_again = fewest_after, 0
    if is_judged and "sharpness" in sweep.measure:
        trained_again = min(MOST_MEASURED, plan.trials) * max(1, len(sweep.target_loss))
        most_after = seconds_after(plan.prepared, sizes, at_target=trained_again * len(sizes))
        each = _pass_times_of(plan, costs, dict.fromkeys(sizes, 1))
        most_after += trained_again * each.seconds
    if is_judged and sweep.confirm:
        alone = [_pass_times_of(plan, costs, {size: 1}).seconds for size in sizes]
        slowest = sum(sorted(alone)[-MOST_CONFIRMED_SIZES:])
        most_after += min(MOST_CONFIRMED_TRIALS, plan.trials) * slowest
    repeats = max(REPEATS, plan.trials)

    def with_seconds_after(times: Times, after: float) -> Times:
        timing = timing_seconds(times.seconds, repeats, len(sizes))
        return times._replace(seconds=times.seconds + timing + after)

    return with_seconds_after(fewest, fewest_after), with_seconds_after(most, most_after)


class NumModels(NamedTuple):
    """The models of a sweep's passes, and the passes that are not of its trials.

    `rates`: the learning rates of a batch size in the first pass, at most.
    """

    rates: int
    models: int
    most_models: int
    fresh_passes: int
    most_extensions: int


def models_of(plan: SweepPlan) -> NumModels:
    """Return the models of a fixed plan, those that its records may ask for among the most."""
    passes = passes_of(plan)
    kinds = [one.kind for one in passes]
    return NumModels(
        rates=max(passes[0].most.values()),
        models=sum(sum(one.fewest.values()) for one in passes),
        most_models=sum(sum(one.most.values()) for one in passes),
        fresh_passes=kinds.count("fresh"),
        most_extensions=kinds.count("extension"),
    )


def passes_of(plan: SweepPlan) -> list[ExpectedPass]:
    """Return the passes that a fixed plan expects."""
    config = plan.prepared.config
    header = RunStarted(
        batch_sizes=plan.sizes,
        lrs=(plan.rates,) * len(plan.sizes),
        trials=plan.trials,
        target_loss=config.sweep.target_loss,
        data=DataInfo(holdout_source="none" if plan.prepared.evaluation is None else "rows"),
        **sweep_rules(config),
    )
    return expected_passes(Run(header=header))


def _pass_times_of(plan: SweepPlan, costs: RowCosts, rates: Mapping[int, int]) -> Times:
    """Return the times of a pass in which each size has so many rates; without sizes: of none."""
    if not rates:
        return Times(0.0, 0.0, 0.0)
    rows_of = dict.fromkeys(rates, float(plan.prepared.last_row))
    return _pass_times(plan.prepared, costs, rows_of, rates)


def _pass_times(
    prepared: Prepared,
    costs: RowCosts,
    rows_of: Mapping[int, float],
    rates: Mapping[int, int] | None = None,
) -> Times:
    """Return the times of one pass in which the learner of each size takes its rows.

    `rates`: the learning rates of each size; None: those that the costs hold for. Learners of the
    fused engine train side by side, and share the cores with reading.
    """
    rows, cores = prepared.last_row, prepared.config.train.threads or default_readers()
    held_out = 0 if prepared.evaluation is None else len(prepared.evaluation)
    evaluated = held_out * _num_evaluations(prepared)
    learners: list[Cost] = []
    for size, taken in rows_of.items():
        step, look = _costs_with(costs, size, costs.replicas if rates is None else rates[size])
        learners.append(
            Cost(
                seconds=taken * step.seconds + evaluated * look.seconds,
                core_seconds=taken * step.core_seconds + evaluated * look.core_seconds,
            )
        )
    reading = rows / min(costs.read_rate * prepared.budget.readers, costs.stream_rate)
    training = sum(cost.seconds for cost in learners)
    core_seconds = sum(cost.core_seconds for cost in learners)
    if prepared.engine == "fused":
        training = max(core_seconds / cores, *(cost.seconds for cost in learners), 0.0)
    # one thread builds the first window, and nothing is trained before it is there
    first = min(prepared.source.window_rows, rows) / costs.read_rate
    later_core_seconds = max(0.0, rows / costs.read_rate - first)
    both = max(reading - first, training, (core_seconds + later_core_seconds) / cores)
    return Times(first + both, reading, training)


def _costs_with(costs: RowCosts, size: int, rates: int) -> tuple[Cost, Cost]:
    """Return the costs of a row of steps and of a held-out row with so many learning rates.

    They are in proportion to these. But threads share learning rates, so one takes the processor
    time of one, or as long as all took.
    """

    def scaled(cost: Cost) -> Cost:
        share = rates / costs.replicas
        alone = min(cost.core_seconds / costs.replicas, cost.seconds)
        return Cost(max(cost.seconds * share, alone), cost.core_seconds * share)

    return scaled(costs.steps[size]), scaled(costs.evaluation)


def _num_evaluations(prepared: Prepared) -> int:
    """Return how often a learner is evaluated at most."""
    points = evaluation_rows(prepared.config.eval.first_row, prepared.last_row)
    if prepared.until_flat is not None:
        points = points_until_flat(points, prepared.until_flat)
    return sum(1 for _ in points)
