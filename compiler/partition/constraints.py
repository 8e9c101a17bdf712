"""What the job file says about where modules go, in operators."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.document.positions import KEY, location_of
from pipecut.compiler.inputs.job import Job, PlacementSpec
from pipecut.compiler.partition.layouts import pins_of
from pipecut.errors import UserFileError
from pipecut.quantities import counted


@dataclass(frozen=True)
class Constraints:
    """The rules of the job's `placement:`, by operator index.

    `together`  operators of an entry share a stage
    `before`    what operators of an entry need of others stands on an earlier stage than they
    `pins`      pairs of an operator and its stage
    """

    together: tuple[tuple[int, ...], ...] = ()
    before: tuple[tuple[int, ...], ...] = ()
    pins: tuple[tuple[int, int], ...] = ()


def placement_rules(job: Job, graph: Graph, stages: int) -> Constraints:
    """Look up the patterns of `placement:`.

    Raises UserFileError, with its line, for a pattern that matches no module or cannot be obeyed.
    """
    patterns = _Patterns(job, graph, stages)
    pins = tuple(sorted({*patterns.pins(), *patterns.layout_pins()}))
    return Constraints(patterns.together(), patterns.before(), pins)


class _Patterns:
    def __init__(self, job: Job, graph: Graph, stages: int) -> None:
        self.job, self.graph, self.stages = job, graph, stages
        self.spec = job.spec.placement

    def together(self) -> tuple[tuple[int, ...], ...]:
        """Operators of patterns in one entry, and of each module that is never cut."""
        groups = [
            tuple(sorted({index for pattern in entry for index in self._operators(pattern)}))
            for entry in self.spec.together
        ]
        for pattern in self.spec.never_cut:
            groups += [tuple(indices) for indices in self._modules(pattern).values()]
        return tuple(groups)

    def before(self) -> tuple[tuple[int, ...], ...]:
        """Operators of each module with a cut before it."""
        modules: list[tuple[int, ...]] = []
        for pattern in self.spec.cut_before:
            matching = list(self._modules(pattern).values())
            if self.stages == 1:
                raise self._error(
                    pattern,
                    f"'{pattern}' asks for a cut, but there is only one stage; ask for more with "
                    "--stages",
                )
            if all(_is_first(self.graph, indices) for indices in matching):
                raise self._error(
                    pattern, f"'{pattern}' has nothing before it, so no cut can lie there"
                )
            modules += map(tuple, matching)
        return tuple(modules)

    def pins(self) -> tuple[tuple[int, int], ...]:
        """Operators of modules that are put on a stage."""
        pins: dict[int, int] = {}
        for pattern, stage in self.spec.on_stage.items():
            if stage >= self.stages:
                raise self._error(
                    pattern,
                    f"'{pattern}' is put on stage {stage}, but the stages are 0 to "
                    f"{self.stages - 1}",
                )
            for index in self._operators(pattern):
                if pins.setdefault(index, stage) != stage:
                    module = self.graph.operators[index].module
                    raise self._error(
                        pattern,
                        f"'{pattern}' puts {module} on stage {stage}, another pattern on stage "
                        f"{pins[index]}",
                    )
        return tuple(sorted(pins.items()))

    def layout_pins(self) -> tuple[tuple[int, int], ...]:
        """Operators of the layers, the embedding and the head of a layout."""
        layout = self.job.spec.layout
        if layout is None:
            return ()
        if len(layout.stages) != self.stages:
            raise self._layout_error(
                f"it has {counted(len(layout.stages), 'stage')}, and {self.stages} are asked for"
            )
        parameters = {parameter.value for parameter in self.graph.parameters}
        try:
            return pins_of(layout, self.graph.operators, parameters)
        except UserFileError as error:
            raise self._layout_error(str(error)) from None

    def _layout_error(self, problem: str) -> UserFileError:
        where = "--layout"
        if not self.job.layout_is_option:
            where = f"{location_of(self.job.path, 'placement', 'layout')}: layout"
        return UserFileError(f"{where} {self.spec.layout}: {problem}")

    def _operators(self, pattern: str) -> tuple[int, ...]:
        """All operators of the modules that a pattern matches."""
        modules = self._modules(pattern).values()
        return tuple(sorted({index for indices in modules for index in indices}))

    def _modules(self, pattern: str) -> dict[str, list[int]]:
        modules = operators_by_module(self.graph, pattern)
        if not modules:
            paths = {operator.module for operator in self.graph.operators if operator.module}
            begins = ", ".join(sorted({path.split(".")[0] for path in paths}))
            raise self._error(
                pattern, f"'{pattern}' matches no module; the model's begin with {begins}"
            )
        return modules

    def _error(self, pattern: str, problem: str) -> UserFileError:
        location = location_of(self.job.path, "placement", *_location(self.spec, pattern))
        return UserFileError(f"{location}: placement: {problem}")


def _location(spec: PlacementSpec, pattern: str) -> tuple[str | int, ...]:
    """Where under `placement:` a pattern stands first."""
    for index, entry in enumerate(spec.together):
        if pattern in entry:
            return "together", index, entry.index(pattern)
    for name, patterns in (("never_cut", spec.never_cut), ("cut_before", spec.cut_before)):
        if pattern in patterns:
            return name, patterns.index(pattern)
    return "on_stage", pattern, KEY


def operators_by_module(graph: Graph, pattern: str) -> dict[str, list[int]]:
    """Operators by the outermost module around them that a pattern matches."""
    modules: dict[str, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        parts = operator.module.split(".") if operator.module else []
        paths = (".".join(parts[: depth + 1]) for depth in range(len(parts)))
        module = next((path for path in paths if fnmatchcase(path, pattern)), None)
        if module is not None:
            modules.setdefault(module, []).append(index)
    return modules


def _is_first(graph: Graph, indices: list[int]) -> bool:
    """Whether operators need nothing of others."""
    producers, inside = graph.producers(), set(indices)
    return all(
        producers[name] in inside
        for index in indices
        for name in graph.operators[index].inputs
        if name in producers
    )
