"""Training: a sweep of one learner, whose model is kept."""

import time
from dataclasses import dataclass

import numpy as np

from streamtrain.base.budget import peak_rss_bytes
from streamtrain.config import Config
from streamtrain.errors import ConfigError
from streamtrain.records import Emit
from streamtrain.run.passes import PassRunner, run_pass
from streamtrain.run.prepare import Prepared, prepare, warm_up
from streamtrain.run.sweep import end_record, run_record
from streamtrain.run.timing import measure_throughput
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.training.model import Network
from streamtrain.types import Json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """Models with normalisation folded in: after the last row, and at the smallest held-out loss
    (None when nothing is held out).
    """

    last: Network
    best: Network | None


def train(
    config: Config,
    emit: Emit,
    describe: Json,
    saving: Checkpointer | None = None,
    place: PassRunner = run_pass,
) -> Trained:
    """Train one model and emit its Records.

    With `saving` it can be interrupted, and an interrupted run goes on.
    """
    started = time.perf_counter()
    sizes = (config.train.batch_size,)
    rates = (config.train.rate,)
    prepared = prepare(config, learners=1, rates=1)
    if config.train.early_stop is not None and prepared.evaluation is None:
        raise ConfigError(
            "train.early_stop needs a held-out loss, and nothing is held out. Set --holdout or"
            " --eval-data."
        )
    compile_seconds, before = warm_up(prepared, sizes, rates)
    told = saving.begin(prepared.fingerprint(verb="train")) if saving is not None else []
    if not told:
        emit(
            run_record(
                prepared,
                describe,
                verb="train",
                compile_seconds=compile_seconds,
                sizes=sizes,
                rates=[rates],
                trials=1,
            )
        )
        emit(prepared.baselines)
    learner = prepared.learner(
        sizes[0], rates, 0, patience=config.train.early_stop, keeps_best=True
    )
    done = place(prepared, [learner], 0, emit, max_seconds=config.train.max_time, saving=saving)
    if done.sync is None:  # on workers, rounds tell their speed; this machine's is not theirs
        measure_throughput(prepared, sizes, emit)
    seconds = time.perf_counter() - started + (saving.seconds if saving is not None else 0)
    emit(
        end_record(
            prepared,
            seconds=seconds,
            rows_read=done.rows_read,
            passes=1,
            saved=0,
            peak=max(0, peak_rss_bytes() - before),
        )
    )
    best_RP = learner.best_parameters
    return Trained(
        last=network_of(prepared, learner.engine.parameters()[0]),
        best=None if best_RP is None else network_of(prepared, best_RP[0]),
    )


def network_of(prepared: Prepared, parameters_P: np.ndarray) -> Network:
    """The model of a replica's flat parameters (P,), with normalisation folded in: from raw
    features to the target's units.
    """
    source = prepared.source
    network = Network(
        prepared.model.of_trial(prepared.config.order.seed, 0),
        prepared.standard,
        source.dataset.features,
        source.dataset.target,
        fill=source.fill,
        transform=None if source.transform is None else source.transform.record(),
    )
    network.load_flat(parameters_P)
    return network
