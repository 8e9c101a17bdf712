"""`module:function`, looked up from the current folder, the YAML file's folder, then what is installed."""

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipecut.errors import UserFileError


def find_function(name: str, folders: Iterable[Path], where: str) -> Callable[..., Any]:
    """The function, imported. Raises UserFileError that says which half was not found."""
    module_name, _, function_name = name.partition(":")
    places = list(dict.fromkeys([str(Path.cwd()), *map(str, folders)]))
    for place in reversed(places):
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserFileError(
            f"{where}: cannot import '{module_name}' of '{name}': {error}; looked in {', '.join(places)} and what is installed"
        ) from None
    except Exception as error:
        raise UserFileError(f"{where}: importing '{module_name}' failed: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserFileError(f"{where}: module '{module_name}' has no function '{function_name}'")
    return function  # type: ignore[no-any-return]
