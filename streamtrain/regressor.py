"""A scikit-learn estimator: `fit` and `predict` on arrays, or on the path of a data set.

This is the only module that imports scikit-learn (the extra `sklearn`). It is imported when
`streamtrain.Regressor` is first used.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from streamtrain.base.redact import Secrets, hiding_in_errors
from streamtrain.config import TRAIN_FLAGS, Config, flag_values, make_config, set_key
from streamtrain.records import Record, ReplicaEnded
from streamtrain.run.passes import run_pass
from streamtrain.run.predict import predicted
from streamtrain.run.prepare import prepare
from streamtrain.run.train import fitted_model
from streamtrain.storage.write.writer import Layout, write_dataset
from streamtrain.training.batch_schedule import later_stages, with_sizes
from streamtrain.training.network import Network
from streamtrain.training.usual_torch import usual_torch

#: Rows per span of the temporary data set.
_SPAN_ROWS = 262_144


class Regressor(RegressorMixin, BaseEstimator):
    """A neural network trained by minibatches: `Regressor().fit(X, y).predict(X)`.

    On a data set: `Regressor(target="y").fit("data/")`. Paths are streamed and may be larger than
    memory; arrays (rows, features) are first written to a temporary folder.

    The parameters are the flags of `streamtrain train` with the same names and defaults; None means
    the default of the flag. Without `epochs` and `max_rows`, a fifth of the rows is held out, and
    training continues until the loss on them is flat; with one of them nothing is held out. So
    score on other rows. `random_state` determines weights, row order and hold-out; `threads` and
    `readers`, the threads that compute and that read, change no result.

    `X` may have NaN where `on_null` is `impute`, which means the mean of the column, or `drop`,
    which leaves out such rows in `fit`.

    Every row has the same weight: there is no `sample_weight`, because steps, hold-out and stopping
    rule are means over rows.

    After `fit`, `model_` is the trained torch module, from raw features (rows, features) to
    predictions (rows, 1).

    Raises ValueError for wrong parameters and data, as scikit-learn does; ConfigError and DataError
    are ValueErrors.
    """

    def __init__(
        self,
        hidden: Any = (32, 32),
        activation: str = "relu",
        *,
        batch_size: int | str = 256,
        optimizer: str = "adam",
        lr: float | None = None,
        loss: str = "mse",
        epochs: float | None = None,
        max_rows: int | None = None,
        target: str | None = None,
        features: Any = None,
        on_null: str | None = None,
        standardize: bool = True,
        engine: str = "auto",
        device: str = "auto",
        memory: Any = None,
        readers: int | None = None,
        threads: int | None = None,
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.activation = activation
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.loss = loss
        self.epochs = epochs
        self.max_rows = max_rows
        self.target = target
        self.features = features
        self.on_null = on_null
        self.standardize = standardize
        self.engine = engine
        self.device = device
        self.memory = memory
        self.readers = readers
        self.threads = threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "Regressor":
        """Train on arrays `X` (rows, features) and `y` (rows,), or on the path of a data set.

        The target of a data set is one of its columns, so `y` is left out. `predict` then
        takes arrays with the columns of `feature_names_in_` in their order.
        """
        if _is_path(X):
            if y is not None:
                raise ValueError(
                    "y is a column of the data set, named by the parameter target; call fit(path)"
                    " without y."
                )
            self._names_are_of_path = True
            with hiding_in_errors(Secrets.of({}, [os.fspath(X)])):
                return self._train(os.fspath(X), is_array=False)
        self._names_are_of_path = False
        finite = "allow-nan" if self.on_null in ("impute", "drop") else True
        X, y = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            y_numeric=True,
            ensure_min_samples=2,
            ensure_all_finite=finite,
        )
        names = getattr(self, "feature_names_in_", None)
        with _as_dataset(X, np.asarray(y, dtype=np.float64)) as path:
            self._train(path, is_array=True)
        # `_train` has set the column names of the temporary folder
        if names is not None:
            self.feature_names_in_ = names
        else:
            del self.feature_names_in_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return predictions, float64 (rows,), for an array or for the path of a data set.

        They are in the order of the rows.
        """
        check_is_fitted(self)
        if _is_path(X):
            return np.concatenate([values for _, values in predicted(self.model_, os.fspath(X))])
        if self._names_are_of_path and not hasattr(X, "columns"):
            X = self._without_names(X)
        else:
            finite = self._finite
            X = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=finite)
        return self.model_.predict(X)

    @property
    def _finite(self) -> Any:
        """What `predict` takes: NaN too where the model has means in their place."""
        return True if self.model_.fill is None else "allow-nan"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.on_null == "impute"
        return tags

    def _without_names(self, X: Any) -> np.ndarray:
        """Check an array as scikit-learn does, without its warning that columns have no names.

        The names are those of the columns on disk; an array never had any.
        """
        X = check_array(X, dtype="float64", estimator=self, ensure_all_finite=self._finite)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting"
                f" {self.n_features_in_} features as input: {', '.join(self.feature_names_in_)}."
            )
        return X

    @usual_torch()
    def _train(self, path: str, *, is_array: bool) -> "Regressor":
        config = self._config(path, is_array=is_array)
        prepared = prepare(config, learners=1, rates=1, until_flat=True)
        train = with_sizes(prepared.config.train, prepared.epoch_rows, prepared.last_row)
        stages = later_stages(train)
        learner = prepared.learner(train.constant_size, (train.rate,), 0, stages=stages)
        records: list[Record] = []
        run_pass(prepared, [learner], 0, records.append)
        for record in records:
            if isinstance(record, ReplicaEnded) and record.outcome != "finished":
                raise ValueError(f"training ended early: {record.outcome}. Try a smaller lr.")
        fitted = fitted_model(prepared, learner.engine.model_parameters()[0])
        self.model_: Network = fitted.network()
        self.n_features_in_ = len(self.model_.features)
        self.feature_names_in_ = np.array(self.model_.features, dtype=object)
        return self

    def _config(self, path: str, *, is_array: bool) -> Config:
        flags = self.get_params(deep=False)
        del flags["random_state"]
        threads = flags.pop("threads")
        if is_array:
            flags |= {"target": None, "features": None}  # all columns of the temporary folder
        values = flag_values(flags, TRAIN_FLAGS)
        set_key(values, "data.path", path)
        if threads is not None:
            set_key(values, "train.threads", threads)
        if self.epochs is not None or self.max_rows is not None:
            set_key(values, "data.holdout", 0)
        set_key(values, "order.seed", int(check_random_state(self.random_state).randint(2**31)))
        return make_config(values)


def _is_path(X: Any) -> bool:
    return isinstance(X, str | os.PathLike)


@contextmanager
def _as_dataset(X: np.ndarray, y: np.ndarray) -> Iterator[str]:
    """Write the rows as a data set in a temporary folder, which is removed at the end."""
    names = (*(f"x{i}" for i in range(X.shape[1])), "y")
    layout = Layout(columns=names, decoded_type="float64", format="parquet", span_rows=_SPAN_ROWS)

    def read_span(start: int) -> tuple[np.ndarray, ...]:
        stop = start + _SPAN_ROWS
        columns = [*X[start:stop].T, y[start:stop]]
        return tuple(np.ascontiguousarray(column) for column in columns)

    spans = [partial(read_span, start) for start in range(0, len(X), _SPAN_ROWS)]
    with tempfile.TemporaryDirectory(prefix="streamtrain-fit-") as folder:
        yield write_dataset(Path(folder) / "data", layout, spans)
