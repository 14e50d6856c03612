"""Names of files that are not UTF-8, which no record, report or Parquet reader could hold."""

import os

from streamtrain.errors import ConfigError, shown


def refuse_other_encodings(name: str | os.PathLike[str]) -> None:
    """Raise ConfigError for a path that is not UTF-8, before any work is done on it.

    Also for one with a NUL, which a config may have and no file.
    """
    if "\0" in os.fspath(name):
        raise ConfigError(f"{shown(os.fspath(name))}: a path has no NUL character. Correct it.")
    if not is_utf8(name):
        raise ConfigError(f"{shown(os.fspath(name))}: the name is not UTF-8. Rename it.")


def is_utf8(name: str | os.PathLike[str]) -> bool:
    """Return whether a path is UTF-8; Python keeps other bytes as lone surrogates."""
    try:
        os.fspath(name).encode()
    except UnicodeEncodeError:
        return False
    return True
