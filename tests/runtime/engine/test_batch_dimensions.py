"""Compiled stages take any batch, and every other size as a constant."""

from pathlib import Path
from typing import Any

import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.runtime.engine.batch_dimensions import batch_dimensions, mark


def test_only_the_batch_is_symbolic(write_job: Any, slow_cores: str, tmp_path: Path) -> None:
    plan = compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    ).plan
    compiled = plan.model_copy(update={"compile": "inductor"})
    assert batch_dimensions(plan, plan.stages[1]) == []
    assert batch_dimensions(compiled, plan.stages[1]) == [[0], [0]]
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
