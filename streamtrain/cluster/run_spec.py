"""What a worker is told of a run, once: enough to open the same data by itself and to come to the
same numbers.

Rows never travel: a worker reads the shards it trains on. What the driver measured
(standardisation, imputed values, evaluation rows) travels as it is, so that no worker's processor
has a say in it.
"""

from dataclasses import dataclass, replace

import numpy as np

from streamtrain.base.budget import RUNTIME_BYTES, default_limit_bytes
from streamtrain.config import Config
from streamtrain.errors import ConfigError, DataError
from streamtrain.records import Baseline
from streamtrain.run.prepare import Prepared, open_data
from streamtrain.stream.open_source import stream_budget
from streamtrain.training.engine_choice import make_model
from streamtrain.types import Standardization


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSpec:
    """A run without its data.

    `data`: the fingerprint that the data must have; `fixed_bytes`: what learners and evaluation
    rows take.
    """

    config: Config
    data: str
    standard: Standardization
    fill: np.ndarray | None
    evaluation: np.ndarray | None
    baselines: Baseline
    engine: str
    engine_reason: str
    target_sd: float
    loss_scale: float
    last_row: int
    last_epoch: int | None
    fixed_bytes: int


def draw(prepared: Prepared) -> RunSpec:
    """The blueprint of a run that the driver prepared.

    Raises ConfigError for what workers cannot agree on.
    """
    if prepared.source.quarantine is not None:
        raise ConfigError(
            "--on-bad-shard quarantine is for one machine: workers could step over different rows."
            " Leave out what `streamtrain verify` lists."
        )
    if prepared.config.train.max_time is not None:
        raise ConfigError(
            "--max-time ends a pass by one machine's clock; on a cluster give --epochs or"
            " --max-rows."
        )
    return RunSpec(
        config=prepared.config,
        data=prepared.source.dataset.fingerprint,
        standard=prepared.standard,
        fill=prepared.source.fill,
        evaluation=prepared.evaluation,
        baselines=prepared.baselines,
        engine=prepared.engine,
        engine_reason=prepared.engine_reason,
        target_sd=prepared.target_sd,
        loss_scale=prepared.loss_scale,
        last_row=prepared.last_row,
        last_epoch=prepared.last_epoch,
        fixed_bytes=max(0, prepared.budget.fixed_bytes - RUNTIME_BYTES),
    )


def build(blueprint: RunSpec, *, threads: int, memory_limit: int | None) -> Prepared:
    """The run on this machine, within the worker's threads and memory.

    Raises DataError when it sees other data than the driver.
    """
    config = blueprint.config
    memory = config.fetch.memory or min(default_limit_bytes(), (memory_limit or 2**62) // 2)
    fetch = config.fetch.model_copy(
        update={"memory": memory, "readers": config.fetch.readers or threads}
    )
    train = config.train.model_copy(update={"threads": config.train.threads or threads})
    config = config.model_copy(update={"fetch": fetch, "train": train})
    source, window_rows = open_data(config)
    dataset = source.dataset
    if dataset.fingerprint != blueprint.data:
        raise DataError(
            f"{dataset.url}: a worker sees other data than the driver (fingerprint"
            f" {dataset.fingerprint}, not {blueprint.data}). Put the data where every machine finds"
            " the same files under the same name."
        )
    source = replace(source, fill=blueprint.fill, standard=blueprint.standard)
    return Prepared(
        config=config,
        source=source,
        standard=blueprint.standard,
        window_rows=window_rows,
        evaluation=blueprint.evaluation,
        baselines=blueprint.baselines,
        model=make_model(config.model, len(dataset.features)),
        engine=blueprint.engine,
        engine_reason=blueprint.engine_reason,
        target_sd=blueprint.target_sd,
        loss_scale=blueprint.loss_scale,
        epoch_rows=dataset.num_rows - source.holdout.num_rows,
        last_row=blueprint.last_row,
        last_epoch=blueprint.last_epoch,
        budget=stream_budget(source, window_rows, config.fetch, fixed_bytes=blueprint.fixed_bytes),
    )
