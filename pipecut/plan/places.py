"""Where a plan's model lies: written as a way from the plan folder, read as places on this machine.

So a plan names no place of the machine that compiled it, and plan and code may be moved together.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pipecut.plan.schema import ModelRef, Plan, Source

Place = Callable[[str], str]
# How a place begins, where a name may stand as well: a cluster is a file or has a name of specs.
MARKS = ("./", "../", "/")


def located(plan: Plan, folder: Path, code: Path | None = None) -> Plan:
    """A plan as it is written in a folder, with the places that it means.

    What it has within its code's folder, the weights too, is looked for in `code` where that is
    given.
    """
    base = folder.resolve()
    places = [Path(os.path.normpath(base / name)) for name in plan.model.folders]
    root = code_folder(places)

    def place(name: str) -> str:
        found = Path(os.path.normpath(base / name))
        if code is not None and root is not None and found.is_relative_to(root):
            found = code.resolve() / found.relative_to(root)
        return str(found)

    moved = _with_places(plan, place)
    if code is None:
        return moved
    folders = list(dict.fromkeys([str(code.resolve()), *moved.model.folders]))
    return moved.model_copy(update={"model": moved.model.model_copy(update={"folders": folders})})


def as_written(plan: Plan, folder: Path) -> Plan:
    """A plan with the ways to its places from a folder; what is no place on its own stays."""
    base = folder.resolve()

    def way(name: str) -> str:
        if not Path(name).is_absolute():
            return name
        relative = os.path.relpath(name, base)
        return relative if relative.startswith((".", "..")) else f"./{relative}"

    return _with_places(plan, way)


def code_folder(folders: Sequence[Path]) -> Path | None:
    """The one that has all others within it, or the last, which is the job file's."""
    around = [folder for folder in folders if all(f.is_relative_to(folder) for f in folders)]
    return next(iter([*around, *folders[-1:]]), None)


def _with_places(plan: Plan, place: Place) -> Plan:
    source = None if plan.source is None else _source(plan.source, place)
    return plan.model_copy(update={"model": _model(plan.model, place), "source": source})


def _model(model: ModelRef, place: Place) -> ModelRef:
    weights = None if model.weights is None else place(model.weights)
    folders = [place(folder) for folder in model.folders]
    return model.model_copy(update={"folders": folders, "weights": weights})


def _source(source: Source, place: Place) -> Source:
    is_file = source.cluster.startswith(MARKS)
    cluster = place(source.cluster) if is_file else source.cluster
    return source.model_copy(update={"job": place(source.job), "cluster": cluster})
