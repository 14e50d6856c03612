"""A trained model as a torch module, from raw features to predictions in the target's units."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors.torch import save

from streamtrain.errors import DataError
from streamtrain.training.model import Model
from streamtrain.training.usual_torch import usual_torch
from streamtrain.types import Datetime, Json, Standardization

#: Rows of an array that are predicted together.
_TILE_ROWS = 1024


class Network(torch.nn.Module):
    """A trained model on raw features: float32 (rows, features) → (rows, 1), in the target's units.

    `features` and `target` are the names of the columns. Standardization is part of the model, as
    buffers, and is done in float64, also after `half()`, which changes the layers alone. So is
    imputation when `fill` is given: float64 (features,), the values that replace non-finite ones.
    `transform` names the function that computed the features (stream/transform.py); the model takes
    the output of that function. `datetime`: what dates and times became in training (`--datetime`).
    """

    fill: torch.Tensor | None
    mean: torch.Tensor
    scale: torch.Tensor

    _layers_dtype = torch.float32

    def __init__(
        self,
        shape: Model,
        standard: Standardization,
        features: tuple[str, ...],
        target: str,
        *,
        fill: np.ndarray | None = None,
        transform: Json | None = None,
        datetime: Datetime | None = None,
    ):
        super().__init__()
        self.shape = shape
        self.features = features
        self.target = target
        self.transform = transform
        self.datetime = datetime
        self.register_buffer("fill", None if fill is None else double(fill))
        self.register_buffer("mean", double(standard.mean))
        self.register_buffer("scale", double(standard.scale))
        self.layers = shape.module()

    @property
    def is_coarse(self) -> bool:
        """True when float32 is too coarse for predictions.

        That is when the target's mean is so far from 0 that rounding changes a prediction by more
        than 2^-11 of the target's standard deviation.
        """
        return abs(float(self.mean[-1] * self.scale[-1])) > 2**13

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict from raw features (rows, features): float32 (rows, 1)."""
        return self._predict(x).to(torch.float32)

    @overload
    def predict(self, x: torch.Tensor) -> torch.Tensor: ...

    @overload
    def predict(self, x: ArrayLike) -> np.ndarray: ...

    def predict(self, x: Any) -> Any:
        """Predict from raw features without rounding to float32.

        A tensor (rows, features) gives a tensor, float64 (rows, 1). An array gives an array,
        float64 (rows,), and so does a table with column names, from which the features are taken by
        name. The difference to float32 matters when the model `is_coarse`.

        Raises DataError for another number of features, and for a feature that a table lacks.
        """
        if isinstance(x, torch.Tensor):
            return self._predict(x)
        x = self._features_of(x)
        tiles = [_padded(x[start : start + _TILE_ROWS]) for start in range(0, len(x), _TILE_ROWS)]
        with usual_torch(), torch.inference_mode():
            predictions = [self._predict(torch.from_numpy(tile))[:, 0].numpy() for tile in tiles]
        return np.concatenate([np.empty(0), *predictions])[: len(x)]

    def _predict(self, x: torch.Tensor) -> torch.Tensor:
        standard = self._standardize(x)
        if self.fill is not None:
            standard = torch.where(standard.isfinite(), standard, self._standardize(self.fill))
        return self.layers(standard).to(torch.float64) / self.scale[-1] + self.mean[-1]

    def _standardize(self, x: torch.Tensor) -> torch.Tensor:
        self._check_width(x.shape)
        standard = (x.to(torch.float64) - self.mean[:-1]) * self.scale[:-1]
        return standard.to(self._layers_dtype)

    def _features_of(self, x: Any) -> np.ndarray:
        is_arrow = hasattr(x, "column_names")
        names = x.column_names if is_arrow else getattr(x, "columns", None)
        if names is not None:
            missing = [name for name in self.features if name not in names]
            if missing:
                raise DataError(
                    f"the table has no column {missing[0]!r}; the model takes"
                    f" {', '.join(self.features)}. Pass an array to go by the order of the columns."
                )
            x = x.select(self.features) if is_arrow else x[list(self.features)]
        x = np.asarray(x, dtype=np.float64)
        self._check_width(x.shape)
        return x

    def _check_width(self, shape: Sequence[int]) -> None:
        if not shape or shape[-1] != len(self.features):
            raise DataError(
                f"the model takes {len(self.features)} features ({', '.join(self.features)}), and"
                f" got values of shape {tuple(shape)}. Pass (rows, {len(self.features)})."
            )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Network":
        """Move the model or change the dtype of its layers; standardization stays in float64.

        In half precision a mean above 65,504 would be infinite.
        """
        buffers = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        one = torch.ones((), dtype=self._layers_dtype, device=self.mean.device)
        self._layers_dtype = fn(one).dtype
        for name, before in buffers.items():
            after = getattr(self, name)
            if after.dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        return self

    def load_flat(self, flat_P: np.ndarray) -> None:
        """Set the parameters to the values of one replica, (P,)."""
        self.shape.load_flat(self.layers, flat_P)

    def tensor_bytes(self) -> bytes:
        """Return the content of a safetensors file with the parameters and buffers."""
        return save(
            {
                name: tensor.detach().cpu().contiguous().clone()
                for name, tensor in self.state_dict().items()
            }
        )


def _padded(x: np.ndarray) -> np.ndarray:
    """Return a copy filled up to _TILE_ROWS rows with zeros.

    BLAS rounds matrix products of different shapes differently; with tiles of one shape the
    prediction of a row does not depend on the other rows.
    """
    return np.concatenate([x, np.zeros((_TILE_ROWS - len(x), x.shape[1]))])


def double(values: np.ndarray) -> torch.Tensor:
    """Return a copy of values as a tensor of float64."""
    return torch.from_numpy(np.array(values, dtype=np.float64))
