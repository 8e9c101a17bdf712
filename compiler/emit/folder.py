"""The plan folder, written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.emit.graph import graph_of
from pipecut.compiler.partition.standalone.read import as_data
from pipecut.compiler.stages.cut import modules_covered
from pipecut.compiler.stages.source import write_stage
from pipecut.errors import PlanError, UserFileError
from pipecut.plan.folder import (
    GRAPH,
    MANIFEST,
    PlanFolder,
    file_hash,
    listed_files,
    read_plan,
    write_plan,
)
from pipecut.plan.schema import Plan
from pipecut.plan.trust import trust


@contextmanager
def emit(plan: Plan, costed: CostedGraph, draft: Draft, target: Path) -> Iterator[PlanFolder]:
    """Write a plan folder beside the target, which `publish` puts in place; removed where it is not.

    Raises UserFileError where the folder, or its target within the `with`, cannot be written.
    """
    target = target.resolve()
    with _naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _naming(target):
            _write_files(scratch, costed, draft)
            files = sorted(p for p in scratch.rglob("*") if p.is_file())
            hashes = {str(p.relative_to(scratch)): file_hash(p) for p in files}
            write_plan(scratch, plan.model_copy(update={"hashes": hashes}))
            yield read_plan(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(folder: PlanFolder, target: Path) -> PlanFolder:
    """Put an emitted folder in place, and trust it on this machine.

    Of a plan that was there before, its own files alone are removed.
    """
    target = target.resolve()
    before = files_of_plan(target)
    os.chmod(folder.path, 0o755)
    _put_in_place(folder.path, target, before)
    trust(folder.plan.seal)
    return read_plan(target)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Raises UserFileError, with the target, in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise UserFileError(
            f"{target} cannot be written: {error.strerror or error}; give another -o"
        ) from None


def files_of_plan(target: Path) -> set[str]:
    """Files of the plan in a folder, by the manifest; none where nothing is there.

    Raises UserFileError where the folder has something that is no plan.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    try:
        return {MANIFEST, *listed_files(target)}
    except (PlanError, OSError):
        raise UserFileError(
            f"{target} exists and is no plan folder; give another -o, or remove it"
        ) from None


def _put_in_place(scratch: Path, target: Path, before: set[str]) -> None:
    """The new files in place of the old plan's. Whatever else is in the folder stays: checkpoints, weights, notes."""
    present = (
        {str(p.relative_to(target)) for p in target.rglob("*") if not p.is_dir()}
        if target.exists()
        else set()
    )
    cached = {
        name
        for name in present
        if Path(name).parent.name == "__pycache__" and name.startswith("stages")
    }
    if not present - cached - before:
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
        return
    new = sorted(str(p.relative_to(scratch)) for p in scratch.rglob("*") if p.is_file())
    # The manifest last: a reader in between finds hashes that differ, and is told so.
    for name in sorted(new, key=lambda name: name == MANIFEST):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / name, target / name)
    for name in (before - set(new)) | cached:
        (target / name).unlink(missing_ok=True)


def _write_files(folder: Path, costed: CostedGraph, draft: Draft) -> None:
    cuts, actions = draft.scheduled.cuts, draft.scheduled.actions
    graph = costed.graph
    stages = folder / "stages"
    stages.mkdir()
    for one in cuts:
        covered = modules_covered([graph.operators[i] for i in one.operators])
        source = write_stage(graph, one, len(cuts), covered)
        (stages / f"stage_{one.index}.py").write_text(source, encoding="utf-8")
        if one.buffers:
            data = {b.names[0]: b.data.contiguous().clone() for b in one.buffers}
            save_file(data, str(stages / f"stage_{one.index}.safetensors"))
    rows = "\n".join("  - [" + ", ".join(map(str, row)) + "]" for row in actions)
    (folder / "schedule.yaml").write_text(
        f"# Actions of each rank in order: KIND stage.microbatch\nranks:\n{rows}\n"
    )
    data = graph_of(costed, draft.placement, cuts).model_dump(exclude_unset=True)
    data["problem"] = as_data(draft.placement.problem)
    (folder / GRAPH).write_text(json.dumps(data, indent=0))
