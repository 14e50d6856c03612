"""The folder of the user for files that can be made again."""

import os
import stat
import sys
import tempfile
from pathlib import Path

from streamtrain.base.utf8_names import is_utf8


def user_cache() -> Path | None:
    """Return the folder, which need not exist; None where no folder can be written.

    `$XDG_CACHE_HOME/streamtrain`, else `~/.cache/streamtrain`, on macOS
    `~/Library/Caches/streamtrain`. Where that cannot be written, as in a container with a read-only
    home folder or for a user without one, it is a private folder beside temporary files.
    """
    home = _home_cache()
    if home is not None and is_utf8(home) and _can_be_written(home):
        return home
    return _temporary_cache()


def _home_cache() -> Path | None:
    # a relative XDG_CACHE_HOME is invalid by its specification
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if os.path.isabs(base):
            folder = Path(base)
        elif sys.platform == "darwin":
            folder = Path.home() / "Library" / "Caches"
        else:
            folder = Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry for this user
        return None
    return folder / "streamtrain"


def _can_be_written(folder: Path) -> bool:
    """Return whether the folder is writable, or can be made in the nearest one that exists."""
    for parent in (folder, *folder.parents):
        if os.path.lexists(parent):
            return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return False


def _temporary_cache() -> Path | None:
    """Return a folder that only this user can read and write; None where another user made it."""
    try:
        folder = Path(tempfile.gettempdir()) / f"streamtrain-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(folder)
    except OSError:
        return None
    is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return folder if is_private and status.st_uid == os.getuid() else None
