"""Prepare the state that all passes of a run share, once before the first pass.

It comprises the opened and surveyed data, the evaluation rows, the memory budget, the model and
engine, and where a pass ends.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import chain, count

import numpy as np

from streamtrain.base.budget import Budget
from streamtrain.base.caller import warn_caller
from streamtrain.base.redact import redact_url
from streamtrain.base.words import plural
from streamtrain.config import Config, TrainConfig
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.plan import Plan, make_plan
from streamtrain.records import Baseline, UntilFlat
from streamtrain.run.row_order import mixing_advice, survey_variation
from streamtrain.run.shared_facts import NO_LAST_ROW, RunFacts
from streamtrain.science.span_variation import is_unlike, unlike_text
from streamtrain.storage.nothing_to_learn import too_few
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.fetch import FetchStats, fetch
from streamtrain.stream.nulls import apply_null_policy_to_evaluation
from streamtrain.stream.open_source import (
    open_dataset,
    open_source,
    read_evaluation_rows,
    stream_budget,
    with_imputed_values,
    with_standard,
)
from streamtrain.stream.source import Source
from streamtrain.stream.survey import Survey, baselines, standardized, take_survey
from streamtrain.stream.survey_checks import far_value, refuse_constant
from streamtrain.training.batch_schedule import Stage
from streamtrain.training.engine import PART_ROWS, AccumulatingEngine
from streamtrain.training.engine_choice import ENGINES, choose_engine, make_model
from streamtrain.training.fingerprint import array_hash, config_fingerprint
from streamtrain.training.fused_engine import gradient_slots
from streamtrain.training.learner import Learner
from streamtrain.training.model import Model, initial_parameters
from streamtrain.training.until_flat import limits_until_flat
from streamtrain.types import Dataset, Json, Standardization

#: Rows of the block on which steps are timed (timing.py), repeatedly if needed. The block counts in
#: the budget.
TIMED_ROWS = 2**18

_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared(RunFacts):
    """The state that all passes of a run share. Immutable; the source may be read from any thread.

    `source` delivers rows in model units. `epoch_rows` includes rows that the null policy may yet
    drop. `engine_rates`: row-updates per second by engine, where they decided the engine.
    """

    source: Source
    model: Model
    epoch_rows: int
    budget: Budget
    engine_rates: dict[str, float] | None = None

    def with_rows(self, rows: int) -> "Prepared":
        """Return the same state for a pass that ends after `rows` rows."""
        train = self.config.train.model_copy(update={"max_rows": rows, "epochs": None})
        config = self.config.model_copy(update={"train": train})
        return replace(self, config=config, last_row=rows, last_epoch=None, until_flat=None)

    def plan(self, trial: int, epoch: int) -> Plan:
        """Return the order of the units of one epoch of a trial, cut into windows."""
        return make_plan(
            self.source.spans,
            self.source.holdout,
            seed=self.config.order.seed,
            trial=trial,
            epoch=epoch,
            window_rows=self.source.window_rows,
        )

    def blocks(
        self, trial: int, stats: FetchStats, *, epoch: int = 0, window: int = 0
    ) -> Generator[Block, None, None]:
        """Yield the blocks of epoch after epoch without end, starting at a window of an epoch.

        Closing the generator ends its threads.
        """
        later_epochs = (self.plan(trial, later).windows() for later in count(epoch + 1))
        windows = chain(self.plan(trial, epoch).windows(window), chain.from_iterable(later_epochs))
        pool = BufferPool(
            self.budget.window_rows, self.source.num_columns, keep=self.budget.windows
        )
        blocks = fetch(windows, self.source, self.budget, stats, pool)
        return blocks  # pyright: ignore[reportReturnType] - fetch is a generator function

    def fingerprint(self, **more: object) -> Json:
        """Return everything that the results of a run depend on, as JSON by name.

        `more`: further entries. The results of the survey represent the values of the data.
        """
        source = self.source
        return {
            **more,
            **config_fingerprint(self.config),
            "engine": self.engine,
            "model": self.model.to_json(),
            "the data": source.dataset.fingerprint,
            "the manifest": source.dataset.digest or None,
            "file stamps": source.dataset.stamps,
            "columns": list(source.dataset.columns),
            "spans": source.spans.fingerprint,
            "window_rows": source.window_rows,
            "transform": None if source.transform is None else source.transform.record(),
            "imputed values": array_hash(source.fill),
            "standardisation": array_hash(np.stack([self.standard.mean, self.standard.scale])),
            "evaluation rows": array_hash(self.evaluation),
        }

    def make_engine(
        self, batch_size: int, learning_rates: tuple[float, ...], trial: int, *, parts: int = 1
    ) -> AccumulatingEngine:
        """Return a new engine with the trial's initial weights, one replica per learning rate.

        `parts`: the engine takes one of this many equal parts of each minibatch, and its schedule
        counts its own rows only.
        """
        seed, rows = self.config.order.seed, self.expected_rows
        train = self.config.train.at(batch_size)
        return ENGINES[self.engine](
            self.model.for_trial(seed, trial),
            initial_parameters(self.model, seed, trial),
            batch_size // parts,
            learning_rates,
            train.model_copy(update={"warmup_rows": train.warmup_rows // parts}),
            None if rows is None else rows // parts,
        )

    def learner(
        self,
        batch_size: int,
        learning_rates: tuple[float, ...],
        trial: int,
        *,
        stop_row: int | None = None,
        watched: bool = True,
        patience: int | None = None,
        keeps_best: bool = False,
        stages: tuple[Stage, ...] = (),
    ) -> Learner:
        """Return a new learner with the trial's initial weights, one replica per learning rate.

        `stop_row`: the row at which it ends, if not at the run's. `watched=False`: it is never
        evaluated. `patience`, `keeps_best` and `stages`: see `Learner`.
        """
        return Learner(
            self.make_engine(batch_size, learning_rates, trial),
            trial=trial,
            first_row=self.config.eval.first_row,
            last_row=self.last_row if stop_row is None else stop_row,
            holdout=self.evaluation if watched else None,
            loss_scale=self.loss_scale,
            target_sd=self.target_sd,
            patience=patience,
            until_flat=self.until_flat if watched else None,
            keeps_best=keeps_best,
            stages=stages,
        )


def open_data(
    config: Config, *, window_rows: int | None = None, dataset: Dataset | None = None
) -> Source:
    """Return the source of a run in raw units. Reads footers only, and none of a `dataset`.

    `window_rows`: the default window of a run that is resumed. Raises ConfigError or DataError.
    """
    data = config.data
    # With a separate evaluation data set, nothing is held out unless requested.
    holdout = 0 if data.holdout is None and data.eval_data is not None else data.holdout
    if dataset is None:
        if data.path is None:
            raise ConfigError("no data: name a file, a folder or a glob, or set data.path.")
        dataset = open_dataset(data.path, config)
    return open_source(dataset, config, holdout=holdout, window_rows=window_rows)


def prepare(
    config: Config,
    *,
    learners: int,
    rates: int,
    until_flat: bool = False,
    window_rows: int | None = None,
) -> Prepared:
    """Open the data, read the survey, and refuse what does not fit, before the first step.

    `learners`: how many share a pass. `rates`: the most replicas that each has. Both count in the
    memory budget. `until_flat`: passes whose length no key sets end when the loss is flat, instead
    of after one epoch. `window_rows`: as for `open_data`. Raises ConfigError, DataError or
    ResourceError.
    """
    data, has_eval_data = config.data, config.data.eval_data is not None
    source = open_data(config, window_rows=window_rows)
    dataset = source.dataset
    if data.holdout != 0 and not has_eval_data and not source.holdout.num_rows:
        _refuse_unjudged(dataset, data.holdout)
    model = make_model(config.model, len(dataset.features))
    engine, engine_reason = choose_engine(config.train, model)
    width = len(dataset.columns)
    epoch_rows = dataset.num_rows - source.holdout.num_rows
    evaluation_rows = max(source.holdout.num_rows, config.eval.eval_rows if has_eval_data else 0)
    fixed_bytes = _fixed_bytes(
        model, learners=learners, rates=rates, width=width, evaluation_rows=evaluation_rows
    )
    budget = stream_budget(source, config.fetch, fixed_bytes=fixed_bytes)
    source = with_imputed_values(source)
    survey = take_survey(source)
    if not survey.count:
        raise DataError(
            f"{dataset.url}: every sampled row has a null, NaN or infinite value and was dropped."
            " Leave out the columns that have them with --features, or choose another --target."
        )
    refuse_constant(survey, dataset)
    if far := far_value(survey, dataset.columns):
        warn_caller(far)
    standard = survey.standard() if data.standardize else Standardization.identity(width)
    source = with_standard(source, standard)
    rows, kept = _evaluation_rows(config, source, survey)
    reference = _baselines(source, survey, rows, None if has_eval_data else kept)
    variation = reference.span_variation
    if variation is not None and is_unlike(variation):
        advice = mixing_advice(variation, source, config, budget, fixed_bytes=fixed_bytes)
        warn_caller(f"{unlike_text(variation)} {advice}")
    target_scale = float(survey.standard().scale[-1])
    limits = limits_until_flat(config.train, epoch_rows, len(rows)) if until_flat else None
    return Prepared(
        config=config,
        source=source,
        standard=standard,
        evaluation=standardized(rows, standard) if len(rows) else None,
        baselines=reference,
        model=model,
        engine=engine,
        engine_reason=engine_reason,
        target_sd=1.0 / target_scale,
        loss_scale=(target_scale / float(standard.scale[-1])) ** 2,
        epoch_rows=epoch_rows,
        last_row=_last_row(config.train, epoch_rows) if limits is None else limits.most_rows,
        last_epoch=_last_epoch(config.train, epoch_rows, limits),
        until_flat=limits,
        budget=budget,
    )


def _refuse_unjudged(dataset: Dataset, asked: int | float | None) -> None:
    """Raise for a table of which no row is held out, though `--holdout 0` does not say so.

    `asked`: `data.holdout`. Raises ConfigError for a fraction of less than a row, else DataError.
    """
    if asked is None:
        raise DataError(too_few(dataset.url, dataset.num_rows))
    raise ConfigError(
        f"data.holdout {asked:g} of {plural(dataset.num_rows, 'row')} is less than a row. Ask for a"
        " number of rows, give others with --eval-data, or train without them: --holdout 0."
    )


def _evaluation_rows(
    config: Config, source: Source, survey: Survey
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that models are judged on, in raw units, and their places among those read.

    They are held out, or of --eval-data. Raises DataError when the null policy drops all of them.
    """
    data, rows = config.data, survey.holdout
    if data.eval_data is not None:
        rows = read_evaluation_rows(
            data.eval_data, source, rows=config.eval.eval_rows, span_rows=config.order.span_rows
        )
    rows, kept = apply_null_policy_to_evaluation(source, rows)
    if not len(rows) and (data.eval_data is not None or source.holdout.num_rows):
        raise DataError(
            f"{redact_url(data.eval_data or source.dataset.url)}: every evaluation row has a null,"
            " NaN or infinite value and was dropped. Evaluate on more rows."
        )
    return rows, kept


