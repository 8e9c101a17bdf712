"""Stages of whole models, cut anywhere, compute bitwise what the unsplit model does."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.partition.coarsen.groups import inseparable, ordered_groups, written_storages
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import Cut, cut
from pipecut.compiler.stages.place_evaluation import place_evaluation
from pipecut.compiler.trace.trace import trace
from pipecut.model.unsplit import WithLoss
from tests.models import core

CPU = torch.device("cpu")
MODELS = (
    ("gpt2", "tokens"),
    ("mlp", "vectors"),
    ("awkward_names", "awkward_inputs"),
    ("dropping", "vectors"),
    ("numbered", "vectors"),
    ("parametrized", "vectors"),
    ("resnet", "images"),
    pytest.param("llama", "tokens", marks=pytest.mark.slow),
    pytest.param("mixtral", "tokens", marks=pytest.mark.slow),
    pytest.param("bert", "bert_inputs", marks=pytest.mark.slow),
    pytest.param("t5", "tokens", marks=pytest.mark.slow),
    pytest.param("transformer", "translation", marks=pytest.mark.slow),
)
Tensors = dict[str, torch.Tensor]


class Split:
    """A model traced, cut into stages of about as many operators, and its stages as modules."""

    def __init__(self, graph: Graph, stages: int) -> None:
        self.graph = graph
        stages_of = [(0,)] * len(graph.operators)
        placed = 0
        groups = inseparable(graph, written_storages(graph))
        for group in ordered_groups(graph.dependencies(), groups):
            for index in group:
                stages_of[index] = (placed * stages // len(stages_of),)
            placed += len(group)
        self.cuts = place_evaluation(graph, stages_of, cut(graph, stages_of, stages)).cuts
        self.modules = [
            build(graph, c, stages, CPU, {b.names[0]: b.data.clone() for b in c.buffers})
            for c in self.cuts
        ]

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for module in self.modules:
            with torch.no_grad():
                for name, tensor in module.state_dict(keep_vars=True).items():
                    tensor.copy_(state[name])

    def loss(self, batch: Tensors, evaluation: bool) -> torch.Tensor:
        graph, cuts = self.graph, list(self.cuts)
        if evaluation and graph.evaluation is not None:
            graph = graph.evaluation
            cuts = [c.evaluation for c in self.cuts if c.evaluation is not None]
        names = graph.batch_names()
        values = {value: batch[name].clone() for value, name in names.items()}
        results: tuple[torch.Tensor, ...] = ()
        for c, module in zip(cuts, self.modules, strict=True):
            results = self._run(c, module.train(not evaluation), values)
        return results[0]

    def _run(self, c: Cut, module: nn.Module, values: Tensors) -> tuple[torch.Tensor, ...]:
        results: tuple[torch.Tensor, ...] = module(
            *(values[name] for name in (*c.receives, *c.batch_inputs))
        )
        values.update(zip(c.sends, results, strict=False))
        return results

    def gradients(self) -> Tensors:
        """By name, summed over stages from the last to the first, as autograd does."""
        summed: Tensors = {}
        for module in reversed(self.modules):
            for name, parameter in module.named_parameters(remove_duplicate=False):
                if parameter.grad is not None:
                    earlier = summed.get(name)
                    summed[name] = parameter.grad if earlier is None else earlier + parameter.grad
        return summed


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize(("family", "inputs"), MODELS)
def test_stages_compute_what_the_model_does(
    family: str, inputs: str, stages: int, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"model: {{factory: 'tests.models.core:{family}'}}\n"
        f"inputs: 'tests.models.core:{inputs}'\nbatch: {{global: 4, microbatch: 2}}\n"
    )
    split = Split(trace(read_job(job).with_microbatch(2)), stages)
    torch.manual_seed(0)
    model = getattr(core, family)()
    whole, batch = WithLoss(model, None), getattr(core, inputs)(2)
    split.load(model.state_dict())
    for evaluation in (False, True):
        model.train(not evaluation)
        torch.manual_seed(1)
        expected = whole({name: tensor.clone() for name, tensor in batch.items()})
        torch.manual_seed(1)
        loss = split.loss(batch, evaluation)
        assert torch.equal(loss, expected)
        if not evaluation:
            expected.backward()
            loss.backward()
    gradients = split.gradients()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            assert torch.equal(gradients[name], parameter.grad), name
    keys = {key for module in split.modules for key in module.state_dict()}
    assert keys == set(model.state_dict())
