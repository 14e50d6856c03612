"""Training: one pass with one learner, whose model is kept."""

from dataclasses import dataclass

import numpy as np

from streamtrain.config import AUTO, Config, TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.plan.batch_sizes import rows_of_sizes
from streamtrain.records import Emit
from streamtrain.run.faster_device import with_faster_device
from streamtrain.run.passes import PassRunner, run_pass
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.run.run_records import RunLifetime
from streamtrain.run.timing import measure_throughput
from streamtrain.training.batch_schedule import all_stages, later_stages, most_sizes, with_sizes
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.training.fitted_model import FittedModel
from streamtrain.types import Json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """The trained models, with normalisation folded in.

    `last` is the model after the last row, `best` the one at the smallest held-out loss (None when
    no rows are held out).
    """

    last: FittedModel
    best: FittedModel | None


def train(
    config: Config,
    emit: Emit,
    run_metadata: Json,
    checkpointer: Checkpointer | None = None,
    runner: PassRunner = run_pass,
) -> Trained:
    """Train one model and emit its records.

    `run_metadata`: fields of the `run` record that training does not know itself. With a
    `checkpointer` the run can be interrupted, and an interrupted one is resumed. `runner` runs the
    pass. Raises ConfigError when `train.early_stop` is set and no rows are held out.
    """
    lifetime = RunLifetime("train", emit, run_metadata, checkpointer)
    rates = (config.train.rate,)
    # the sizes of a schedule are timed side by side
    prepared = prepare(
        config,
        learners=most_sizes(config.train),
        rates=1,
        until_flat=True,
        window_rows=lifetime.window_rows,
    )
    if config.train.early_stop is not None and prepared.evaluation is None:
        raise ConfigError(
            "train.early_stop needs a held-out loss, and no rows are held out. Set --holdout or"
            " --eval-data."
        )
    chosen = with_sizes(config.train, prepared.epoch_rows, prepared.last_row)
    stages = all_stages(chosen) if config.train.batch_size == AUTO else None
    all_sizes = tuple(size for size, _ in chosen.sizes)
    sizes = all_sizes[:1]
    if runner is run_pass:  # workers have other devices than the driver
        prepared = with_faster_device(prepared, sizes, 1, checkpointer)
    if not lifetime.open(prepared, all_sizes, rates, stages):
        emit(lifetime.first_record(sizes=sizes, rates=rates, trials=1))
        emit(prepared.baselines)
    learner = prepared.learner(
        sizes[0],
        rates,
        0,
        patience=config.train.early_stop,
        keeps_best=True,
        stages=later_stages(chosen),
    )
    pass_record = runner(
        prepared, [learner], 0, emit, max_seconds=config.train.max_time, saving=checkpointer
    )
    # The speed of workers is in the records of their rounds; this machine's would not describe it.
    if pass_record.sync is None:
        measure_throughput(
            prepared,
            _used_sizes(chosen, learner.rows),
            emit,
            pass_seconds=pass_record.seconds,
            of_one_training=True,
        )
    lifetime.end(
        rows_read=pass_record.rows_read, passes=1, saved=0, peak_bytes=lifetime.peak_bytes()
    )
    best_RP = learner.best_parameters
    return Trained(
        last=fitted_model(prepared, learner.engine.model_parameters()[0]),
        best=None if best_RP is None else fitted_model(prepared, best_RP[0]),
    )


def _used_sizes(chosen: TrainConfig, rows: int) -> tuple[int, ...]:
    """Return the minibatch sizes of a training that ended after `rows` rows; one at least.

    >>> train = TrainConfig(batch_schedule="8@0,16@100,32@200")
    >>> _used_sizes(train, 200), _used_sizes(train, 0)
    ((8, 16), (8,))
    """
    taken = rows_of_sizes(all_stages(chosen), rows)
    return tuple(size for size, count in taken.items() if count) or tuple(taken)[:1]


def fitted_model(prepared: Prepared, parameters_P: np.ndarray) -> FittedModel:
    """Return the model of a replica's flat parameters (P,), with normalisation folded in.

    It maps raw features to predictions in the target's units.
    """
    source = prepared.source
    return FittedModel(
        shape=prepared.model.for_trial(prepared.config.order.seed, 0),
        parameters_P=parameters_P,
        standard=prepared.standard,
        features=source.dataset.features,
        target=source.dataset.target,
        fill=source.fill,
        transform=None if source.transform is None else source.transform.record(),
        datetime=prepared.config.data.datetime,
    )
