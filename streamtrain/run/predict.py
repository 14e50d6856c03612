"""A trained model on a whole data set, span by span.

`predict` writes predictions with their row ids, `evaluate` computes the errors where the target is
known.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from streamtrain.base.caller import warn_caller
from streamtrain.base.redact import Secrets, hiding_in_errors, redact_url
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.spans import cut_spans
from streamtrain.storage.dataset import bind_columns, find_shards
from streamtrain.storage.moments import Moments
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.store_options import make_storage
from streamtrain.storage.write.predictions import PredictionWriter
from streamtrain.stream.transform import Transform, load_transform
from streamtrain.training.model_file import check_named
from streamtrain.training.model_io import load_model, predict_rows
from streamtrain.training.network import Network
from streamtrain.types import AS_FOUND, Dataset, Json, Reading, Storage

OnBad = Literal["error", "drop"]

#: Row ids (rows,), raw features (rows, features), target (rows,), and the number of rows dropped.
ScoredRows = tuple[np.ndarray, np.ndarray, np.ndarray, int]

_SPAN_ROWS = 262_144


@dataclass(slots=True)
class Errors:
    """The sums behind an evaluation, over the rows scored so far."""

    target: Moments = field(default_factory=Moments)
    squared: float = 0.0
    absolute: float = 0.0

    def add(self, predictions: np.ndarray, target: np.ndarray) -> None:
        """Add rows: float64 predictions and targets, both (rows,)."""
        error = predictions - target
        self.target += Moments.of(target)
        self.squared += float((error**2).sum())
        self.absolute += float(np.abs(error).sum())


def predict(
    model_dir: Path,
    data: str,
    out: Path,
    *,
    model: str | None = None,
    transform: str | None = None,
    on_null: OnBad = "error",
    storage_options: Mapping[str, str] | None = None,
    reading: Reading = AS_FOUND,
) -> Json:
    """Write a prediction for every row of a data set to a Parquet or CSV file, streaming.

    Its columns are `row_id` and `prediction`: float32, or float64 where float32 would round
    noticeably (`Network.is_coarse`). Returns `{rows, dropped}`.

    `model` and `transform`: the functions that the model was trained with, as `--model` and
    `--transform` named them. They are imported only if they are named here.

    A row in which a feature is null, NaN or infinite is refused (`error`) or left out (`drop`); a
    model that was trained with `impute` fills it. `storage_options`: the options of the object
    store with the data; `reading`: how tables are read; what dates and times become is taken from
    the model. The target column need not exist.

    Raises ConfigError when a function is not named or cannot be imported, when `out` exists, or
    when its name is not the name of a Parquet file; DataError for the model and the data.
    """
    network = finite_model(model_dir, model=model)
    if out.suffix.lower() in (".tsv", ".txt", ".json", ".jsonl", ".gz"):
        raise ConfigError(
            f"{out}: predictions are written as Parquet or CSV. Name the file {out.stem}.parquet or"
            f" {out.stem}.csv."
        )
    if out.exists():
        raise ConfigError(f"{out} exists, and nothing is overwritten. Choose another --out.")
    rows = dropped = 0
    with PredictionWriter(out, "float64" if network.is_coarse else "float32") as writer:
        for ids, features, _, bad in _scored(
            network,
            data,
            on_null=on_null,
            with_target=False,
            transform=_model_transform(model_dir, network, transform),
            storage=_storage(network, storage_options, reading),
        ):
            writer.write(ids, predict_rows(network, features))
            rows += len(ids)
            dropped += bad
    return {"rows": rows, "dropped": dropped}


def evaluate(
    model_dir: Path,
    data: str,
    *,
    model: str | None = None,
    transform: str | None = None,
    on_null: OnBad = "error",
    storage_options: Mapping[str, str] | None = None,
    reading: Reading = AS_FOUND,
) -> Json:
    """Return the model's errors on a data set that has the target, streaming; strict JSON values.

    `rmse`, `mae` and `best_constant_rmse` are in units of the target. `loss` is the mean of r²
    divided by the variance of the target in this data set, so that predicting its mean has loss 1,
    and `r2` is 1 - loss; both are null where the target is constant. Raises what `predict` raises.
    """
    network = finite_model(model_dir, model=model)
    errors, dropped = Errors(), 0
    for _, features, target, bad in _scored(
        network,
        data,
        on_null=on_null,
        with_target=True,
        transform=_model_transform(model_dir, network, transform),
        storage=_storage(network, storage_options, reading),
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


def predicted(network: Network, data: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `(row ids, float64 predictions)` of a data set, span by span, in order of row ids.

    The model has no transform. Raises what `predict` raises.
    """
    storage = _storage(network, None, AS_FOUND)
    for ids, features, _, _ in _scored(
        network, data, on_null="error", with_target=False, storage=storage, transform=None
    ):
        yield ids, predict_rows(network, features)


