"""The job's placement: section as constraints, from values."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.partition.constraints import (
    Constraints,
    operators_by_module,
    placement_rules,
)
from pipecut.errors import UserFileError
from tests.compiler.partition.coarsen.graphs import Sketch
from tests.costs import made_job


def layers() -> Graph:
    """Three layers of an operator each, the second with a module inside; the last has two."""
    sketch = Sketch()
    sketch.add("a", "x")
    sketch.add("b", "a")
    sketch.add("c", "b")
    sketch.add("d", "c")
    modules = ("layers.0", "layers.1.mlp", "layers.2", "layers.2")
    graph = sketch.costed().graph
    operators = tuple(
        replace(operator, module=module)
        for operator, module in zip(graph.operators, modules, strict=True)
    )
    return replace(graph, operators=operators)


def rules(placement: dict[str, Any], stages: int = 2, folder: Path | None = None) -> Constraints:
    job = made_job(placement=placement)
    if folder is not None:
        path = folder / "job.yaml"
        path.write_text("placement: {}\n")
        job = Job(path, job.spec)
    return placement_rules(job, layers(), stages)


def test_patterns_match_the_outermost_module() -> None:
    assert operators_by_module(layers(), "layers.*") == {
        "layers.0": [0],
        "layers.1": [1],
        "layers.2": [2, 3],
    }
    assert operators_by_module(layers(), "*.mlp") == {"layers.1.mlp": [1]}


def test_together_joins_patterns_and_never_cut_each_module() -> None:
    assert rules({"together": [["layers.0", "layers.1"]]}).together == ((0, 1),)
    assert rules({"never_cut": ["layers.*"]}).together == ((0,), (1,), (2, 3))


def test_a_cut_lies_before_each_module_that_matches() -> None:
    assert rules({"cut_before": ["layers.1"]}).before == ((1,),)
    assert rules({"cut_before": ["layers.*"]}).before == ((0,), (1,), (2, 3))


def test_operators_of_a_module_are_pinned_to_its_stage() -> None:
    assert rules({"on_stage": {"layers.2": 1, "layers.0": 0}}).pins == ((0, 0), (2, 1), (3, 1))


@pytest.mark.parametrize(
    ("placement", "stages", "message"),
    [
        ({"never_cut": ["heads"]}, 2, "'heads' matches no module; the model's begin with layers"),
        ({"cut_before": ["layers.0"]}, 2, "'layers.0' has nothing before it"),
        ({"cut_before": ["layers.1"]}, 1, "there is only one stage; ask for more with --stages"),
        ({"on_stage": {"layers.1": 2}}, 2, "put on stage 2, but the stages are 0 to 1"),
        ({"on_stage": {"layers.1": 1, "layers.*": 0}}, 2, "layers.1.mlp on stage 0, another"),
    ],
)
def test_a_pattern_that_cannot_be_obeyed_is_refused(
    placement: dict[str, Any], stages: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserFileError, match="placement: .*") as refused:
        rules(placement, stages, tmp_path)
    assert message in str(refused.value)
