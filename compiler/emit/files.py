"""The files of a plan folder but its manifest: stages, schedule, graph, and what was compared."""

import json
from pathlib import Path

from safetensors.torch import save_file

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.emit.graph import graph_of
from pipecut.compiler.partition.standalone.graph_json import as_data
from pipecut.compiler.stages.cut import Cut
from pipecut.plan.edit.sealing import refuse_other_code, schedule_text
from pipecut.plan.folder import GRAPH, SCHEDULE, file_hash
from pipecut.plan.schema.explanation import EXPLANATION, Explanation


def write_files(
    folder: Path, costed: CostedGraph, draft: Draft, explanation: Explanation | None = None
) -> dict[str, str]:
    """Write them into an empty folder. Returns the sha256 of each, by its path within it.

    Raises PlanError where the code of a stage came out as no Python: no such plan is published.
    """
    cuts = draft.scheduled.cuts
    (folder / "stages").mkdir()
    for cut, code in zip(cuts, draft.code, strict=True):
        _write_stage(folder / "stages" / f"stage_{cut.index}.py", cut, code)
    (folder / SCHEDULE).write_text(schedule_text(draft.scheduled.actions))
    graph = graph_of(costed, draft.placement, cuts).model_dump(exclude_unset=True)
    graph["problem"] = as_data(draft.placement.problem)
    (folder / GRAPH).write_text(json.dumps(graph, indent=0))
    if explanation is not None:
        (folder / EXPLANATION).write_text(explanation.model_dump_json(indent=0))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in files}


def _write_stage(file: Path, cut: Cut, code: str) -> None:
    """The stage's code, and beside it its buffers, where it has any."""
    file.write_text(code, encoding="utf-8")
    refuse_other_code(file, f"Stage{cut.index}")
    if cut.buffers:
        data = {buffer.names[0]: buffer.data.contiguous().clone() for buffer in cut.buffers}
        save_file(data, str(file.with_suffix(".safetensors")))
