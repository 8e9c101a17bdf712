"""The plan folder, written whole or not at all."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.graph import Graph
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.partition.standalone.read import as_data
from pipecut.compiler.stages.cut import Cut, modules_covered
from pipecut.compiler.stages.source import write_stage
from pipecut.errors import PlanError, UserFileError
from pipecut.plan.check import check
from pipecut.plan.folder import MANIFEST, file_hash, listed_files, read_plan, write_plan
from pipecut.plan.schema import Plan
from pipecut.plan.trust import trust


def write_folder(target: Path, plan: Plan, costed: CostedGraph, draft: Draft) -> list[str]:
    """Write beside the target, read it back, run the checker on it, then put it in place. Returns what the checker proved.

    Of a plan that was there before, its own files alone are removed. Raises UserFileError when the target is something else
    than a plan, PlanError when the check fails.
    """
    target = target.resolve()
    before = files_of_plan(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserFileError(
            f"{target} cannot be written: {error.strerror}; give another -o"
        ) from None
    try:
        _write_files(scratch, costed, draft)
        files = sorted(p for p in scratch.rglob("*") if p.is_file())
        hashes = {str(p.relative_to(scratch)): file_hash(p) for p in files}
        seal = write_plan(scratch, plan.model_copy(update={"hashes": hashes}))
        proof = check(read_plan(scratch))
        os.chmod(scratch, 0o755)
        _put_in_place(scratch, target, before)
        trust(seal)
    except OSError as error:
        raise UserFileError(
            f"{target} cannot be written: {error.strerror or error}; give another -o"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return proof


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
    (folder / "graph.json").write_text(json.dumps(_graph(costed, draft.placement, cuts), indent=0))


def _graph(costed: CostedGraph, placement: Placement, cuts: tuple[Cut, ...]) -> dict[str, Any]:
    graph = costed.graph
    operators = []
    for index, operator in enumerate(graph.operators):
        one = costed.costs[index]
        operators.append(
            {
                "name": operator.name,
                "target": operator.target,
                "module": operator.module,
                "source": operator.source.strip(" ()"),
                "inputs": list(operator.inputs),
                "stage": min(placement.stages_of[index]),
                **_others(placement.stages_of[index]),
                "forward_seconds": one.forward,
                "backward_seconds": one.backward,
                "saved_bytes": costed.saved.get(operator.name, 0) + one.saved_own_bytes,
                "transient_bytes": one.transient_bytes,
            }
        )
    values = {
        v.name: {
            "shape": list(v.shape),
            "dtype": v.dtype,
            "bytes": v.bytes,
            "needs_grad": v.needs_grad,
        }
        for v in graph.values.values()
    }
    parameters = [
        {"value": p.value, "names": list(p.names), "bytes": p.bytes, "trainable": p.trainable}
        for p in graph.parameters
    ]
    buffers = [{"value": b.value, "names": list(b.names)} for b in graph.buffers]
    facts = {
        "loss": graph.loss,
        "operators": operators,
        "values": values,
        "parameters": parameters,
        "buffers": buffers,
    }
    return {**facts, **_evaluation(graph, cuts), "problem": as_data(placement.problem)}


def _evaluation(graph: Graph, cuts: tuple[Cut, ...]) -> dict[str, Any]:
    """The graph of eval mode with its stages, where it is one of its own."""
    own = graph.evaluation
    stage_of = {
        i: one.index for one in cuts if one.evaluation is not None for i in one.evaluation.operators
    }
    if own is None or not stage_of:
        return {}
    operators = [
        {
            "name": o.name,
            "target": o.target,
            "module": o.module,
            "inputs": list(o.inputs),
            "stage": stage_of[index],
        }
        for index, o in enumerate(own.operators)
    ]
    outputs = {output.name: output.value for output in own.outputs}
    buffers = [{"value": b.value, "names": list(b.names)} for b in own.buffers]
    return {
        "evaluation": {
            "loss": own.loss,
            "operators": operators,
            "outputs": outputs,
            "buffers": buffers,
        }
    }


def _others(stages: frozenset[int]) -> dict[str, Any]:
    """All stages that make it for themselves, where several do."""
    return {"stages": sorted(stages)} if len(stages) > 1 else {}
