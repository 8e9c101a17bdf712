"""The modules that run as they are: those that `model.opaque` names, and untraceable ones."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from pipecut.compiler.inputs.document.positions import location_of
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.opaque.untraceable import masked
from pipecut.errors import UserFileError


def chosen_modules(job: Job, model: nn.Module) -> tuple[str, ...]:
    """Paths of the opaque modules, without those within another of them.

    Raises UserFileError, with its line, for a pattern that matches no module.
    """
    asked = job.spec.model.opaque
    paths = [path for path, _ in model.named_modules() if path]
    matching = set(_like_untraceable(job, model))
    for index, pattern in enumerate(() if isinstance(asked, str) else asked):
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


def _like_untraceable(job: Job, model: nn.Module) -> Iterator[str]:
    """Modules that turned out to be untraceable, and those of the same class in equal layers."""
    kinds = {(masked(path), type(model.get_submodule(path))) for path in job.opaque}
    for path, module in model.named_modules():
        if (masked(path), type(module)) in kinds:
            yield path


def outermost(matching: set[str], paths: list[str]) -> tuple[str, ...]:
    """Those of some paths that lie in no other of them, in the model's order."""
    return tuple(
        path
        for path in paths
        if path in matching and not any(path.startswith(f"{other}.") for other in matching)
    )
