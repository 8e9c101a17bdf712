"""The modules that `model.opaque` names."""

from fnmatch import fnmatchcase

from torch import nn

from pipecut.compiler.inputs.document.positions import location_of
from pipecut.compiler.inputs.job import Job
from pipecut.errors import UserFileError


def named_modules(job: Job, model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules that the job file names, without those within another of them.

    Raises UserFileError, with its line, for a pattern that matches no module.
    """
    asked = job.spec.model.opaque
    if isinstance(asked, str):
        return ()
    paths = [path for path, _ in model.named_modules() if path]
    matching: set[str] = set()
    for index, pattern in enumerate(asked):
        matches = {path for path in paths if fnmatchcase(path, pattern)}
        if not matches:
            begins = ", ".join(dict.fromkeys(path.split(".")[0] for path in paths))
            location = location_of(job.path, "model", "opaque", index)
            raise UserFileError(
                f"{location}: model.opaque: '{pattern}' matches no module; "
                f"the model's begin with {begins}"
            )
        matching |= matches
    return outermost(matching, paths)


def outermost(matching: set[str], paths: list[str]) -> tuple[str, ...]:
    """Those of some paths that lie in no other of them, in the model's order."""
    return tuple(
        path
        for path in paths
        if path in matching and not any(path.startswith(f"{other}.") for other in matching)
    )