def _baselines(
    source: Source, survey: Survey, rows: np.ndarray, kept: np.ndarray | None
) -> Baseline:
    """Return the losses that a model is compared with, on the evaluation `rows` in raw units.

    `kept`: the places of `rows` among the held-out ones; None where they are of other data.
    """
    dataset = source.dataset

    def place(index: int) -> tuple[str, int]:
        assert kept is not None
        file, row = dataset.place_of_id(int(survey.holdout_ids[kept[index]]))
        return redact_url(file), row

    losses = baselines(
        survey, rows if len(rows) else None, dataset.columns, None if kept is None else place
    )
    return replace(
        losses,
        holdout_hash=array_hash(rows[:, -1]) if len(rows) else None,
        span_variation=survey_variation(source, survey),
    )


def _fixed_bytes(
    model: Model, *, learners: int, rates: int, width: int, evaluation_rows: int
) -> int:
    """Return the bytes that a run needs in addition to its windows, for data of any size.

    `width`: columns of a block. Memory is projected, not measured: the counts are of arrays that
    exist at the same time at most.
    """
    evaluation = 8 * width * evaluation_rows
    timed_block = _FLOAT32_BYTES * width * TIMED_ROWS
    return learner_bytes(model, learners=learners, rates=rates) + evaluation + timed_block


