"""What the numbers of a run depend on, as flat JSON values by name.

A run is resumed only when all of them are unchanged.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from streamtrain.config import ClusterConfig, Config
from streamtrain.types import Json

#: Keys of the config that change no number of a run: where the data are (their contents are
#: compared instead), the numbers of readers, threads and bytes, when the run is saved, and which
#: cluster does the work.
FREE_KEYS = frozenset(
    {
        "data.path",
        "data.eval_data",
        "data.storage_options",
        "fetch.memory",
        "fetch.readers",
        "fetch.timeout_seconds",
        "train.threads",
        "checkpoint.every_seconds",
        "checkpoint.keep",
        *(
            f"cluster.{name}"
            for name in ClusterConfig.model_fields
            if name not in ("sync", "shares", "round_rows", "lanes")
        ),
    }
)


def config_fingerprint(config: Config | Mapping[str, Any]) -> Json:
    """Return the values that are not `FREE_KEYS` of a config, or of a `run` record's, by key."""
    sections = config.model_dump(mode="json") if isinstance(config, Config) else config
    flat = {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in values.items()
    }
    return {key: value for key, value in flat.items() if key not in FREE_KEYS}


def array_hash(array: np.ndarray | None) -> str | None:
    """Return a hash of an array's bytes, type and shape: 16 hex digits; None for None."""
    if array is None:
        return None
    head = f"{array.dtype.str} {array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def differences(
    was: Mapping[str, Any], now: Mapping[str, Any], *, names: Iterable[str] | None = None
) -> list[str]:
    """Return one phrase per value that differs; only values of `names`, if given.

    >>> differences({"a.b": 1, "c": [1]}, {"a.b": 2, "c": (1,), "d": None})
    ['a.b was 1, is 2']
    """
    names = [*was, *(name for name in now if name not in was)] if names is None else names
    pairs = ((name, was.get(name), now.get(name)) for name in names)
    return [
        f"{name} was {_text(a)}, is {_text(b)}"
        for name, a, b in pairs
        if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True)
    ]


def _text(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}…"
