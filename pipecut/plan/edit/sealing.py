"""A plan that a person edited, made a plan again: read, proven sound as it is now, then sealed."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, ActionTable
from pipecut.plan.check.check import check
from pipecut.plan.check.computes import computes_everything
from pipecut.plan.check.messages import in_order, no_deadlock
from pipecut.plan.check.placement import names_known
from pipecut.plan.edit.rescheduled import with_actions
from pipecut.plan.folder import MANIFEST, SCHEDULE, PlanFolder, file_hash, seal, write_seal
from pipecut.plan.safe_files import read_bytes, read_yaml
from pipecut.plan.trust import is_trusted, trust


def edited(path: Path) -> PlanFolder:
    """The plan as its files are now; where schedule.yaml was edited, with memory and seconds anew.

    Raises PlanError, for stage code that is no Python with file, line and column.
    """
    recorded = read_yaml(path / MANIFEST) if (path / MANIFEST).is_file() else None
    folder = seal(path)
    for stage in folder.plan.stages:
        refuse_other_code(path / stage.file, f"Stage{stage.index}")
    hashes = recorded.get("hashes", {}) if isinstance(recorded, dict) else {}
    if hashes.get(SCHEDULE) == folder.plan.hashes.get(SCHEDULE):
        return folder
    # What cannot be replayed is refused first, in words.
    names_known(folder.plan, folder.graph)
    computes_everything(folder.plan, folder.actions)
    in_order(folder.plan, folder.actions)
    no_deadlock(folder.plan, folder.actions)
    return with_actions(folder, ActionTable(folder.actions))


def proven(path: Path) -> tuple[PlanFolder, list[str]]:
    """The edited plan, and what was proven of it. Raises PlanError."""
    folder = edited(path)
    return folder, check(folder)


def schedule_text(actions: Sequence[Sequence[Action]]) -> str:
    """schedule.yaml: a line per pipeline rank."""
    rows = "\n".join(f"  - [{', '.join(map(str, row))}]" for row in actions)
    return f"# Actions of each rank in order: KIND stage.microbatch\nranks:\n{rows}\n"


def write_actions(folder: PlanFolder) -> None:
    """Write a plan's other actions, and seal it; one that was trusted stays so."""
    trusted = is_trusted(folder.plan.seal)
    file = folder.path / SCHEDULE
    file.write_text(schedule_text(folder.actions), encoding="utf-8")
    hashes = {**folder.plan.hashes, SCHEDULE: file_hash(file)}
    plan = folder.plan.model_copy(update={"hashes": hashes})
    new_seal = write_seal(replace(folder, plan=plan))
    if trusted:
        trust(new_seal)


def refuse_other_code(file: Path, name: str) -> None:
    """Raises PlanError where the code of a stage is no Python, or has no class of that name."""
    try:
        code = ast.parse(read_bytes(file), filename=str(file))
    except SyntaxError as error:
        where = f"{file}:{error.lineno or 1}:{error.offset or 1}"
        raise PlanError(
            f"{where}: {error.msg}; fix the code of this stage, or compile again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{file}: {error}; fix the code of this stage, or compile again") from None
    if not any(isinstance(node, ast.ClassDef) and node.name == name for node in code.body):
        raise PlanError(
            f"{file}: has no class {name}; write the module of this stage under that name, or "
            "compile again"
        )
