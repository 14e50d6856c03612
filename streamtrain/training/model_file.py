"""Read and check `model.json` and the header of `model.safetensors` before a model is built.

A model may come from somebody else. So every field is checked for type and bounds, no code is
imported that the caller does not name too, and no memory is allocated for tensors that the file
does not hold.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import safe_open

from streamtrain.base.budget import available_bytes
from streamtrain.base.units import format_bytes
from streamtrain.base.untrusted import read_document
from streamtrain.errors import ConfigError, DataError, ResourceError, shown
from streamtrain.records import parse
from streamtrain.types import Datetime

_MAX_JSON_BYTES = 1 << 26

_Name = Annotated[str, Field(max_length=4096)]
_Code = Annotated[str, Field(max_length=500, pattern=r"^[\w.]+:\w+$")]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Width = Annotated[int, Field(ge=1, le=2**24)]
_Seed = Annotated[int, Field(ge=0)]

#: Shape and type of tensors by name.
TensorHeader = dict[str, tuple[list[int], str]]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedFactory:
    """The function that constructs a model: `Factory.to_json`."""

    function: _Code
    sha256: _Hash | None
    num_features: _Width
    seed: _Seed
    trial: _Seed


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTransform:
    """The function that makes a model's features: `Transform.record`."""

    function: _Code
    sha256: _Hash | None
    columns: Annotated[tuple[_Name, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """`model.json`: a perceptron's `widths` and `activation`, or a `factory`."""

    schema_version: Literal[1] = 1
    widths: Annotated[tuple[_Width, ...], Field(min_length=2, max_length=1024)] | None = None
    activation: Literal["relu", "tanh", "silu", "gelu", "identity"] | None = None
    factory: SavedFactory | None = None
    features: Annotated[tuple[_Name, ...], Field(min_length=1)]
    target: _Name
    transform: SavedTransform | None = None
    datetime: Datetime | None = None


def read_model_file(path: Path) -> SavedModel:
    """Read `model.json`.

    Raises FileNotFoundError, and DataError naming the file and the field that is wrong.
    """
    try:
        saved = parse(SavedModel, read_document(path, limit_bytes=_MAX_JSON_BYTES), "model")
    except DataError as error:
        prefix = "" if str(error).startswith(shown(str(path))) else f"{shown(str(path))}: "
        raise DataError(f"{prefix}{error}") from None
    features = len(saved.features)
    if saved.factory is not None:
        fits = saved.widths is None and saved.factory.num_features == features
    else:
        widths = saved.widths or ()
        fits = saved.activation is not None and widths[:1] == (features,) and widths[-1:] == (1,)
    if not fits:
        raise DataError(
            f"{shown(str(path))}: its widths do not fit its {features:,} features and one target."
            " Restore the file."
        )
    return saved


def check_named(folder: Path, flag: str, saved: str | None, named: str | None) -> None:
    """Check that the caller names the code that a model's file names.

    Raises ConfigError, which says how to name it: a file never decides what is imported.
    """
    if saved == named:
        return
    place = shown(str(folder))
    if saved is None:
        raise ConfigError(
            f"{flag} {named}: the model in {place} was trained without. Leave it out."
        )
    if named is None:
        raise ConfigError(
            f"{place}: the model needs the function {shown(saved)}. Code that a file names is"
            f" not imported: if you trust it, name it too, {flag} {shown(saved)}."
        )
    raise ConfigError(
        f"{flag} {named}: the model in {place} was trained with {shown(saved)}. Name that one."
    )


def read_tensor_header(path: Path) -> TensorHeader:
    """Return the shape and type of every tensor of a safetensors file by name.

    Raises OSError, SafetensorError, DataError for anything but a regular file, and ResourceError
    for one that is too large to be mapped.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError(f"{shown(str(path))}: it is not a file")
    found: TensorHeader = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - it is not a dict
                tensor = file.get_slice(name)
                found[name] = (tensor.get_shape(), tensor.get_dtype())
    except MemoryError:
        raise ResourceError(
            f"{shown(str(path))}: a file of {format_bytes(os.path.getsize(path))} does not fit the"
            " memory that this process may use. Close other programs."
        ) from None
    return found


def check_tensors(path: Path, found: TensorHeader, expected: dict[str, torch.Tensor]) -> None:
    """Compare what a safetensors file holds with the tensors that a model has.

    `expected` may be on the device `meta`. Raises DataError for tensors of other names, types or
    shapes, and ResourceError for more than the memory holds.
    """
    for name in sorted({*expected, *found}):
        wanted = expected.get(name)
        if name not in found or wanted is None:
            which = "unknown" if wanted is None else "missing"
            raise DataError(f"{shown(str(path))}: tensor {shown(name)!r} is {which}. Restore it.")
        shape, dtype = found[name]
        if shape != list(wanted.shape) or _DTYPES.get(dtype) != wanted.dtype:
            raise DataError(
                f"{shown(str(path))}: tensor {shown(name)!r} is {dtype} {shape}, and model.json"
                f" says {wanted.dtype} {list(wanted.shape)}. Restore both files."
            )
    needed = 2 * sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    if needed > (available := available_bytes()):
        raise ResourceError(
            f"{shown(str(path))}: the model needs {format_bytes(needed)} to be loaded, and"
            f" {format_bytes(available)} is available. Close other programs."
        )
