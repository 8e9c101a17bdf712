"""What is traced is what the model does in training; what cannot be traced is told in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from pipecut.compiler.trace.watch.value_reads import ValueReads
from pipecut.errors import TraceError


def test_causal_attention_is_traced_as_in_training(write_job: Any) -> None:
    graph = trace(read_job(write_job("llama", "tokens")))
    attention = [o for o in graph.operators if "scaled_dot_product_attention" in o.target]
    assert len(attention) == 4
    for operator in attention:
        assert dict(operator.kwargs)["enable_gqa"] is True
        assert operator.args[3:] == (None, 0.0, True), "a mask is made where is_causal would do"


def test_a_batch_of_any_size_is_traced(write_job: Any) -> None:
    graph = trace(read_job(write_job("transformer", "translation")))
    assert graph.dynamic and not graph.notes


def test_a_choice_by_a_value_is_told_with_its_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "choosy_model.py").write_text(
        "import torch\n"
        "class Choosy(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x)\n"
        "        return y.sum() if y.sum() > 0 else y.mean()\n"
        "def build(): return Choosy(4, 4)\n"
        "def inputs(n): return {'x': torch.randn(n, 4)}\n"
    )
    job = tmp_path / "job.yaml"
    job.write_text(
        'model: {factory: "choosy_model:build"}\n'
        'inputs: "choosy_model:inputs"\n'
        "batch: {global: 8, microbatch: 2}\n"
    )
    with pytest.raises(
        TraceError, match=r"by a tensor's value \(at .*choosy_model.py:5\).*torch.where"
    ):
        trace(read_job(job))
    assert capfd.readouterr().err == ""


def test_a_constant_is_known_only_while_nothing_given_goes_into_it() -> None:
    given = nn.Parameter(torch.ones(3))
    with ValueReads() as reads:
        constants = reads.values
        mask = torch.full((3,), -1.0)
        assert id(mask) in constants.known
        assert id(mask * given) not in constants.known
        assert id(torch.rand(3)) not in constants.known
        with torch.no_grad():
            mask.add_(given)
        assert id(mask) not in constants.known
