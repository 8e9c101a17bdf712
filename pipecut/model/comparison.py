"""How far the tensors of two runs are apart: the largest relative difference of each kind.

Tensors are named `KIND/NAME`: loss, gradient, parameter, buffer, output.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

# Relative to the tensor's norm. bf16 keeps 8 bits: one rounding of a sum in another order is 2**-8.
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 4e-3}
# A tensor whose norm is below this part of the largest of its kind may be rounding noise around
# zero, as the gradient of a bias before a normalisation is; its difference is taken relative to
# this floor. With the tolerance of 1e-5 that asks for 1e-8 of the largest norm, where float32 has
# 6e-8.
FLOOR = 1e-3
# The largest difference that may be rounding, whatever rounding does: a wrong gradient is wrong by
# more of its norm.
MOST_ROUNDING = 1e-3

Named = Mapping[str, torch.Tensor]


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In double precision, complex where it is."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


@dataclass(frozen=True)
class Difference:
    """A relative difference, and the tensor that has it, or what is wrong with it."""

    value: float
    name: str


@dataclass(frozen=True)
class Comparison:
    """The largest difference of each kind, among so many `compared` tensors.

    `rounded` has, of each kind, the largest beyond tolerance that rounding makes as well.
    """

    worst: Mapping[str, Difference]
    tolerance: float
    compared: int
    rounded: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every difference is a number within tolerance."""
        return all(difference.value <= self.tolerance for difference in self.worst.values())

    def __str__(self) -> str:
        lines = [
            f"{self.compared} tensors compared, tolerance {self.tolerance:g} of a tensor's norm"
        ]
        for kind, difference in sorted(self.worst.items()):
            verdict = "ok  " if difference.value <= self.tolerance else "FAIL"
            lines.append(f"{verdict} {kind:10s} {difference.value:.2e}  ({difference.name})")
        for kind, difference in sorted(self.rounded.items()):
            lines.append(
                f"ok   {kind:10s} {difference.value:.2e}  ({difference.name}): rounding, since the "
                "unsplit model changes by as much when the last bits of its parameters do"
            )
        return "\n".join(lines)


@dataclass
class Comparing:
    """Collects the largest difference of each kind.

    `stride` is how far one step of the optimizer may move an element whatever its gradient; 0 where
    that has no limit. `tolerance` is that beyond which a difference may be rounding: up to
    `most_rounding`, and `roundings` times what a nudge of the parameters makes of the same tensor.
    """

    stride: float = 0.0
    tolerance: float = math.inf
    roundings: float = 1.0
    most_rounding: float = MOST_ROUNDING
    worst: dict[str, Difference] = field(default_factory=dict)
    rounded: dict[str, Difference] = field(default_factory=dict)
    compared: int = 0

    def add(self, tensors: Named, expected: Named, nudged: Named | None = None) -> None:
        """Compare tensors with those that are expected, of which there may be more.

        `nudged` are what is expected where each parameter's last bit is another: a tensor that
        differs by less than that does is noted as rounded.
        """
        largest = _largest_norms(expected)
        for key, tensor in tensors.items():
            kind, name = key.split("/", 1)
            self.compared += 1
            if key not in expected or expected[key].shape != tensor.shape:
                self._note(kind, Difference(math.inf, f"{name} is not in the unsplit model"))
            else:
                scale_floor = FLOOR * largest[kind]
                value = self._difference(kind, tensor, expected[key], scale_floor)
                rounded = False
                if nudged and key in nudged and self.tolerance < value <= self.most_rounding:
                    rounding = self._difference(kind, nudged[key], expected[key], scale_floor)
                    rounded = value <= self.roundings * rounding
                self._note(kind, Difference(value, name), rounded)

    def miss(self, key: str) -> None:
        """Note that an expected tensor is on no rank."""
        kind, name = key.split("/", 1)
        self._note(kind, Difference(math.inf, f"{name} is on no rank"))

    def result(self, tolerance: float) -> Comparison:
        """What was compared so far."""
        return Comparison(dict(self.worst), tolerance, self.compared, dict(self.rounded))

    def _difference(
        self, kind: str, tensor: torch.Tensor, expected: torch.Tensor, scale_floor: float
    ) -> float:
        reference = wide(expected)
        # A parameter that starts at zero and moves by rounding noise is measured by the step that
        # it could have made.
        moved = self.stride * reference.numel() ** 0.5 if kind == "parameter" else 0.0
        scale = max(float(reference.norm()), scale_floor, moved)
        distance = float((wide(tensor) - reference).norm())
        value = distance / scale if scale else distance
        return math.inf if math.isnan(value) else value

    def _note(self, kind: str, difference: Difference, rounded: bool = False) -> None:
        noted = self.rounded if rounded else self.worst
        if kind not in noted or difference.value > noted[kind].value:
            noted[kind] = difference


def _largest_norms(tensors: Named) -> dict[str, float]:
    """By kind."""
    largest: dict[str, float] = {}
    for key, tensor in tensors.items():
        kind = key.split("/")[0]
        largest[kind] = max(largest.get(kind, 0.0), float(wide(tensor).norm()))
    return largest
