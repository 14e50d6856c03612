"""What the passes of a run share, made once: the data opened, surveyed and judged, the budget, and
how far to go.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

from streamtrain.base.budget import Budget, reset_peak_rss, rss_bytes
from streamtrain.base.redact import redact_url
from streamtrain.config import Config, TrainConfig
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.plan import Plan, make_plan
from streamtrain.records import Baseline
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.remote.filesystem import make_storage
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.fetch import FetchStats, fetch
from streamtrain.stream.nulls import mend_evaluation
from streamtrain.stream.open_source import (
    open_source,
    read_evaluation_rows,
    stream_budget,
    with_fill,
    with_standard,
)
from streamtrain.stream.source import Source
from streamtrain.stream.survey import baselines, standardized, take_survey
from streamtrain.stream.window import shuffle_once
from streamtrain.training.engine_choice import ENGINES, choose_engine, make_model
from streamtrain.training.fingerprint import array_hash, config_fingerprint
from streamtrain.training.fused_engine import gradient_slots, one_blas_thread
from streamtrain.training.learner import Learner
from streamtrain.training.model import Model, initial_parameters
from streamtrain.training.torch.torch_engine import PART_ROWS
from streamtrain.types import Json, Span, Standardization

#: The last row of a run that only the clock ends.
NO_LAST_ROW = 2**62

#: Steps are timed (timing.py) on a block of this many rows, gone through as often as needed; it
#: counts in the budget.
TIMED_ROWS = 2**18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """All that the passes of a run share: the source in model units, the evaluation rows, the
    budget, and how far to go.

    `evaluation`: float32 (rows, features + 1) in model units, or None. `loss_scale`: r² in model
    units → `loss`. `epoch_rows` and `last_row` count rows that may yet be dropped, so a pass also
    ends with its `last_epoch`, if it has one.
    """

    config: Config
    source: Source
    standard: Standardization
    window_rows: int
    evaluation: np.ndarray | None
    baselines: Baseline
    model: Model
    engine: str
    engine_reason: str
    target_sd: float
    loss_scale: float
    epoch_rows: int
    last_row: int
    last_epoch: int | None
    budget: Budget

    def plan(self, trial: int, epoch: int) -> Plan:
        seed = self.config.order.seed
        return make_plan(
            self.source.spans,
            self.source.holdout,
            seed=seed,
            trial=trial,
            epoch=epoch,
            window_rows=self.window_rows,
        )

    def blocks(
        self, trial: int, stats: FetchStats, *, epoch: int = 0, window: int = 0
    ) -> Iterator[Block]:
        """The blocks of epoch after epoch, without end, from a window of an epoch on."""
        later = (
            window for number in count(epoch + 1) for window in self.plan(trial, number).windows()
        )
        windows = chain(self.plan(trial, epoch).windows(window), later)
        pool = BufferPool(
            self.budget.window_rows, self.source.num_columns, keep=self.budget.windows
        )
        return fetch(windows, self.source, self.budget, stats, pool)

    def fingerprint(self, **more: object) -> Json:
        """All that the numbers of a run depend on, as JSON values by name.

        `more` of them. The survey's results stand for the data's values.
        """
        source = self.source
        return {
            **more,
            **config_fingerprint(self.config),
            "engine": self.engine,
            "model": self.model.to_json(),
            "the data": source.dataset.fingerprint,
            "columns": list(source.dataset.columns),
            "spans": source.spans.fingerprint,
            "window_rows": self.window_rows,
            "transform": None if source.transform is None else source.transform.record(),
            "imputed values": array_hash(source.fill),
            "standardisation": array_hash(np.stack([self.standard.mean, self.standard.scale])),
            "evaluation rows": array_hash(self.evaluation),
        }

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
    ) -> Learner:
        """A new learner: the trial's weights, one replica a learning rate.

        `stop_row`: it ends there; not `watched`: no evaluation.

        `patience` and `keeps_best` are those of `Learner`.
        """
        seed = self.config.order.seed
        last_row = self.last_row if self.last_row < NO_LAST_ROW else None
        parameters_P = initial_parameters(self.model, seed, trial)
        engine = ENGINES[self.engine](
            self.model.of_trial(seed, trial),
            parameters_P,
            batch_size,
            learning_rates,
            self.config.train.at(batch_size),
            last_row,
        )
        return Learner(
            engine,
            trial=trial,
            first_row=self.config.eval.first_row,
            last_row=self.last_row if stop_row is None else stop_row,
            holdout=self.evaluation if watched else None,
            loss_scale=self.loss_scale,
            target_sd=self.target_sd,
            patience=patience,
            keeps_best=keeps_best,
        )


def open_data(config: Config) -> tuple[Source, int]:
    """The source of a run in raw units, and the window's size in rows: footers and arithmetic.

    Raises ConfigError or DataError.
    """
    data = config.data
    if data.path is None:
        raise ConfigError("no data: name a file, a folder or a glob, or set data.path.")
    storage = make_storage(data.storage_options, timeout_seconds=config.fetch.timeout_seconds)
    dataset = open_shards(
        data.path,
        features=data.features,
        target=data.target,
        on_bad_shard=data.on_bad_shard,
        storage=storage,
    )
    # nothing is held out where another data set is evaluated on, unless asked for
    holdout = 0 if data.holdout is None and data.eval_data is not None else data.holdout
    source = open_source(dataset, config, holdout=holdout)
    return source, source.window_rows


def prepare(config: Config, *, learners: int, rates: int) -> Prepared:
    """Open the data, read the survey, and refuse what will not fit, before the first step.

    `learners` share a pass, with `rates` replicas each; they count in the budget.

    Raises ConfigError, DataError or ResourceError.
    """
    data, other = config.data, config.data.eval_data is not None
    source, window_rows = open_data(config)
    dataset = source.dataset
    model = make_model(config.model, len(dataset.features))
    engine, engine_reason = choose_engine(config.train, model)
    width = len(dataset.columns)
    epoch_rows = dataset.num_rows - source.holdout.num_rows
    fixed = 8 * width * max(source.holdout.num_rows, config.eval.eval_rows if other else 0)
    # parameters, gradient, two moments, two temporaries
    fixed += learners * rates * model.num_parameters * 4 * 6
    # the first four, copied and written out while they are saved
    fixed += learners * rates * model.num_parameters * 4 * 8
    # of the largest minibatch
    fixed += (
        learners
        * rates
        * model.num_parameters
        * 4
        * gradient_slots(NO_LAST_ROW, model.num_parameters)
    )
    # activations, their gradients, a temporary: one learner at a time
    fixed += rates * PART_ROWS * model.values_a_row * 4 * 3
    fixed += 4 * width * TIMED_ROWS  # the block that steps are timed on
    budget = stream_budget(source, window_rows, config.fetch, fixed_bytes=fixed)
    source = with_fill(source)
    survey = take_survey(source)
    if not survey.count:
        raise DataError(
            f"{dataset.url}: every row that was looked at has a bad value, and was dropped. Leave"
            " columns out with --features."
        )
    standard = survey.standard() if data.standardize else Standardization.identity(width)
    source = with_standard(source, standard)
    rows = survey.holdout
    if data.eval_data is not None:
        rows = read_evaluation_rows(
            data.eval_data, source, rows=config.eval.eval_rows, span_rows=config.order.span_rows
        )
    rows = mend_evaluation(source, rows)
    if not len(rows) and (other or source.holdout.num_rows):
        raise DataError(
            f"{redact_url(data.eval_data or dataset.url)}: every evaluation row has a bad value,"
            " and was dropped. Evaluate on more rows."
        )
    target_scale = float(survey.standard().scale[-1])
    return Prepared(
        config=config,
        source=source,
        standard=standard,
        window_rows=window_rows,
        evaluation=standardized(rows, standard) if len(rows) else None,
        baselines=baselines(survey, rows if len(rows) else None),
        model=model,
        engine=engine,
        engine_reason=engine_reason,
        target_sd=1.0 / target_scale,
        loss_scale=(target_scale / float(standard.scale[-1])) ** 2,
        epoch_rows=epoch_rows,
        last_row=_last_row(config.train, epoch_rows),
        last_epoch=_last_epoch(config.train),
        budget=budget,
    )


def warm_up(
    prepared: Prepared, sizes: tuple[int, ...] = (), rates: tuple[float, ...] = (1e-9,)
) -> tuple[float, int]:
    """Compile or load every kernel that the run will use, on a few rows; returns (seconds it took,
    resident bytes after it).

    `sizes` and `rates` are those of the run's learners: the torch engine compiles a step for each
    size, where that pays. What the compiler needs is then in memory before the run's own bytes are
    counted, and no timed region meets it.
    """
    started = time.perf_counter()
    source, span = prepared.source, prepared.source.spans[0]
    few = Span(
        shard=span.shard,
        start=span.start,
        stop=span.start + min(span.num_rows, 16),
        first_id=span.first_id,
    )
    shuffle_once(source, few)
    # the policy may have dropped all that was read
    rows = np.zeros((few.num_rows, source.num_columns), dtype=np.float32)
    with one_blas_thread():
        for size in sizes or (len(rows),):
            engine = prepared.learner(size, rates, 0).engine
            engine.advance(rows, 0, len(rows))
            engine.finish_epoch()
            engine.evaluate(rows)
    reset_peak_rss()
    return time.perf_counter() - started, rss_bytes()


def _last_epoch(train: TrainConfig) -> int | None:
    """Epochs of a pass that is told its length in epochs; None where rows or a clock end it."""
    return (
        None
        if train.max_rows is not None or (train.epochs is None and train.max_time is not None)
        else math.ceil(train.epochs or 1.0)
    )


def _last_row(train: TrainConfig, epoch_rows: int) -> int:
    if train.max_rows is not None:
        return train.max_rows
    if train.epochs is None and train.max_time is not None:
        return NO_LAST_ROW  # the clock ends it
    return round(epoch_rows * (train.epochs or 1.0))
