"""Functions of the user's own, named `module:function`.

`--transform` and `--model` import them by one rule.
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, first_line


def import_function(flag: str, name: str) -> Callable[..., Any]:
    """Import `module:function`; modules of the current folder are found.

    `flag` is who asks: `--transform`.

    Raises ConfigError with a did-you-mean.
    """
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise ConfigError(
            f"{flag} {name}: write module:function, for a file my_module.py my_module:function."
        )
    try:
        with _current_folder_importable():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            here = [path.stem for path in Path.cwd().glob("*.py")]
            raise ConfigError(
                f"{flag} {name}: there is no module {error.name!r}.{did_you_mean(error.name, here)}"
                " Modules are looked for in the current folder and where Python finds its own."
            ) from None
        raise ConfigError(
            f"{flag} {name}: importing {module_name} failed: {error}. Install what it needs."
        ) from error
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(
            f"{flag} {name}: importing {module_name} failed: {what}. Mend the module."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"{flag} {name}: {module_name} has no function"
            f" {function_name!r}.{did_you_mean(function_name, known)}"
        )
    return function


def file_hash(function: Callable[..., Any]) -> str | None:
    """SHA-256 of the file a function stands in; None without a file."""
    try:
        return hashlib.sha256(
            Path(inspect.getsourcefile(inspect.unwrap(function)) or "").read_bytes()
        ).hexdigest()
    except (TypeError, OSError):
        return None


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # a file written a moment ago may be missing in them
    try:
        yield
    finally:
        sys.path.remove(folder)
