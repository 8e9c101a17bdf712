"""The stage of each operator, and what is proven of that."""

from dataclasses import dataclass

from pipecut.compiler.partition.load import loads
from pipecut.compiler.partition.memory import peak_bytes, recomputing
from pipecut.compiler.partition.problem import Problem, Stages
from pipecut.quantities import show_bytes, show_seconds
from pipecut.text_table import numbers, text_table


@dataclass(frozen=True)
class Certificate:
    """What is proven of a placement: objective and bound in seconds, gap relative to the objective.

    `seconds` is the time that the solve took.
    """

    objective: float
    bound: float
    gap: float
    proven: bool
    solver: str
    seconds: float

    @property
    def verdict(self) -> str:
        """Whether the placement is optimal, for people."""
        return "proven optimal" if self.proven else f"gap {self.gap:.2%}, not proven optimal"

    def __str__(self) -> str:
        return (
            f"bottleneck {show_seconds(self.objective)}, bound {show_seconds(self.bound)}, "
            f"{self.verdict} ({self.solver})"
        )


@dataclass(frozen=True)
class Placement:
    """The stages of each operator, several where it is duplicated, and what is proven of them.

    `stages` has the stage of each block of `problem`, `loads` the seconds of each stage per
    microbatch, `recompute` says which stages recompute.
    """

    stages_of: tuple[frozenset[int], ...]
    stages: tuple[int, ...]
    loads: tuple[float, ...]
    recompute: tuple[bool, ...]
    certificate: Certificate
    problem: Problem

    def __str__(self) -> str:
        used = peak_bytes(self.problem, list(self.stages))
        rows = [
            (
                str(stage),
                f"{self.problem.device_of[stage]} ({device.kind})",
                numbers(i for i, stages in enumerate(self.stages_of) if stage in stages),
                show_seconds(self.loads[stage]),
                f"{show_bytes(used[stage])} of {show_bytes(device.capacity)}",
                "yes" if self.recompute[stage] else "no",
            )
            for stage, device in enumerate(self.problem.stage_devices)
        ]
        titles = ("stage", "device", "operators", "load", "memory", "recompute")
        return f"{text_table(titles, rows)}\n{self.certificate}"


def placement_of(problem: Problem, stages: Stages, certificate: Certificate) -> Placement:
    """The placement of operators that a placement of blocks makes."""
    stages_of = {
        operator: frozenset({stage})
        for block, stage in zip(problem.blocks, stages, strict=True)
        for operator in block.operators
    }
    for row in problem.duplicated:
        stages_of[row.operator] = frozenset(stages[user] for user in row.users)
    return Placement(
        tuple(stages_of[operator] for operator in range(len(stages_of))),
        tuple(stages),
        tuple(loads(problem, stages)),
        tuple(recomputing(problem, stages)),
        certificate,
        problem,
    )
