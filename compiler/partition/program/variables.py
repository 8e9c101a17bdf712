"""The variables of the integer program and what is read from them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pipecut.compiler.partition.problem import Problem, Stages

# How a tensor meets a place: it crosses the boundary after a stage, or leaves or reaches a device.
Move = Literal["cross", "leave", "arrive"]


@dataclass(frozen=True)
class Transfer:
    """A variable that is 1 where a tensor moves.

    `tensor` is its index. `place` is the stage before the boundary that it crosses, or the device
    that it leaves or arrives at.
    """

    variable: Any
    tensor: int
    place: int
    move: Move


@dataclass(frozen=True)
class Recomputing:
    """Of a device: `chosen` is 1 where it recomputes, `seconds` is what that adds to its load."""

    chosen: Any
    seconds: Any


@dataclass(frozen=True)
class Program:
    """The model and its variables.

    `up_to[v, s]`    1 where block v stands on stage s or earlier
    `on[v, s]`       1 where block v stands on stage s
    `hosted[p, s]`   1 where stage s has one of the users of shared p
    `transient[d]`   MiB of the largest transient on device d
    `recompute[d]`   of the devices that may choose
    `bottleneck`     seconds of the slowest device, divided by `scale`
    `fullest`        largest part of its capacity that a device uses, where the program asks for it
    """

    model: Any
    up_to: dict[tuple[int, int], Any]
    on: dict[tuple[int, int], Any]
    bottleneck: Any
    fullest: Any
    scale: float
    transfers: list[Transfer] = field(default_factory=list)
    hosted: dict[tuple[int, int], Any] = field(default_factory=dict)
    transient: dict[int, Any] = field(default_factory=dict)
    recompute: dict[int, Recomputing] = field(default_factory=dict)

    def has_user(self, problem: Problem, index: int, stage: int) -> Any:
        """1 where a stage has one of the users of what is shared."""
        if (index, stage) in self.hosted:
            return self.hosted[index, stage]
        return self.on[problem.shared[index].users[0], stage]

    def stages(self, problem: Problem) -> Stages:
        """The stage of each block in the model's solution."""
        last = len(problem.stage_devices) - 1

        def is_up_to(block: int, stage: int) -> bool:
            return stage == last or (self.up_to[block, stage].value() or 0.0) > 0.5

        return [
            next(stage for stage in range(last + 1) if is_up_to(block, stage))
            for block in range(len(problem.blocks))
        ]
