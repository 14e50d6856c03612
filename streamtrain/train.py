"""Training: a sweep of one learner, whose model is kept."""

import time

from streamtrain.config import Config
from streamtrain.learners.model import Network
from streamtrain.passes import prepare, run_pass, warm_up
from streamtrain.sweep import end_record, run_record
from streamtrain.timing import measure_throughput
from streamtrain.types import Emit, Record


def train(config: Config, emit: Emit, describe: Record) -> Network:
    """Train one model and emit its Records; returns it with normalisation folded in."""
    started = time.perf_counter()
    sizes = (config.train.batch_size,)
    rates = (config.train.rate,)
    prepared = prepare(config, learners=1, rates=1)
    compile_seconds, before = warm_up(prepared, sizes, rates)
    emit(run_record(prepared, describe, verb="train", compile_seconds=compile_seconds, sizes=sizes, rates=[rates], trials=1))
    emit({"event": "baseline", **prepared.baselines})
    learner = prepared.learner(sizes[0], rates, 0)
    done = run_pass(prepared, [learner], 0, emit, max_seconds=config.train.max_time)
    measure_throughput(prepared, sizes, emit)
    emit(end_record(prepared, seconds=time.perf_counter() - started, rows_read=done["rows_read"], passes=1, saved=0, before=before))
    source = prepared.source
    network = Network(
        prepared.shape.of_trial(config.order.seed, 0), prepared.standard, source.dataset.features, source.dataset.target, fill=source.fill,
        transform=None if source.transform is None else source.transform.record(),
    )  # fmt: skip
    network.load_flat(learner.engine.parameters()[0])
    return network
