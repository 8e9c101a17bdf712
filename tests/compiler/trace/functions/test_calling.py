"""A model's own autograd.Functions are called in stages as in the model."""

import pytest
import torch

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.stages.source import write_stage
from pipecut.compiler.trace.trace import trace
from pipecut.model.draws import Draws
from tests.compiler.stages.test_models import Split
from tests.models.own_functions import own, rows

JOB = """
model: {factory: "tests.models.own_functions:own"}
inputs: "tests.models.own_functions:rows"
batch: {global: 8, microbatch: 2}
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    path = tmp_path_factory.mktemp("own") / "job.yaml"
    path.write_text(JOB)
    return trace(read_job(path))


def test_stages_compute_and_go_back_as_the_model_does(graph: Graph) -> None:
    split = Split(graph, 3)
    torch.manual_seed(0)
    model, batch = own(), rows(2)
    split.load(model.state_dict())
    with Draws(seed=0):
        expected = model(**batch)
        expected.backward()
    with Draws(seed=0):
        loss = split.loss(batch, evaluation=False)
        loss.backward()
    assert torch.equal(loss, expected)
    gradients = split.gradients()
    for name, parameter in model.named_parameters():
        assert torch.equal(gradients[name], parameter.grad), name
    assert torch.equal(split.loss(batch, evaluation=True), model.eval()(**batch))


def test_each_call_is_one_operator(graph: Graph) -> None:
    targets = [o.target for o in graph.operators if ":" in o.target]
    own = "tests.models.own_functions:"
    assert targets == [
        f"{own}Reverse.apply",
        *[f"{own}Straight.apply"] * 7,
        f"{own}Noisy.apply",
        f"{own}Arguments.Reshaped.apply",
        f"{own}Best.apply",
    ]
    assert graph.stamped == ("6 layers of Layer: 3 traced, 3 stamped",)
    noisy = next(o for o in graph.operators if o.target.endswith("Noisy.apply"))
    assert noisy.draws == (0, 1)
    reverse = next(o for o in graph.operators if o.target.endswith("Reverse.apply"))
    assert reverse.aliases == reverse.inputs
    best = [value for name, value in graph.values.items() if "call" in name and "[" in name]
    assert [value.needs_grad for value in best] == [True, False, False, False]


def test_stage_code_imports_what_it_calls(graph: Graph) -> None:
    code = write_stage(graph, Split(graph, 1).cuts[0], 1)
    imported = [line for line in code.splitlines() if line.startswith("from tests")]
    assert [line.rpartition(" ")[2] for line in imported] == [
        *("Arguments", "Best", "Noisy", "Reverse", "Straight")
    ]
    assert "Arguments.Reshaped.apply(" in code
    code = " ".join(code.split())
    call = "Arguments.Reshaped.apply( x, torch.Size([batch, 16]), (0, 1), [0.5, 1.5], torch.float64"
    assert f"{call}, device )" in code
    assert "best = Best.apply(x, {'count': 4})" in code
