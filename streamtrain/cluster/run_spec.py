"""What a worker needs to open the same run independently and to compute the same numbers.

Rows are never sent: a worker reads the shards it trains on, as the driver described them. What the
driver measured (standardisation, imputed values, evaluation rows) is sent verbatim, so that results
do not depend on the worker's CPU.
"""

from dataclasses import dataclass, replace

import numpy as np

from streamtrain.base.budget import RUNTIME_BYTES, default_limit_bytes
from streamtrain.cluster.packed_shards import PackedShards
from streamtrain.config import Config
from streamtrain.errors import ConfigError, DataError
from streamtrain.records import Baseline, UntilFlat
from streamtrain.run.prepare import Prepared, open_data
from streamtrain.storage.foreign.foreign_source import absolute_source
from streamtrain.stream.open_source import stream_budget
from streamtrain.training.engine_choice import make_model
from streamtrain.types import Dataset, Standardization


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSpec:
    """A prepared run without its data.

    `shards`: the data as the driver found them; None for an imported table, which each machine
    imports itself. `data_fingerprint`: what the data that a worker sees must have. `fixed_bytes`:
    the memory of learners and evaluation rows.
    """

    config: Config
    shards: PackedShards | None
    data_fingerprint: str
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
    until_flat: UntilFlat | None
    fixed_bytes: int

    @classmethod
    def of(cls, prepared: Prepared) -> "RunSpec":
        """Return the spec of a run that the driver prepared.

        Raises ConfigError for options whose outcome could differ between workers.
        """
        if prepared.source.quarantine is not None:
            raise ConfigError(
                "--on-bad-shard quarantine is for one machine: workers could step over different"
                " rows. Leave out what `streamtrain verify` lists."
            )
        if prepared.config.train.max_time is not None:
            raise ConfigError(
                "--max-time ends a pass by one machine's clock; on a cluster give --epochs or"
                " --max-rows."
            )
        if prepared.config.train.batch_schedule is not None:
            raise ConfigError(
                "--batch-schedule is for one machine: shares and lanes are parts of one minibatch"
                " size. Give --batch-size on a cluster."
            )
        config, dataset = prepared.config, prepared.source.dataset
        # the default window may depend on memory, and so on the worker
        order = config.order.model_copy(update={"window_rows": prepared.source.window_rows})
        # a worker may run in another folder
        assert config.data.path is not None
        data = config.data.model_copy(update={"path": absolute_source(config.data.path)})
        return cls(
            config=config.model_copy(update={"order": order, "data": data}),
            shards=None if dataset.folder else PackedShards.of(dataset),
            data_fingerprint=_fingerprint(dataset),
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
            until_flat=prepared.until_flat,
            fixed_bytes=max(0, prepared.budget.fixed_bytes - RUNTIME_BYTES),
        )


def open_run(spec: RunSpec, *, threads: int, memory_limit: int | None) -> Prepared:
    """Open the run on this machine, within a worker's threads and memory (bytes).

    A shard is compared with the driver's description when it is first read. Raises DataError when
    this machine sees another table than the driver.
    """
    config = _worker_config(spec.config, threads, memory_limit)
    described = spec.shards and spec.shards.open(config.data.features, config.data.target)
    source = open_data(config, dataset=described)
    dataset = source.dataset
    if (fingerprint := _fingerprint(dataset)) != spec.data_fingerprint:
        raise DataError(
            f"{dataset.url}: a worker sees other data than the driver (fingerprint"
            f" {fingerprint}, not {spec.data_fingerprint}). Put the data where every"
            " machine finds the same files under the same name."
        )
    source = replace(source, fill=spec.fill, standard=spec.standard)
    return Prepared(
        config=config,
        source=source,
        standard=spec.standard,
        evaluation=spec.evaluation,
        baselines=spec.baselines,
        model=make_model(config.model, len(dataset.features)),
        engine=spec.engine,
        engine_reason=spec.engine_reason,
        target_sd=spec.target_sd,
        loss_scale=spec.loss_scale,
        epoch_rows=dataset.num_rows - source.holdout.num_rows,
        last_row=spec.last_row,
        last_epoch=spec.last_epoch,
        until_flat=spec.until_flat,
        budget=stream_budget(source, config.fetch, fixed_bytes=spec.fixed_bytes),
    )


def _fingerprint(dataset: Dataset) -> str:
    """Return what must be the same on every machine, which dates of files are not."""
    return dataset.fingerprint + dataset.digest[:16]


def _worker_config(config: Config, threads: int, memory_limit: int | None) -> Config:
    """Return the config with the worker's memory and threads wherever it leaves them open."""
    memory = config.fetch.memory or min(default_limit_bytes(), (memory_limit or 2**62) // 2)
    readers = config.fetch.readers or threads
    fetch = config.fetch.model_copy(update={"memory": memory, "readers": readers})
    train = config.train.model_copy(update={"threads": config.train.threads or threads})
    return config.model_copy(update={"fetch": fetch, "train": train})
