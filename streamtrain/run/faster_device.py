"""The device of a run with `--device auto`: measured, or that of the run that is resumed."""

import math
from dataclasses import replace

from streamtrain.run.prepare import NO_LAST_ROW, Prepared
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.training.device_choice import gpu_candidate, measure_devices


def with_faster_device(
    prepared: Prepared,
    sizes: tuple[int, ...],
    replicas: int,
    checkpointer: Checkpointer | None,
    *,
    passes: float = 1,
    seconds: float = math.inf,
) -> Prepared:
    """Return the same state, with the engine on the GPU where that is the faster one.

    `sizes`: the batch sizes of the run, with `replicas` each. `passes`: how many passes train a
    size. `seconds`: the time limit of the run. Nothing is measured where the options name a device,
    where there is no GPU, or where a run is resumed: that keeps its engine.
    """
    train = prepared.config.train
    candidate = gpu_candidate(train, prepared.model)
    if candidate is None:
        return prepared
    kept = None if checkpointer is None else checkpointer.engine()
    if kept in ("fused", candidate):
        return replace(prepared, engine=kept, engine_reason="the engine of the run so far")
    limited = prepared.last_row < NO_LAST_ROW
    choice = measure_devices(
        train,
        prepared.model,
        candidate,
        sizes,
        replicas,
        rows=passes * prepared.last_row if limited else math.inf,
        seconds=min(seconds, math.inf if train.max_time is None else train.max_time),
    )
    return replace(
        prepared,
        engine=choice.engine,
        engine_reason=choice.reason,
        engine_rates=choice.rates,
    )