def learner_bytes(model: Model, *, learners: int, rates: int) -> int:
    """Return the bytes that the learners of a pass need, each with `rates` replicas."""
    parameters = learners * rates * model.num_parameters
    # parameters, gradient, two moments, average, two temporaries
    training = 7 * _FLOAT32_BYTES * parameters
    # the first five of these, copied and then written out when a checkpoint is saved
    checkpoint = 10 * _FLOAT32_BYTES * parameters
    # partial gradients, of which the largest minibatch has the most
    slots = gradient_slots(NO_LAST_ROW, model.num_parameters)
    partial_gradients = slots * _FLOAT32_BYTES * parameters
    # activations, their gradients and a temporary, for one learner at a time
    activations = 3 * _FLOAT32_BYTES * rates * PART_ROWS * model.values_per_row
    return training + checkpoint + partial_gradients + activations


def _last_epoch(train: TrainConfig, epoch_rows: int, limits: UntilFlat | None) -> int | None:
    """Return the number of epochs after which a pass ends; None when something else ends it."""
    if train.max_rows is not None or _ends_by_clock(train):
        return None
    if limits is not None and limits.most_rows > epoch_rows:
        return None
    return math.ceil(train.epochs or 1.0)


def _last_row(train: TrainConfig, epoch_rows: int) -> int:
    if train.max_rows is not None:
        return train.max_rows
    if _ends_by_clock(train):
        return NO_LAST_ROW
    rows = round(epoch_rows * (train.epochs or 1.0))
    if not rows:
        raise ConfigError(
            f"train.epochs is {train.epochs:g}, which of {epoch_rows:,} training rows is none. Give"
            " more, or --max-rows."
        )
    return rows


def _ends_by_clock(train: TrainConfig) -> bool:
    """Whether only `train.max_time` ends a pass."""
    return train.max_rows is None and train.epochs is None and train.max_time is not None
