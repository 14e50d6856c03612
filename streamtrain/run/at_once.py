"""How many passes of a sweep run at once: as many as fill the GPU, where memory holds them."""

from dataclasses import dataclass

import numpy as np

from streamtrain.base.budget import Budget, share_budget
from streamtrain.kernels.cuda_layout import choose_slots
from streamtrain.run.prepare import Prepared, learner_bytes
from streamtrain.science.tuning import PassPlan
from streamtrain.storage.remote.urls import is_remote
from streamtrain.stream.chains import chain_bytes
from streamtrain.training.engine_choice import room_of

#: The part of a GPU's free memory that passes may fill. Torch keeps memory that was freed.
GPU_SHARE = 0.5

#: The streams that torch has on a GPU, and the most queues of launches of CUDA. Learners beyond
#: these would share a stream, and wait for each other.
MOST_STREAMS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PassNeeds:
    """What one pass takes.

    `learners`: each has a stream. `blocks`: thread blocks that train at once until it ends.
    `gpu_bytes`: memory on the GPU. `host_bytes`: memory on the host beside its windows and decodes.
    """

    learners: int
    blocks: int
    gpu_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AtOnce:
    """How many passes run at once, and the budget of each.

    `reason`: a sentence where memory keeps more of them from running; else "".
    """

    passes: int
    budget: Budget
    reason: str = ""


def passes_at_once(
    passes: int, needs: PassNeeds, budget: Budget, *, multiprocessors: int, free_bytes: int
) -> AtOnce:
    """Return how many of `passes` equal passes run at once.

    Their blocks fill the multiprocessors of the GPU at most, and their learners its streams. Each
    has a reader of its own. `budget`: that of one pass alone. `free_bytes`: the memory of the GPU
    that is free.
    """
    filling = min(
        passes, multiprocessors // needs.blocks, MOST_STREAMS // needs.learners, budget.readers
    )
    fitting = int(GPU_SHARE * free_bytes) // needs.gpu_bytes
    for number in range(min(filling, fitting), 1, -1):
        if shared := share_budget(budget, number, needs.host_bytes):
            reason = _reason(number, filling, is_gpu=number == fitting)
            return AtOnce(passes=number, budget=shared, reason=reason)
    return AtOnce(passes=1, budget=budget, reason=_reason(1, filling, is_gpu=fitting < 2))


def _reason(number: int, filling: int, *, is_gpu: bool) -> str:
    if number >= filling:
        return ""
    memory, remedy = ("the GPU", "End other programs on it") if is_gpu else ("--memory", "Raise it")
    passes = "passes of the sweep run" if number > 1 else "pass of the sweep runs"
    return (
        f"{number} {passes} at once instead of {filling}: {memory} does not hold the windows of"
        f" more. {remedy}, or give smaller --window-rows (another row order)."
    )


def share_gpu(prepared: Prepared, plan: PassPlan, passes: int) -> AtOnce | None:
    """Return how many of `passes` passes like `plan` run at once; None where they take turns.

    They do on the CPU and with the torch engine, whose learners share all cores or take turns
    themselves. They also do where a clock ends passes, since each gets a share of the time; with a
    quarantine, whose list would depend on which pass reads a span first; and from an object store,
    whose traffic is counted for all passes together.
    """
    room = room_of(prepared.engine, prepared.config.train) if passes > 1 else None
    source = prepared.source
    if (
        room is None
        or prepared.config.train.max_time is not None
        or source.quarantine is not None
        or any(is_remote(shard.url) for shard in source.dataset.shards)
    ):
        return None
    return passes_at_once(
        passes,
        needs_of(prepared, plan),
        prepared.budget,
        multiprocessors=room.multiprocessors,
        free_bytes=room.free_bytes,
    )


def needs_of(prepared: Prepared, plan: PassPlan) -> PassNeeds:
    """Return what a pass needs.

    The smallest minibatches decide how long it takes, so its blocks are those of as many replicas
    of them: one each, or the blocks that share a large minibatch.
    """
    source, model = prepared.source, prepared.model
    most_rates = max(map(len, plan.lrs.values()))
    learners = learner_bytes(model, learners=len(plan.lrs), rates=most_rates)
    evaluation = 0 if prepared.evaluation is None else prepared.evaluation.nbytes
    chains = chain_bytes(
        source.spans,
        source.dataset.shards,
        source.decoded_columns,
        np.dtype(source.dataset.decoded_type).itemsize,
    )
    return PassNeeds(
        learners=len(plan.lrs),
        blocks=sum(map(len, plan.lrs.values())) * choose_slots(min(plan.lrs), model.num_parameters),
        gpu_bytes=prepared.budget.window_bytes + learners + len(plan.lrs) * evaluation,
        host_bytes=learners + chains,
    )
