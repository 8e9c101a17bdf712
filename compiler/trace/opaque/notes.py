"""What a plan says of modules that run as they are."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from pipecut.compiler.graph import Graph
from pipecut.compiler.trace.opaque.untraceable import masked

BY_JOB = "the job says so, in model.opaque"


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
