"""The user's own files that a model is made of, by their imports: what may change after a plan was compiled."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipecut.plan.folder import file_hash
from pipecut.plan.schema import ModelRef

# Folders of what is installed, which may lie within the user's.
INSTALLED = {"site-packages", "dist-packages"}
SHORT = 12


def source_hashes(functions: Iterable[str | None], folders: Iterable[Path]) -> dict[str, str]:
    """The files of these `module:function`s and of all that they import, which lie in the folders.

    By path within the folder, the start of their sha256. Imports within functions count too; installed packages do not.
    """
    places = list(dict.fromkeys(folders))
    found: dict[str, str] = {}
    todo = [name.partition(":")[0] for name in functions if name]
    seen: set[str] = set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        file = _file_of(module, places)
        if file is None:
            continue
        relative, path = file
        found[relative] = file_hash(path)[:SHORT]
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        todo += _imports(path, package)
    return dict(sorted(found.items()))


def hashes_here(model: ModelRef) -> dict[str, str]:
    """Of the files that the plan names, those that this machine has."""
    found = {}
    for name in model.sources:
        path = next((place / name for place in _places(model) if (place / name).is_file()), None)
        if path is not None:
            found[name] = file_hash(path)[:SHORT]
    return found


def changed_sources(model: ModelRef) -> list[str]:
    """The files that are here and not as they were when the plan was compiled."""
    return [name for name, now in hashes_here(model).items() if now != model.sources[name]]


def _places(model: ModelRef) -> list[Path]:
    """Where the model's functions are looked up, in that order."""
    return list(dict.fromkeys([Path.cwd(), *map(Path, model.folders)]))


def _file_of(module: str, folders: list[Path]) -> tuple[str, Path] | None:
    """A module's file, within its folder and whole."""
    relative = module.replace(".", "/")
    for folder in folders:
        for name in (f"{relative}.py", f"{relative}/__init__.py"):
            path = folder / name
            inside = path.is_file() and not INSTALLED & set(path.resolve().parts)
            if inside and module.partition(".")[0] not in ("pipecut", *sys.stdlib_module_names):
                return name, path
    return None


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names that may be modules: of every import in a file, and of its parts. None of a file that is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: length + 1]) for length in range(len(parts)))
