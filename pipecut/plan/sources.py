"""The user's own files that a model is made of: what may change after a plan was compiled."""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipecut.plan.safe_files import file_hash
from pipecut.plan.schema import ModelRef

# Folders of what is installed, which may lie within the user's.
INSTALLED = {"site-packages", "dist-packages"}
# Letters of a sha256 that are enough to tell an edit.
SHORT = 12


@dataclass(frozen=True)
class ModuleFile:
    """A module's file: its name within the folder that it was found in, and its path."""

    name: str
    path: Path


def source_hashes(functions: Iterable[str | None], folders: Iterable[Path]) -> dict[str, str]:
    """The files of `module:function`s, and of all that these import, as far as they lie in folders.

    By path within the folder, the start of their sha256. Imports within functions count too;
    installed packages do not.
    """
    places = list(dict.fromkeys(folders))
    hashes: dict[str, str] = {}
    waiting = [function.partition(":")[0] for function in functions if function]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        file = _file_of(module, places)
        if file is None:
            continue
        hashes[file.name] = file_hash(file.path)[:SHORT]
        is_package = file.path.name == "__init__.py"
        waiting += _imports(file.path, module if is_package else module.rpartition(".")[0])
    return dict(sorted(hashes.items()))


def hashes_here(model: ModelRef) -> dict[str, str]:
    """Of the files that the plan names, those that this machine has."""
    # In the order in which the model's functions are looked up.
    folders = list(dict.fromkeys([*map(Path, model.folders), Path.cwd()]))
    files = {
        name: next((folder / name for folder in folders if (folder / name).is_file()), None)
        for name in model.sources
    }
    return {name: file_hash(file)[:SHORT] for name, file in files.items() if file is not None}


def changed_sources(model: ModelRef) -> list[str]:
    """The files that are here and not as they were when the plan was compiled."""
    return [name for name, now in hashes_here(model).items() if now != model.sources[name]]


def _file_of(module: str, folders: Sequence[Path]) -> ModuleFile | None:
    """A module's file, where it is the user's own."""
    if module.partition(".")[0] in ("pipecut", *sys.stdlib_module_names):
        return None
    relative = module.replace(".", "/")
    for folder in folders:
        for name in (f"{relative}.py", f"{relative}/__init__.py"):
            path = folder / name
            if path.is_file() and not INSTALLED & set(path.resolve().parts):
                return ModuleFile(name, path)
    return None


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names in a file's imports that may be modules, with their parents; none of a broken file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        for name in _imported(node, package):
            parts = name.split(".")
            yield from (".".join(parts[: length + 1]) for length in range(len(parts)))


def _imported(node: ast.AST, package: str) -> list[str]:
    """What an import names: `from ..a import b` names the module `a` two levels up, and `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents = package.split(".")
    above = parents[: len(parents) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]
