"""Choices by a value in a graph: marked where they are made, refused where a step changes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecut.compiler.choices import Check, Choice
from pipecut.compiler.graph import Graph, Ref
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from pipecut.compiler.trace.value_checks import needed_checks
from pipecut.errors import TraceError
from pipecut.model.unsplit import WithLoss
from tests.compiler.graphs import buffer, operator, value

MODEL = WithLoss(torch.nn.Linear(2, 2), None)
LABELS, TABLE = value("labels", "batch", dtype="int64"), value("table", 2, dtype="int64")


def check_of(name: str) -> Check:
    return Check(name, Choice(f"{name}.any()", "model.py:7", True, from_values=True))


def test_only_what_may_change_is_checked() -> None:
    operators = [
        operator("of_labels", "aten.max.default", Ref("labels")),
        operator("of_table", "aten.max.default", Ref("table")),
        operator("of_both", "aten.add.Tensor", Ref("of_table"), Ref("of_labels")),
        operator("of_nothing", "aten.zeros.default", ()),
        operator("of_chance", "aten.rand.default", (), draws=(0,)),
    ]
    checks = [check_of(o.name) for o in operators] + [check_of("of_labels")]
    data = torch.zeros(2, dtype=torch.long)
    for persistent in (True, False):
        held = buffer(TABLE, data)
        object.__setattr__(held, "persistent", persistent)
        kept = [c.value for c in needed_checks(operators, checks, [held], MODEL)]
        always = ["of_labels", "of_both", "of_chance"]
        assert kept == (["of_labels", "of_table", *always[1:]] if persistent else always)


def test_a_buffer_that_forward_writes_is_no_constant() -> None:
    operators = [
        operator("view", "aten.select.int", Ref("table"), 0, 0, aliases=("table",)),
        operator("asked", "aten.eq.Scalar", Ref("view"), 3),
        operator("written", "aten.add_.Tensor", Ref("table"), 1, writes=("table",)),
    ]
    with pytest.raises(TraceError, match=r"buffer 'table', which its forward writes.*model.py:7"):
        needed_checks(operators, [check_of("asked")], [buffer(TABLE)], MODEL)
    asked = check_of("asked")
    usual = replace(asked, choice=replace(asked.choice, from_values=False))
    assert needed_checks(operators, [usual], [buffer(TABLE)], MODEL) == (usual,)


@pytest.fixture
def traced(tmp_path: Path) -> Any:
    def make(where: str) -> Graph:
        job = tmp_path / "job.yaml"
        job.write_text(
            f'model: {{factory: "tests.programs.choosing:choosing", args: {{where: {where}}}}}\n'
            'inputs: "tests.programs.choosing:labelled"\nbatch: {global: 8, microbatch: 4}\n'
        )
        return trace(read_job(job))

    return make


@pytest.mark.parametrize(
    ("where", "checked"),
    [
        ("raises", ["labels.max() >= CLASSES is False"]),
        ("asserts", ["an asserted tensor (labels are classes) is True"]),
        ("clamps", ["torch.isfinite(x).all() is True"] * 3),
        ("padding", ["(labels == -100).any() is False"]),
        ("number", ["labels.max().item() > 3 is True"]),
        ("buffer", ["int(self.groups) == 4 is True"]),
        ("constant", []),
    ],
)
def test_choices_become_checks(traced: Any, where: str, checked: list[str]) -> None:
    graph = traced(where)
    assert [f"{check.choice.words} is {check.choice.answer}" for check in graph.checks] == checked
    assert {check.value for check in graph.checks} <= graph.producers().keys()
    assert graph.dynamic and graph.evaluation is None
    notes = " ".join(graph.notes)
    assert ("each microbatch is checked" in notes) == bool(checked)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("written", r"its buffer 'calls', which its forward writes to \(int\(self.calls\) == 1"),
        ("activation", r"by a tensor's value \(at .*choosing.py:\d+\).*torch.where"),
    ],
)
def test_other_choices_are_refused(traced: Any, where: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        traced(where)
