"""Transforms: a user's function that makes the features from the decoded feature columns.

```python
def features(columns):  # {"distance": array, "air_time": array, …}: all columns but the target
    return {"speed": columns["distance"] / columns["air_time"], "late": columns["hour"] > 18}
```

It runs inside the readers, on several threads, with any range of rows, including none. So it must
be pure and work row by row. Nulls arrive as NaN; what it returns is subject to the null policy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from streamtrain.base.plugins import file_hash, import_function
from streamtrain.errors import ConfigError, DataError, first_line
from streamtrain.storage.decode import decode_numpy, numpy_column
from streamtrain.storage.readers import Forward, Readers
from streamtrain.storage.remote.remote_file import Traffic
from streamtrain.types import Dataset, Json

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """A user's function that makes features.

    Attributes:
        name: Where it is defined, as `module:function`.
        function: The function.
        inputs: The names of the columns that it receives.
        sha256: The hash of the file that defines it; None if there is no file.
    """

    name: str
    function: Callable[[dict[str, np.ndarray]], Columns]
    inputs: tuple[str, ...]
    sha256: str | None

    def __call__(self, columns: Columns, num_rows: int) -> dict[str, np.ndarray]:
        """Return the features of `num_rows` rows by name, 1-D arrays as the function made them.

        Thread-safe if the function is.

        Raises DataError when the function raises, or when its result is not valid.
        """
        views = {name: column.view() for name, column in columns.items()}
        for view in views.values():
            view.flags.writeable = False
        try:
            # no warnings: values that are not finite are left to the null policy
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                features = self.function(views)
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(
                f"--transform {self.name} raised {type(error).__name__} on {num_rows:,} rows:"
                f" {first_line(error)}"
            ) from error
        return self._checked(features, num_rows)

    def record(self) -> Json:
        """Return the description that a run's record and a model's file keep."""
        return {"function": self.name, "sha256": self.sha256, "columns": list(self.inputs)}

    def _checked(self, features: object, num_rows: int) -> dict[str, np.ndarray]:
        if not isinstance(features, Mapping) or not features:
            raise self._error(f"returned {_kind(features)}")
        checked: dict[str, np.ndarray] = {}
        for name, column in features.items():
            if not isinstance(name, str):
                raise self._error(f"returned {_kind(features)}")
            if (
                not isinstance(column, np.ndarray)
                or numpy_column(name, column.dtype).decoded_type is None
            ):
                raise self._error(f"returned {_kind(column)} for {name!r}")
            if column.shape != (num_rows,):
                raise self._error(
                    f"returned an array of shape {column.shape} for {name!r}, from {num_rows:,}"
                    " rows"
                )
            checked[name] = column
        return checked

    def _error(self, fault: str) -> DataError:
        return DataError(
            f"--transform {self.name} {fault}. Return a dict from the name of each feature to a"
            " 1-D NumPy array of numbers, one value per row."
        )


class TransformedReaders:
    """Readers of a data set whose features a transform makes; see `Readers`.

    `dataset` is the data set with the columns that the transform makes.

    Raises ConfigError when the transform returns the target as a feature, and DataError when it
    fails on no rows.
    """

    def __init__(self, dataset: Dataset, transform: Transform):
        no_rows = {name: np.empty(0, dtype=dataset.decoded_type) for name in dataset.features}
        features = transform(no_rows, 0)
        if dataset.target in features:
            raise ConfigError(
                f"--transform {transform.name} returns {dataset.target!r}, which is the target."
                " Give the feature another name."
            )
        types = {numpy_column(name, column.dtype).decoded_type for name, column in features.items()}
        types.add(dataset.decoded_type)
        self.dataset = replace(
            dataset,
            columns=(*features, dataset.target),
            decoded_type="float64" if "float64" in types else "float32",
        )
        self._readers, self._transform = Readers(dataset), transform

    @property
    def traffic(self) -> Traffic:
        """See `Readers.traffic`."""
        return self._readers.traffic

    def read(self, shard: int, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """See `Readers.read`."""
        return self.apply(shard, start, stop, self._readers.read(shard, start, stop))

    def forward(self, shard: int) -> "TransformedForward":
        """See `Readers.forward`."""
        return TransformedForward(self, shard, self._readers.forward(shard))

    def apply(
        self, shard: int, start: int, stop: int, columns: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """Return the columns that the transform makes, target last.

        `columns` are the decoded columns of rows `[start, stop)` of a shard.

        Raises DataError naming the shard and its rows.
        """
        inputs = dict(zip(self._transform.inputs, columns, strict=False))
        try:
            features = self._transform(inputs, stop - start)
            if tuple(features) != self.dataset.features:
                raise DataError(
                    f"--transform {self._transform.name} returned {', '.join(features)}, and"
                    f" {', '.join(self.dataset.features)} before."
                )
            features[self.dataset.target] = columns[-1]
            return tuple(
                decode_numpy(name, column, self.dataset.decoded_type)
                for name, column in features.items()
            )
        except DataError as error:
            raise DataError(
                f"{self.dataset.shards[shard].url}: rows {start:,} to {stop:,}: {error}"
            ) from error


class TransformedForward:
    """See `Readers.forward`."""

    def __init__(self, readers: TransformedReaders, shard: int, forward: Forward):
        self._readers, self._shard, self._forward = readers, shard, forward

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """See `Readers.read`."""
        return self._readers.apply(self._shard, start, stop, self._forward.read(start, stop))

    def close(self) -> None:
        """Close the file."""
        self._forward.close()


def load_transform(name: str, inputs: tuple[str, ...]) -> Transform:
    """Import `module:function` as a transform of the columns `inputs`.

    Raises ConfigError when it cannot be imported.
    """
    function = import_function("--transform", name)
    return Transform(name=name, function=function, inputs=inputs, sha256=file_hash(function))


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    if isinstance(value, Mapping):
        return "a dict whose names are not text" if value else "no feature"
    return f"{type(value).__name__}"
