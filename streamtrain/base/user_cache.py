"""The folder of the user for files that can be made again."""

import os
import sys
from pathlib import Path


def user_cache() -> Path | None:
    """Return the folder, which need not exist; None without a home folder.

    `$XDG_CACHE_HOME/streamtrain`, else `~/.cache/streamtrain`, on macOS
    `~/Library/Caches/streamtrain`.
    """
    # a relative XDG_CACHE_HOME is invalid by its specification
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if os.path.isabs(base):
            folder = Path(base)
        elif sys.platform == "darwin":
            folder = Path.home() / "Library" / "Caches"
        else:
            folder = Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "streamtrain"
