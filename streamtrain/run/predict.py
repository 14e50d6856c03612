"""A trained model over a whole data set, span by span: predictions with their row ids, and its
errors where the target is known.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from streamtrain.base.redact import redact_url
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.spans import cut_spans
from streamtrain.storage.dataset import bind_columns, find_shards
from streamtrain.storage.moments import Moments
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.filesystem import make_storage
from streamtrain.storage.write.predictions import PredictionWriter
from streamtrain.stream.transform import Transform, load_transform
from streamtrain.training.model import Network
from streamtrain.training.model_io import load_model, predict_rows
from streamtrain.types import LOCAL, Dataset, Json, Storage

OnBad = Literal["error", "drop"]
_SPAN_ROWS = 262_144


@dataclass(slots=True)
class Errors:
    """The sums behind an evaluation, over the rows that were scored."""

    target: Moments = field(default_factory=Moments)
    squared: float = 0.0
    absolute: float = 0.0

    def add(self, predictions: np.ndarray, target: np.ndarray) -> None:
        error = predictions - target
        self.target += Moments.of(target)
        self.squared += float((error**2).sum())
        self.absolute += float(np.abs(error).sum())


def predict(
    model_dir: Path,
    data: str,
    out: Path,
    *,
    on_null: OnBad = "error",
    storage_options: Mapping[str, str] | None = None,
) -> Json:
    """Predict every row of a data set, streaming; writes Parquet with `row_id` and `prediction`,
    float64 where float32 `is_coarse`.

    Returns `{rows, dropped}`. A row in which a feature is null, NaN or infinite is refused
    (`error`) or left out (`drop`); a model that was trained under `impute` fills it.
    `storage_options`: of an object store with the data. The model's transform is imported and
    applied; the target need not be there. Raises ConfigError when it cannot be, when `out` exists
    or is named as no Parquet, DataError for the data.
    """
    network = finite_model(model_dir)
    if out.suffix.lower() in (".csv", ".tsv", ".txt", ".json"):
        raise ConfigError(
            f"{out}: predictions are written as Parquet. Name the file {out.stem}.parquet."
        )
    if out.exists():
        raise ConfigError(f"{out} exists, and nothing is overwritten. Choose another --out.")
    rows = dropped = 0
    with PredictionWriter(out, "float64" if network.is_coarse else "float32") as writer:
        for ids, features, _, bad in _scored(
            network, data, on_null=on_null, with_target=False, storage=make_storage(storage_options)
        ):
            writer.write(ids, predict_rows(network, features))
            rows, dropped = rows + len(ids), dropped + bad
    return {"rows": rows, "dropped": dropped}


def evaluate(
    model_dir: Path,
    data: str,
    *,
    on_null: OnBad = "error",
    storage_options: Mapping[str, str] | None = None,
) -> Json:
    """The model's errors on a data set that has the target, streaming; ready for strict JSON.

    `rmse`, `mae`, `best_constant_rmse` are in units of the target; `loss` is the mean of r² over
    this data set's variance of the target, so that 1 is its mean's and `r2` is 1 - loss; both are
    null where the target is constant. Raises as `predict` does.
    """
    network = finite_model(model_dir)
    errors, dropped = Errors(), 0
    for _, features, target, bad in _scored(
        network, data, on_null=on_null, with_target=True, storage=make_storage(storage_options)
    ):
        errors.add(predict_rows(network, features), target)
        dropped += bad
    rows, variance = errors.target.count, errors.target.variance
    if not rows:
        raise DataError(
            f"{redact_url(data)}: every row has a null, NaN or infinite value, so there is nothing"
            " to evaluate on. Clean its columns."
        )
    mean_square = errors.squared / rows
    loss = mean_square / variance if variance > 0 else None
    return {
        "rows": rows,
        "dropped": dropped,
        "target": network.target,
        "rmse": math.sqrt(mean_square),
        "mae": errors.absolute / rows,
        "loss": loss,
        "r2": None if loss is None else 1 - loss,
        "target_mean": errors.target.mean,
        "target_sd": math.sqrt(variance),
        "best_constant_rmse": math.sqrt(variance),
    }


def predicted(
    network: Network, data: str, *, on_null: OnBad = "error"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`(row ids, float64 predictions)` of a data set, span by span, in order of the row ids.

    Raises as `predict` does.
    """
    for ids, features, _, _ in _scored(network, data, on_null=on_null, with_target=False):
        yield ids, predict_rows(network, features)


