"""Values of a graph to which no gradient comes back, though they are computed from what is trained.

Autograd gives these None, and an optimizer passes over a parameter whose gradient is None, where it
would decay one whose gradient is zero. So no stage may ask for their gradients: it would get zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipecut.compiler.graph import Operator, Value, storage_roots
from pipecut.compiler.trace.lower.gradients import past_autograd


def with_gradient_ends(
    values: Mapping[str, Value], operators: Sequence[Operator], loss: str
) -> dict[str, Value]:
    """The values, of which only those need a gradient that the loss's comes to.

    Without a loss that needs a gradient there is nothing to tell.
    """
    if not loss or not values[loss].needs_grad:
        return dict(values)
    roots = storage_roots(operators)
    # What is written may be read under any of its names.
    written = {roots.get(name, name) for operator in operators for name in operator.writes}
    reached: set[str] = set()

    def reach(name: str) -> None:
        value = values.get(name)
        if value is None or value.needs_grad:
            root = roots.get(name, name)
            reached.add(root if root in written else name)

    def is_reached(name: str) -> bool:
        root = roots.get(name, name)
        return (root if root in written else name) in reached

    reach(loss)
    for operator in reversed(operators):
        if past_autograd(operator) or not any(map(is_reached, (operator.name, *operator.writes))):
            continue
        for name in operator.inputs:
            if name not in operator.gives_none:
                reach(name)
    return {
        name: value if is_reached(_whole(name)) else _ended(value) for name, value in values.items()
    }


def _whole(name: str) -> str:
    """The result that one tensor of several is part of."""
    return name.partition("[")[0]


def _ended(value: Value) -> Value:
    return replace(value, needs_grad=False, gradient_ends=True) if value.needs_grad else value