def finite_model(folder: Path, *, model: str | None = None) -> Network:
    """Load a model whose weights are all finite; `model`: see `load_model`.

    Raises DataError for the model of a run that diverged: its predictions would be NaN or
    meaningless.
    """
    network = load_model(folder, model=model)
    weights = (*network.parameters(), network.mean, network.scale)
    if not all(bool(tensor.isfinite().all()) for tensor in weights):
        raise DataError(
            f"{folder}: the model's weights are not finite: its training diverged. Train again with"
            f" a smaller --lr, or use {folder}/best."
        )
    return network


def _storage(network: Network, options: Mapping[str, str] | None, reading: Reading) -> Storage:
    """Return how data are read for a model: dates and times as it was trained with them.

    Raises ConfigError when `reading` makes something else of them.
    """
    if reading.datetime not in (None, network.datetime):
        trained = f"with {network.datetime}" if network.datetime else "without --datetime"
        raise ConfigError(
            f"--datetime {reading.datetime}: the model was trained {trained}. Leave the flag out."
        )
    return replace(make_storage(options), reading=replace(reading, datetime=network.datetime))


def _scored(
    network: Network,
    data: str,
    *,
    on_null: OnBad,
    with_target: bool,
    transform: Transform | None,
    storage: Storage,
) -> Iterator[ScoredRows]:
    """Yield the rows that can be scored, span by span, in order of row ids.

    The target is 0 where it is not read.
    """
    inputs = tuple(network.features if transform is None else transform.inputs)
    columns = (*inputs, network.target) if with_target else inputs
    secrets = Secrets.of(dict(storage.options), [data])
    with hiding_in_errors(secrets):
        dataset = _bind(data, columns, storage)
    readers = Readers(dataset)
    for span in cut_spans(dataset.shards, span_rows=_SPAN_ROWS, window_rows=8 * _SPAN_ROWS):
        with hiding_in_errors(secrets):
            arrays = readers.read(span.shard, span.start, span.stop)
        arrays = arrays[-len(columns) :]
        features = np.stack(
            _model_features(network, transform, inputs, arrays[: len(inputs)], span.num_rows),
            axis=1,
        )
        if with_target:
            target = np.asarray(arrays[-1], dtype=np.float64)
        else:
            target = np.zeros(span.num_rows)
        bad = ~np.isfinite(target)
        if network.fill is None:
            bad |= ~np.isfinite(features).all(axis=1)
        if on_null == "error" and bad.any():
            row = int(np.flatnonzero(bad)[0])
            values = np.asarray([*features[row].tolist(), target[row]])
            names = [*network.features, network.target]
            name = names[int(np.flatnonzero(~np.isfinite(values))[0])]
            url, first = dataset.place(span.shard, span.start)
            raise DataError(
                f"{url}: column {name!r} has a null, NaN or infinite"
                f" value in row {first + row:,}; no error or prediction can be computed for"
                " it. Clean the column, or leave such rows out with --on-null drop."
            )
        good = ~bad
        ids = np.arange(span.first_id, span.first_id + span.num_rows)
        yield ids[good], features[good], target[good], int(bad.sum())


def _bind(data: str, columns: tuple[str, ...], storage: Storage) -> Dataset:
    """Open a data set with `columns` as its last columns, in this order.

    The last of them is bound as the target of the data set, whatever its role in the model. A data
    set has at least two columns, so if one is wanted, a second is read and not used.
    """
    found = find_shards(data, storage=storage)
    if len(columns) != 1:
        return bind_columns(found, features=columns[:-1], target=columns[-1])
    (name,) = columns
    others = [
        column.name
        for column in found.shards[0].columns
        if column.decoded_type is not None and column.name != name
    ]
    return bind_columns(found, features=others[:1], target=name)


def _model_features(
    network: Network,
    transform: Transform | None,
    names: Sequence[str],
    columns: Sequence[np.ndarray],
    num_rows: int,
) -> Sequence[np.ndarray]:
    """Return the columns of the model's features: as read, or as its transform makes them."""
    if transform is None:
        return columns
    transformed = transform(dict(zip(names, columns, strict=True)), num_rows)
    if set(transformed) != set(network.features):
        raise DataError(
            f"{transform.name} makes {', '.join(transformed)}; the model was trained on"
            f" {', '.join(network.features)}."
        )
    return tuple(transformed[name] for name in network.features)


def _model_transform(folder: Path, network: Network, named: str | None) -> Transform | None:
    """Import the transform that the model was trained with; warn if its file has changed since.

    Raises ConfigError where the caller does not name it.
    """
    saved = network.transform
    check_named(folder, "--transform", None if saved is None else saved["function"], named)
    if saved is None:
        return None
    transform = load_transform(saved["function"], tuple(saved["columns"]))
    if transform.sha256 != saved["sha256"]:
        text = (
            f"the file of {transform.name} was changed since the model was trained; its features"
            " may differ."
        )
        warn_caller(text)
    return transform
