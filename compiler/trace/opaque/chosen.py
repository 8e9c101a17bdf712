"""The modules that run as they are: those that `model.opaque` names, and untraceable ones."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from torch import nn

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.document.positions import location_of
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.opaque.untraceable import masked
from pipecut.errors import UserFileError

BY_JOB = "the job says so, in model.opaque"
BY_CLASS = "others of its class cannot be traced"


def chosen_modules(job: Job, model: nn.Module) -> tuple[str, ...]:
    """Paths of the opaque modules, without those within another of them.

    Raises UserFileError, with its line, for a pattern that matches no module.
    """
    paths = [path for path, _ in model.named_modules() if path]
    matching = set(_like_untraceable(job, model))
    for index, pattern in enumerate(job.opaque_patterns):
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
    """Modules that turned out to be untraceable, and those of the same class in equal layers.

    All of a class that was found so in several places: each place costs a trace.
    """
    kinds = {(masked(path), type(model.get_submodule(path))) for path in job.opaque}
    places = Counter(kind for _, kind in kinds if not kind.__module__.startswith("torch."))
    for path, module in model.named_modules():
        if path and ((masked(path), type(module)) in kinds or places[type(module)] > 1):
            yield path


def outermost(matching: set[str], paths: list[str]) -> tuple[str, ...]:
    """Those of some paths that lie in no other of them, in the model's order."""
    return tuple(
        path
        for path in paths
        if path in matching and not any(path.startswith(f"{other}.") for other in matching)
    )


def is_named(path: str, patterns: Iterable[str]) -> bool:
    """Whether the job names a module; `patterns` are those of its model.opaque."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def opaque_notes(
    graph: Graph, untraceable: Mapping[str, str], patterns: Iterable[str] = ("*",)
) -> Iterator[str]:
    """Which modules run as they are, and why: a line for those in equal layers with one reason.

    `untraceable` has modules that could not be traced, to the reason; `patterns` name others.
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
        otherwise = BY_JOB if is_named(path, patterns) else BY_CLASS
        by_reason[like][reasons.get((like, forward), otherwise)].append(path)
    for like, paths in by_reason.items():
        for reason, of_reason in paths.items():
            name = like if len(paths) == 1 else ", ".join(of_reason)
            run = "runs as it is" if len(paths) == 1 or len(of_reason) == 1 else "run as they are"
            yield f"{name} {run}: {reason}"
