"""What the benchmarks of minibatch sizes share: contestants, their step costs, and paired ratios.

A contestant is a constant or a changing minibatch size. It is trained by the engine of the package
on the rows of a trial, and its seconds are its rows times the measured cost of a row at each of its
sizes: processor time of one thread, sizes in turn. So the other work of a machine matters little.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamtrain.records import BatchStage, DeliveryTimed, Record, StepsTimed
from streamtrain.run.grow import train_stages
from streamtrain.run.prepare import Prepared
from streamtrain.run.timing import measure_throughput
from streamtrain.science.crossing import first_crossing
from streamtrain.science.growing import mean_log_seconds
from streamtrain.science.intervals import Estimate
from streamtrain.science.scipy_functions import t_quantile

#: A curve: rows and held-out losses of its evaluations.
Curve = tuple[list[int], list[float | None]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A minibatch size, or sizes from rows on, at one learning rate."""

    stages: tuple[BatchStage, ...]
    lr: float

    @property
    def name(self) -> str:
        """The size, or the schedule as `--batch-schedule` takes it."""
        if len(self.stages) == 1:
            return str(self.stages[0].batch_size)
        return ",".join(f"{stage.batch_size}@{stage.first_row}" for stage in self.stages)


def constant(size: int) -> tuple[BatchStage, ...]:
    return (BatchStage(first_row=0, batch_size=size),)


def power_law(factor: float, power: float, first: int, last: int) -> tuple[BatchStage, ...]:
    """Powers of two from `first` to `last`; a size B begins at row factor·B^power."""
    sizes = [first * 2**k for k in range(int(math.log2(last / first)) + 1)]
    return tuple(
        BatchStage(first_row=round(factor * size**power) if size > first else 0, batch_size=size)
        for size in sizes
    )


def train(
    prepared: Prepared, stages: Sequence[BatchStage], lrs: Iterable[float], trial: int
) -> dict[float, Curve]:
    """Return the curve of each learning rate on the rows of a trial, up to the run's last row."""
    return train_stages(prepared, stages, tuple(sorted(set(lrs))), trial)


def row_seconds(prepared: Prepared, sizes: Iterable[int], repeats: int) -> dict[int, float]:
    """Return the processor seconds of a row at each size: geometric means over the repeats.

    Steps and delivery overlap in training, so the slower of the two counts. On a table of a few
    thousand rows that is often the delivery, at all but the smallest sizes.
    """
    steps: dict[int, list[float]] = {}
    delivery: list[float] = []

    def note(record: Record) -> None:
        if isinstance(record, StepsTimed):
            steps.setdefault(record.batch_size, []).append(record.core_seconds / record.rows)
        elif isinstance(record, DeliveryTimed):
            delivery.append(record.core_seconds / record.rows)

    measure_throughput(prepared, tuple(sorted(set(sizes))), note, repeats)
    return {
        size: math.exp(float(np.mean(np.log(np.maximum(costs, delivery)))))
        for size, costs in steps.items()
    }


def log_seconds(
    costs: Mapping[int, float], contestant: Contestant, curve: Curve, targets: Sequence[float]
) -> tuple[float, bool]:
    """Return the mean log seconds to `targets`, and whether all were reached.

    The last row stands for a target that was missed.
    """
    reached = all(first_crossing(*curve, target) is not None for target in targets)
    return mean_log_seconds(costs, contestant.stages, *curve, targets), reached


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Return the ratio of seconds from their logarithms, paired within trials; 95 % t interval."""
    differences = np.subtract(numerators, denominators)
    count, mean = len(differences), float(differences.mean())
    margin = t_quantile(count - 1, 0.975) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Estimate(
        value=math.exp(mean), lo=math.exp(mean - margin), hi=math.exp(mean + margin), n=count
    )


def text_of_ratio(estimate: Estimate, *, is_bound: bool = False) -> str:
    """Return `0.52 [0.47, 0.57]`; with `is_bound`, the ratio is at least that."""
    more = "at least " if is_bound else ""
    return f"{more}{estimate.value:.2f} [{estimate.lo:.2f}, {estimate.hi:.2f}]"


def text_of_seconds(logs: Sequence[float], *, all_reached: bool) -> str:
    """Return the geometric mean in milliseconds."""
    return ("" if all_reached else "> ") + f"{1e3 * math.exp(float(np.mean(logs))):.4g} ms"
