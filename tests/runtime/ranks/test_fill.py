"""Parameters get the unsplit model's first values, or those of files: plans made by hand."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipecut.errors import RunError
from pipecut.plan.schema import Plan
from pipecut.runtime.ranks.first_values import fill
from tests.plans import made_plan

MODEL = """
import torch
from torch import nn

def build(layers):
    module = nn.Module()
    module.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(layers))
    return module
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two stages of a model whose factory is in the folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "filled_model", raising=False)
    (tmp_path / "filled_model.py").write_text(MODEL)
    made = made_plan(2)
    reference = made.model.model_copy(
        update={
            "factory": "filled_model:build",
            "args": {"layers": 2},
            "folders": [str(tmp_path)],
            "seed": 7,
        }
    )
    return made.model_copy(update={"model": reference})


def parameters(plan: Plan, *stages: int) -> dict[str, torch.Tensor]:
    """Parameters of some stages, without values."""
    return {
        name: nn.Parameter(torch.full((4, 4), torch.nan))
        for stage in stages
        for tensor in plan.stages[stage].parameters
        for name in tensor.names
    }


def with_weights(plan: Plan, path: Path, values: dict[str, torch.Tensor]) -> Plan:
    save_file(values, str(path))
    model = plan.model.model_copy(update={"weights": str(path)})
    return plan.model_copy(update={"model": model})


def test_a_stage_gets_the_values_of_the_unsplit_model(plan: Plan) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = [nn.Linear(4, 4, bias=False).weight for _ in range(2)]
        for stage in range(2):
            tensors = parameters(plan, stage)
            fill(plan, [plan.stages[stage]], tensors)
            assert torch.equal(tensors[f"layers.{stage}.weight"], expected[stage])


def test_the_generator_stays_as_it_was(plan: Plan) -> None:
    before = torch.get_rng_state()
    fill(plan, plan.stages, parameters(plan, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_files_give_the_values_where_the_job_names_them(plan: Plan, tmp_path: Path) -> None:
    values = {f"layers.{n}.weight": torch.full((4, 4), float(n)) for n in range(2)}
    tensors = parameters(plan, 1)
    fill(with_weights(plan, tmp_path / "w.safetensors", values), plan.stages[1:], tensors)
    assert torch.equal(tensors["layers.1.weight"], values["layers.1.weight"])


def test_values_are_cast_to_the_plans_type(plan: Plan, tmp_path: Path) -> None:
    values = {f"layers.{n}.weight": torch.ones(4, 4, dtype=torch.bfloat16) for n in range(2)}
    tensors = parameters(plan, 0)
    fill(with_weights(plan, tmp_path / "w.safetensors", values), plan.stages[:1], tensors)
    assert tensors["layers.0.weight"].dtype == torch.float32
    assert torch.equal(tensors["layers.0.weight"], torch.ones(4, 4))


def test_a_parameter_without_a_value_is_refused(plan: Plan) -> None:
    tensors = parameters(plan, 0) | {"bias": torch.zeros(1), "gain": torch.zeros(1)}
    with pytest.raises(RunError, match="bias and 1 more of the plan's stages would have no values"):
        fill(plan, plan.stages[:1], tensors)


def test_a_value_of_another_shape_is_refused(plan: Plan) -> None:
    tensors: dict[str, torch.Tensor] = {"layers.0.weight": nn.Parameter(torch.zeros(4, 3))}
    with pytest.raises(RunError, match=r"the plan has shape \[4, 3\], its value \[4, 4\]; compile"):
        fill(plan, plan.stages[:1], tensors)


def test_a_model_that_changed_is_refused(plan: Plan) -> None:
    model = plan.model.model_copy(update={"args": {"layers": 3}})
    changed = plan.model_copy(update={"model": model})
    with pytest.raises(RunError, match="it has 'layers.2.weight', which the plan has not"):
        fill(changed, plan.stages, parameters(plan, 0, 1))
