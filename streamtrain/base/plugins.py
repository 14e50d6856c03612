"""User functions named `module:function`, as `--transform` and `--model` import them."""

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
    """Import `module:function` from the current folder or from where Python finds modules.

    `flag` is the option that names it, for messages. Raises ConfigError, with a suggestion if a
    name is misspelt.
    """
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise ConfigError(
            f"{flag} {name}: write module:function, such as my_module:function for a file"
            " my_module.py."
        )
    try:
        with _current_folder_importable():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            modules_here = [path.stem for path in Path.cwd().glob("*.py")]
            raise ConfigError(
                f"{flag} {name}: there is no module"
                f" {error.name!r}.{did_you_mean(error.name, modules_here)} Modules are looked for"
                " in the current folder and on Python's module path."
            ) from None
        raise ConfigError(
            f"{flag} {name}: importing {module_name} failed: {error}. Install the missing module."
        ) from error
    except Exception as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(
            f"{flag} {name}: importing {module_name} failed: {cause}. Correct the module."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"{flag} {name}: {module_name} has no function"
            f" {function_name!r}.{did_you_mean(function_name, functions)}"
        )
    return function


def file_hash(function: Callable[..., Any]) -> str | None:
    """Return the SHA-256 of the file that defines a function; None if there is no such file."""
    try:
        source = Path(inspect.getsourcefile(inspect.unwrap(function)) or "")
        return hashlib.sha256(source.read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # they may lack a file that was written a moment ago
    try:
        yield
    finally:
        sys.path.remove(folder)
