"""What the numbers of a run depend on, as flat JSON values by name.

A run is resumed only when all of them are unchanged.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamtrain.config import ClusterConfig, Config, with_holdout_seed
from streamtrain.errors import ConfigError
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
        "checkpoint.same_data",
        *(
            f"cluster.{name}"
            for name in ClusterConfig.model_fields
            if name not in ("sync", "shares", "round_rows", "lanes")
        ),
    }
)

#: Entries of a fingerprint that older checkpoints lack.
NEW_ENTRIES = ("the manifest", "file stamps")


def config_fingerprint(config: Config | Mapping[str, Any]) -> Json:
    """Return the values that are not `FREE_KEYS` of a config, or of a `run` record's, by key."""
    sections = config.model_dump(mode="json") if isinstance(config, Config) else config
    flat = with_holdout_seed(
        {
            f"{section}.{name}": value
            for section, values in sections.items()
            for name, value in values.items()
        }
    )
    return {key: value for key, value in flat.items() if key not in FREE_KEYS}


def array_hash(array: np.ndarray | None) -> str | None:
    """Return a hash of an array's bytes, type and shape: 16 hex digits; None for None."""
    if array is None:
        return None
    head = f"{array.dtype.str} {array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def check_unchanged(run: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run may be resumed: what its numbers depend on is as it was.

    Raises ConfigError with each difference.
    """
    if changed := differences(was, now):
        raise ConfigError(
            f"{run} cannot be resumed: {'; '.join(changed)}. Use its original options"
            f" (`--resume {run}` alone takes them from the run), or choose another --out."
        )


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase per value that differs.

    >>> differences({"a.b": 1, "c": [1]}, {"a.b": 2, "c": (1,), "d": None})
    ['a.b was 1, is 2']
    """
    names = [*was, *(name for name in now if name not in was)]
    pairs = ((name, was.get(name), now.get(name)) for name in names)
    return [
        f"{name} was {_text(a)}, is {_text(b)}"
        for name, a, b in pairs
        if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True)
    ]


def _text(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}…"
