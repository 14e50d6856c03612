"""Transforms: a function of the user's own that makes the features from the decoded feature
columns, inside the readers.

```python
def features(columns):  # {"distance": array, "hour": array}: all columns but the target
    return {"speed": columns["distance"] / columns["air_time"], "late": columns["hour"] > 18}
```
It must be pure and work row by row: it is called from several threads, with any range of rows,
also with none. Null comes as NaN; what it returns is subject to the null policy.
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
    """A function `module:function`, the columns it is given, and the hash of the file it stands in
    (None without a file).
    """

    name: str
    function: Callable[[dict[str, np.ndarray]], Columns]
    inputs: tuple[str, ...]
    sha256: str | None

    def __call__(self, columns: Columns, num_rows: int) -> dict[str, np.ndarray]:
        """The features of `num_rows` rows by name, 1-D arrays as the function made them.

        Thread-safe when the function is.

        Raises DataError for what the function raises or returns wrongly.
        """
        given = {name: column.view() for name, column in columns.items()}
        for column in given.values():
            column.flags.writeable = False
        try:
            # what is not finite is for the null policy
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                made = self.function(given)
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(
                f"--transform {self.name} raised {type(error).__name__} on {num_rows:,} rows:"
                f" {first_line(error)}"
            ) from error
        return self._checked(made, num_rows)

    def record(self) -> Json:
        """What a run's record and a model's file say of it."""
        return {"function": self.name, "sha256": self.sha256, "columns": list(self.inputs)}

    def _checked(self, made: object, num_rows: int) -> dict[str, np.ndarray]:
        wrong = None
        if (
            not isinstance(made, Mapping)
            or not made
            or not all(isinstance(name, str) for name in made)
        ):
            wrong = f"returned {_what(made)}"
        else:
            for name, column in made.items():
                if (
                    not isinstance(column, np.ndarray)
                    or numpy_column(name, column.dtype).decoded_type is None
                ):
                    wrong = f"returned {_what(column)} for {name!r}"
                elif column.shape != (num_rows,):
                    wrong = (
                        f"returned an array of shape {column.shape} for {name!r}, from {num_rows:,}"
                        " rows"
                    )
        if wrong:
            raise DataError(
                f"--transform {self.name} {wrong}. Return a dict: the name of each feature → a 1-D"
                " NumPy array of numbers, a value a row."
            )
        return dict(made)


class TransformedReaders:
    """Readers of a data set whose features a transform makes; the contract of `Readers`.

    `dataset`: with the new columns.
    """

    def __init__(self, dataset: Dataset, transform: Transform):
        made = transform(
            {name: np.empty(0, dtype=dataset.decoded_type) for name in dataset.features}, 0
        )
        if dataset.target in made:
            raise ConfigError(
                f"--transform {transform.name} returns {dataset.target!r}, which is the target."
                " Name the feature otherwise."
            )
        types = {
            dataset.decoded_type,
            *(numpy_column(name, column.dtype).decoded_type for name, column in made.items()),
        }
        decoded_type = "float64" if "float64" in types else "float32"
        self.dataset = replace(dataset, columns=(*made, dataset.target), decoded_type=decoded_type)
        self._readers, self._transform = Readers(dataset), transform

    @property
    def traffic(self) -> Traffic:
        """As `Readers.traffic`."""
        return self._readers.traffic

    def read(self, shard: int, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """As `Readers.read`."""
        return self.apply(shard, start, stop, self._readers.read(shard, start, stop))

    def forward(self, shard: int) -> "TransformedForward":
        """As `Readers.forward`."""
        return TransformedForward(self, shard, self._readers.forward(shard))

    def apply(
        self, shard: int, start: int, stop: int, columns: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """The new columns of rows `[start, stop)` of a shard, target last, from the decoded
        ones.
        """
        try:
            made = self._transform(
                dict(zip(self._transform.inputs, columns, strict=False)), stop - start
            )
            if tuple(made) != self.dataset.features:
                before = ", ".join(self.dataset.features)
                raise DataError(
                    f"--transform {self._transform.name} returned {', '.join(made)}, and {before}"
                    " before."
                )
            made[self.dataset.target] = columns[-1]
            return tuple(
                decode_numpy(name, column, self.dataset.decoded_type)
                for name, column in made.items()
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
        """As `Readers.read`."""
        return self._readers.apply(self._shard, start, stop, self._forward.read(start, stop))

    def close(self) -> None:
        self._forward.close()


def load_transform(name: str, inputs: tuple[str, ...]) -> Transform:
    """Import `module:function` (stream/imported.py). Raises ConfigError."""
    function = import_function("--transform", name)
    return Transform(name=name, function=function, inputs=inputs, sha256=file_hash(function))


def _what(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    if isinstance(value, Mapping):
        return "a dict whose names are not text" if value else "no feature"
    return f"{type(value).__name__}"