def finite_model(folder: Path) -> Network:
    """Raises DataError for the model of a training that diverged: it would predict NaN, or nothing
    that means anything.
    """
    network = load_model(folder)
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise DataError(
            f"{folder}: the model's weights are not finite: its training diverged. Train again with"
            f" a smaller --lr, or name {folder}/best."
        )
    return network


Rows = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def _scored(
    network: Network, data: str, *, on_null: OnBad, with_target: bool, storage: Storage = LOCAL
) -> Iterator[Rows]:
    """`(row ids, raw features (rows, features), target (rows,), rows dropped)`, span by span, in
    order of the row ids.
    """
    transform = _model_transform(network)
    needed = tuple(network.features if transform is None else transform.inputs)
    columns = (*needed, network.target) if with_target else needed
    dataset = _bound(data, columns, storage)
    readers = Readers(dataset)
    for span in cut_spans(dataset.shards, span_rows=_SPAN_ROWS, window_rows=8 * _SPAN_ROWS):
        read = readers.read(span.shard, span.start, span.stop)
        read = read[-len(columns) :]
        features = np.stack(
            _made(network, transform, needed, read[: len(needed)], span.num_rows), axis=1
        )
        target = np.asarray(read[-1], dtype=np.float64) if with_target else np.zeros(span.num_rows)
        bad = ~np.isfinite(target)
        if network.fill is None:
            bad |= ~np.isfinite(features).all(axis=1)
        if on_null == "error" and bad.any():
            at = int(np.flatnonzero(bad)[0])
            named = [*network.features, network.target]
            name = named[int(np.flatnonzero(~np.isfinite([*features[at].tolist(), target[at]]))[0])]
            raise DataError(
                f"{dataset.shards[span.shard].url}: column {name!r} has a null, NaN or infinite"
                f" value in row {span.start + at:,}; no error or prediction can be computed for it."
                " Clean the column, or leave such rows out with --on-null drop."
            )
        keep = ~bad
        ids = np.arange(span.first_id, span.first_id + span.num_rows)
        yield ids[keep], features[keep], target[keep], int(bad.sum())


def _bound(data: str, columns: tuple[str, ...], storage: Storage) -> Dataset:
    """The data set with these columns last, in this order; what it calls its target is the last of
    them, whatever the model calls it.

    A data set has two columns at least, so beside a single one another is read, and not used.
    """
    found = find_shards(data, storage=storage)
    if len(columns) > 1:
        return bind_columns(found, features=columns[:-1], target=columns[-1])
    spare = [
        column.name
        for column in found.shards[0].columns
        if column.decoded_type is not None and column.name != columns[0]
    ]
    return bind_columns(found, features=spare[:1], target=columns[0])


def _made(
    network: Network,
    transform: Transform | None,
    names: Sequence[str],
    read: Sequence[np.ndarray],
    rows: int,
) -> Sequence[np.ndarray]:
    """The features of the model: as read, or as its transform makes them."""
    if transform is None:
        return read
    made = transform(dict(zip(names, read, strict=True)), rows)
    if set(made) != set(network.features):
        raise DataError(
            f"{transform.name} makes {', '.join(made)}; the model was trained on"
            f" {', '.join(network.features)}."
        )
    return tuple(made[name] for name in network.features)


def _model_transform(network: Network) -> Transform | None:
    about = network.transform
    if about is None:
        return None
    transform = load_transform(about["function"], tuple(about["columns"]))
    if transform.sha256 != about["sha256"]:
        text = (
            f"{transform.name} stands in a file that was changed since the model was trained; its"
            " features may differ."
        )
        warnings.warn(text, stacklevel=3)
    return transform
