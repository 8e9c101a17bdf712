"""The plan folder, written beside its target: a plan is in place whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.emit.files import write_files
from pipecut.errors import UserFileError
from pipecut.plan.folder import PlanFolder, read_plan, write_plan
from pipecut.plan.part.meetings_file import write_meetings
from pipecut.plan.places import as_written
from pipecut.plan.schema import Plan
from pipecut.plan.schema.explanation import Explanation


@contextmanager
def emit(
    plan: Plan,
    costed: CostedGraph,
    draft: Draft,
    target: Path,
    explanation: Explanation | None = None,
) -> Iterator[PlanFolder]:
    """Write a plan folder beside the target and read it back.

    `publish` puts it in place; removed at the end of the `with` where nobody did. Raises
    UserFileError where the folder, or its target within the `with`, cannot be written.
    """
    target = target.resolve()
    with _naming(target):
        # On the target's own disk, so that it can be renamed into place.
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _naming(target):
            hashes = write_files(scratch, costed, draft, explanation)
            hashes |= write_meetings(scratch, plan, draft.scheduled.actions)
            # Its places are ways from where it goes.
            placed = as_written(plan, target)
            write_plan(scratch, placed.model_copy(update={"hashes": hashes}))
            yield read_plan(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Turn what the disk refuses into an error that names the target and a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserFileError(f"{target} cannot be written: {reason}; give another -o") from None
