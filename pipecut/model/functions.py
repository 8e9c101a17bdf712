"""Find `module:function` in the current folder, the YAML file's folder, or what is installed."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pipecut.errors import PipecutError, UserFileError
from pipecut.plan.schema import ModelRef

PIPECUT, PYTHON = f"{Path(__file__).parents[1]}{os.sep}", f"{Path(os.__file__).parent}{os.sep}"


def function_of_plan(name: str, model: ModelRef) -> Callable[..., Any]:
    """A function of a plan's model. Raises UserFileError as `find_function`, with the remedy."""
    refuse_missing_code(name, model)
    return find_function(name, map(Path, model.folders), "plan.yaml")


def inputs_of_plan(model: ModelRef) -> Callable[..., dict[str, Any]]:
    """The inputs function of a plan's model, bound to the factory's arguments that it takes.

    Raises UserFileError as `function_of_plan`.
    """
    return bound_inputs(function_of_plan(model.inputs, model), model.args)


def refuse_missing_code(name: str, model: ModelRef) -> None:
    """Raises UserFileError where the module of a plan's function is nowhere, without importing."""
    module = name.partition(":")[0].partition(".")[0]
    folders = list(dict.fromkeys([*map(Path, model.folders), Path.cwd()]))
    files = (folder / part for folder in folders for part in (module, f"{module}.py"))
    # What is no module:function at all is refused when it is looked up.
    if not module or any(file.exists() for file in files) or is_installed(module):
        return
    raise UserFileError(
        f"plan.yaml: the code of '{name}' is not here: no {module} in "
        f"{', '.join(map(str, folders))} nor in what is installed; give --code the folder that the "
        "model's code was moved to"
    )


def is_installed(module: str) -> bool:
    """Whether a module of that name would be found without the user's folders, not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def places_of_data(model: ModelRef) -> list[Path]:
    """Where the function that `--data` names is looked up: here, then where the model's are."""
    return [Path.cwd(), *map(Path, model.folders)]


def find_function(name: str, folders: Iterable[Path], where: str) -> Callable[..., Any]:
    """The function, imported. Raises UserFileError that says which half was not found.

    It is looked up in the folders, then in the current one, then in what is installed.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        example = f"{module_name or 'mymodule'}:function"
        raise UserFileError(f"{where}: '{name}' is no module:function; write it like {example}")
    searched = list(dict.fromkeys([*map(str, folders), str(Path.cwd())]))
    for folder in reversed(searched):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserFileError(
            f"{where}: cannot import '{module_name}' of '{name}': {error}; looked in "
            f"{', '.join(searched)} and what is installed"
        ) from None
    except (Exception, SystemExit) as error:
        raise UserFileError(
            f"{where}: importing '{module_name}' failed: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserFileError(f"{where}: module '{module_name}' has no function '{function_name}'")
    return function  # type: ignore[no-any-return]


def bound_inputs(
    function: Callable[..., Any], args: Mapping[str, Any]
) -> Callable[..., dict[str, Any]]:
    """The inputs function with those of the factory's arguments that it also takes by keyword only.

    A length that is one of them has the factory's value as its longest.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in args]
    return partial(function, **{name: args[name] for name in named}) if named else function


@contextmanager
def calling(subject: str, raised: type[PipecutError] = UserFileError) -> Iterator[None]:
    """Turn what the user's code raises, an exit too, into an error of pipecut.

    The error is of the class `raised`, and names `subject`, file and line.
    """
    try:
        yield
    except PipecutError:
        raise
    except (Exception, SystemExit) as error:
        frame = user_frame(error)
        where = f" at {frame}" if frame else ""
        text = " ".join(str(error).split())
        raise raised(f"{subject} failed{where}: {type(error).__name__}: {text}") from error


def user_frame(error: BaseException) -> str:
    """file:line of the user's code closest to where an error was raised; empty if there is none."""
    line, frame = "", error.__traceback__
    while frame is not None:
        path = frame.tb_frame.f_code.co_filename
        line = line if is_machinery(path) else f"{path}:{frame.tb_lineno}"
        frame = frame.tb_next
    return line


def running_user_frame(frame: FrameType | None) -> FrameType | None:
    """The frame of the user's code closest to a frame, among those that called it, or itself.

    None where no code of the user's runs.
    """
    while frame is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def is_machinery(path: str) -> bool:
    """Whether a file is pipecut's, torch's, Python's own, or none at all."""
    torch = sys.modules.get("torch")
    # "<string>" and the like are no files.
    machinery = [PIPECUT, "<"]
    if torch is not None and torch.__file__:
        machinery.append(f"{Path(torch.__file__).parent}{os.sep}")
    of_python = path.startswith(PYTHON) and not path.startswith(f"{PYTHON}site-packages{os.sep}")
    return path.startswith(tuple(machinery)) or of_python
