"""Errors of failed writes that name the path, the cause and the next step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamtrain.errors import ResourceError


@contextmanager
def naming_path(path: Path, advice: str) -> Iterator[None]:
    """Turn an OSError within the block into a ResourceError that names `path`.

    The system names no path where a descriptor was written to, and a temporary one where a file was
    renamed into place.
    """
    try:
        yield
    except OSError as failure:
        reason = os.strerror(failure.errno) if failure.errno else str(failure)
        raise ResourceError(f"{path}: cannot be written ({reason}). {advice}") from failure
