"""The modules that run as they are: those that `model.opaque` names, and untraceable ones."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from torch import nn

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.document.positions import location_of
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.opaque.untraceable import masked
from pipecut.errors import UserFileError

BY_JOB = "the job says so, in model.opaque"


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


def opaque_notes(graph: Graph, untraceable: Mapping[str, str]) -> Iterator[str]:
    """Which modules run as they are, and why: a line for those in equal layers with one reason.

    `untraceable` has modules that could not be traced, to the reason.
    """
    # Modules of one class have one forward, on one line.
    forward_of = {o.opaque.module: o.source for o in graph.operators if o.opaque is not None}
    reasons = {
        (masked(path), forward_of[path]): reason
        for path, reason in untraceable.items()
        if path in forward_of
    }
    by_reason: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, forward in forward_of.items():
        like = masked(path)
        by_reason[like][reasons.get((like, forward), BY_JOB)].append(path)
    for like, paths in by_reason.items():
        for reason, of_reason in paths.items():
            name = like if len(paths) == 1 else ", ".join(of_reason)
            run = "runs as it is" if len(paths) == 1 or len(of_reason) == 1 else "run as they are"
            yield f"{name} {run}: {reason}"
