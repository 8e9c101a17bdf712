"""What the job file says about where modules go, in operators."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.document.positions import KEY, location_of
from pipecut.compiler.inputs.job import Job, PlacementSpec
from pipecut.errors import UserFileError


@dataclass(frozen=True)
class Constraints:
    """By operator index: those in an entry of `together` share a stage; what those in an entry of `before` need of others

    stands on an earlier stage than they; `pins` has pairs of operator and stage.
    """

    together: tuple[tuple[int, ...], ...] = ()
    before: tuple[tuple[int, ...], ...] = ()
    pins: tuple[tuple[int, int], ...] = ()


def placement_rules(job: Job, graph: Graph, stages: int) -> Constraints:
    """Look up the patterns of `placement:`. Raises UserFileError, with its line, for a pattern that matches no module."""
    spec = job.spec.placement

    def fail(pattern: str, problem: str) -> UserFileError:
        location = location_of(job.path, "placement", *_location(spec, pattern))
        return UserFileError(f"{location}: placement: {problem}")

    def matching(pattern: str) -> dict[str, list[int]]:
        found = _instances(graph, pattern)
        if not found:
            known = sorted(
                {operator.module.split(".")[0] for operator in graph.operators if operator.module}
            )
            raise fail(
                pattern, f"'{pattern}' matches no module; the model's begin with {', '.join(known)}"
            )
        return found

    def everything(pattern: str) -> tuple[int, ...]:
        return tuple(sorted({index for members in matching(pattern).values() for index in members}))

    together = [
        tuple(sorted({i for pattern in group for i in everything(pattern)}))
        for group in spec.together
    ]
    together += [
        tuple(members) for pattern in spec.never_cut for members in matching(pattern).values()
    ]
    before: list[tuple[int, ...]] = []
    for pattern in spec.cut_before:
        modules = list(matching(pattern).values())
        if stages == 1:
            raise fail(
                pattern,
                f"'{pattern}' asks for a cut, but there is only one stage; ask for more with --stages",
            )
        if all(_first(graph, members) for members in modules):
            raise fail(pattern, f"'{pattern}' has nothing before it, so no cut can lie there")
        before += map(tuple, modules)
    pins: dict[int, int] = {}
    for pattern, stage in spec.on_stage.items():
        if stage >= stages:
            raise fail(
                pattern,
                f"'{pattern}' is put on stage {stage}, but the stages are 0 to {stages - 1}",
            )
        for index in everything(pattern):
            if pins.setdefault(index, stage) != stage:
                module = graph.operators[index].module
                raise fail(
                    pattern,
                    f"'{pattern}' puts {module} on stage {stage}, another pattern on stage {pins[index]}",
                )
    return Constraints(tuple(together), tuple(before), tuple(sorted(pins.items())))


def _location(spec: PlacementSpec, pattern: str) -> tuple[str | int, ...]:
    """Where under `placement:` a pattern stands first."""
    for index, group in enumerate(spec.together):
        if pattern in group:
            return "together", index, group.index(pattern)
    for name, patterns in (("never_cut", spec.never_cut), ("cut_before", spec.cut_before)):
        if pattern in patterns:
            return name, patterns.index(pattern)
    return "on_stage", pattern, KEY


def _instances(graph: Graph, pattern: str) -> dict[str, list[int]]:
    """Operators by the outermost module around them that the pattern matches."""
    found: dict[str, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        parts = operator.module.split(".") if operator.module else []
        paths = (".".join(parts[: depth + 1]) for depth in range(len(parts)))
        module = next((path for path in paths if fnmatchcase(path, pattern)), None)
        if module is not None:
            found.setdefault(module, []).append(index)
    return found


def _first(graph: Graph, members: list[int]) -> bool:
    made, own = graph.producers(), set(members)
    return not any(
        made[name] not in own
        for index in members
        for name in graph.operators[index].inputs
        if name in made
    )
