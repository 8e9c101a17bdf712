"""Compiled stages take any batch, and every other size as a constant."""

from typing import Any

import torch

from pipecut.runtime.engine.batch_dimensions import batch_dimensions, mark
from tests.plans import made_plan, made_stage, made_tensor

INPUTS = [made_tensor("x", needs_grad=False), made_tensor("table", shape=[4, "2*batch"])]


def plan_of(**fields: Any) -> Any:
    """Two stages; both take inputs of the batch."""
    stages = [
        made_stage(0, 2, batch_inputs=["x"]),
        made_stage(1, 2, batch_inputs=["table", "x"]),
    ]
    return made_plan(2, inputs=INPUTS, stages=stages, **{"compile": "inductor", **fields})


def test_dimensions_that_follow_the_batch_are_those_that_are_expressions() -> None:
    plan = plan_of()
    assert batch_dimensions(plan, plan.stages[0]) == [[0]]
    assert batch_dimensions(plan, plan.stages[1]) == [[0], [1], [0]]


def test_nothing_is_marked_in_eager_stages_or_for_a_fixed_batch() -> None:
    eager, fixed = plan_of(compile="eager"), plan_of()
    fixed = fixed.model_copy(update={"batch": fixed.batch.model_copy(update={"dynamic": False})})
    assert batch_dimensions(eager, eager.stages[1]) == []
    assert batch_dimensions(fixed, fixed.stages[1]) == []


def test_only_the_batch_is_symbolic() -> None:
    sizes: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        values = [n.meta["example_value"] for n in graph.graph.nodes if n.op == "placeholder"]
        sizes.extend(tuple(value.shape) for value in values if isinstance(value, torch.Tensor))
        return graph.forward

    torch._dynamo.reset()
    function = torch.compile(lambda x: x @ x.new_ones(8, 4), backend=backend)
    for rows in (2, 3, 5):
        x = torch.ones(rows, 8)
        mark([x], [[0]])
        assert function(x).shape == (rows, 4)
    assert len(sizes) == 1 and isinstance(sizes[0][0], torch.SymInt) and sizes[0][1] == 8
