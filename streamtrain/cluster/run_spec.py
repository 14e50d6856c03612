"""What a worker needs to open the same run independently and to compute the same numbers.

Rows are never sent: a worker reads the shards it trains on, as the driver described them. What the
driver measured (standardisation, imputed values, evaluation rows) is sent verbatim, so that results
do not depend on the worker's CPU.
"""

from dataclasses import dataclass, replace

import numpy as np

from streamtrain.base.budget import RUNTIME_BYTES, default_limit_bytes
from streamtrain.cluster.choice import refuse_options
from streamtrain.cluster.packed_shards import PackedShards
from streamtrain.config import Config
from streamtrain.errors import DataError
from streamtrain.run.prepare import Prepared, open_data
from streamtrain.run.shared_facts import RunFacts
from streamtrain.storage.foreign.foreign_source import absolute_source
from streamtrain.stream.open_source import stream_budget
from streamtrain.training.engine_choice import make_model
from streamtrain.types import Dataset


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSpec(RunFacts):
    """A prepared run without its data.

    `shards`: the data as the driver found them; None for an imported table, which each machine
    imports itself. `data_fingerprint`: what the data that a worker sees must have. `fixed_bytes`:
    the memory of learners and evaluation rows.
    """

    shards: PackedShards | None
    data_fingerprint: str
    fill: np.ndarray | None
    fixed_bytes: int

    @classmethod
    def of(cls, prepared: Prepared) -> "RunSpec":
        """Return the spec of a run that the driver prepared.

        Raises ConfigError for options whose outcome could differ between workers.
        """
        refuse_options(prepared.config)
        config, dataset = prepared.config, prepared.source.dataset
        # the default window may depend on memory, and so on the worker
        order = config.order.model_copy(update={"window_rows": prepared.source.window_rows})
        # a worker may run in another folder
        assert config.data.path is not None
        data = config.data.model_copy(update={"path": absolute_source(config.data.path)})
        facts = prepared.facts()
        facts["config"] = config.model_copy(update={"order": order, "data": data})
        return cls(
            **facts,
            shards=None if dataset.folder else PackedShards.of(dataset),
            data_fingerprint=_fingerprint(dataset),
            fill=prepared.source.fill,
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
        **{**spec.facts(), "config": config},
        source=source,
        model=make_model(config.model, len(dataset.features)),
        epoch_rows=dataset.num_rows - source.holdout.num_rows,
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
