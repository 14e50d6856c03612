"""The seconds of a sweep that are neither passes nor timings, before its first pass."""

import time
from collections.abc import Sequence
from dataclasses import replace

from streamtrain.records import LadderInfo
from streamtrain.run.measure import MOST_TRIALS, TrainedModel, measure_costs
from streamtrain.run.prepare import Prepared
from streamtrain.training.model import initial_parameters

#: Seconds that a sweep takes after its measurements, to confirm its choice and to write its report.
REPORT_SECONDS = 2.0

#: Less processor time than this does not tell how busy the machine is.
_LEAST_CORE_SECONDS = 0.01


def with_reserve(
    prepared: Prepared,
    ladder: LadderInfo | None,
    sizes: Sequence[int],
    opening: float,
    before: float = 0.0,
) -> LadderInfo | None:
    """Return the limits of a sweep with the seconds that are neither passes nor timings.

    They are `before`, from the start of the budget to that of the sweep; `opening`, the seconds of
    opening the data; and those of `seconds_after`. Without a budget in seconds the limits stay as
    they are.
    """
    if ladder is None or ladder.budget_seconds is None:
        return ladder
    seconds = seconds_after(prepared, sizes, at_target=MOST_TRIALS * len(sizes))
    return replace(ladder, reserved_seconds=opening + seconds, before_seconds=before)


def seconds_after(prepared: Prepared, sizes: Sequence[int], *, at_target: int) -> float:
    """Return about how long a sweep takes after its passes and timings.

    That is the measurements of as many models as there are `sizes`, by one gradient timed here, and
    the confirmation and the report, which take longer where others use the processor too.
    `at_target`: as for `measure_costs`.
    """
    parameters = initial_parameters(prepared.model, prepared.config.order.seed, 0)
    started, core_started = time.perf_counter(), time.thread_time()
    models = [TrainedModel(batch_size=size, lr=0.0, parameters=parameters) for size in sizes]
    costs = measure_costs(prepared, models, prepared.config.sweep.measure, at_target=at_target)
    seconds, core_seconds = time.perf_counter() - started, time.thread_time() - core_started
    slowness = max(1.0, seconds / core_seconds) if core_seconds > _LEAST_CORE_SECONDS else 1.0
    return sum(cost["seconds"] for cost in costs) + slowness * REPORT_SECONDS
