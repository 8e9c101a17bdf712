"""In eval mode a plan computes what the unsplit model computes in eval mode."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RunError
from pipecut.model.outputs import Outputs, loss_in, outputs_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Plan
from pipecut.runtime.engine.stage import build_module
from pipecut.runtime.verify.verify import verify
from tests.models import modes as models_modes

OTHERWISE = {
    "alpha_dropout": "rows",
    "in_place_dropout": "rows",
    "leaky_noise": "rows",
    "channel_dropout": "rows",
    "running_norms": "rows",
    "stochastic_depth": "rows",
    "choosing": "rows",
    "spectral": "rows",
    "frozen_norm": "rows",
    "lstm": "sequences",
    "encoder_layers": "sequences",
    "heads": "rows",
    "switching_inference": "rows",
}
# Those whose operators are the same in both modes but for flags and numbers.
FLAGS_ALONE = {
    "switching_inference",
    "alpha_dropout",
    "in_place_dropout",
    "channel_dropout",
    "leaky_noise",
    "running_norms",
    "lstm",
    "encoder_layers",
    "frozen_norm",
}
JOB = """
model: {{factory: "tests.models.modes:{name}", args: {args}}}
inputs: "tests.models.modes:{inputs}"
batch: {{global: 8, microbatch: 2}}
"""


def compiled(
    tmp_path: Path, cluster: str, name: str, inputs: str, args: str = "{}", extra: str = ""
) -> PlanFolder:
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(name=name, inputs=inputs, args=args) + extra)
    return compile(job, cluster, tmp_path / "plan", Options(SizeOverrides(stages=3)))


def run_chain(
    folder: PlanFolder, model: nn.Module, batch: dict[str, torch.Tensor], training: bool
) -> tuple[torch.Tensor | None, dict[str, torch.Tensor], list[nn.Module]]:
    """The stages one after the other, with the model's own values."""
    plan: Plan = folder.plan if training else folder.plan.in_evaluation()
    values, own = dict(batch), model.state_dict()
    outputs: dict[str, torch.Tensor] = {}
    modules, last = [], None
    for stage in plan.stages:
        module = build_module(folder.path, plan, stage, torch.device("cpu")).train(training)
        missing = module.load_state_dict(
            {n: t for n, t in own.items() if n in module.state_dict()}, strict=False
        )
        assert not missing.missing_keys
        wanted = {"outputs": outputs} if stage.outputs and not training else {}
        given = [values[name] for name in (*stage.receives, *stage.batch_inputs)]
        with torch.no_grad():
            results = module(*given, **wanted)
        values = dict(batch) | dict(zip(stage.sends, results, strict=bool(stage.sends)))
        last = results[0] if results else None
        modules.append(module)
    return last, outputs, modules


def warmed(name: str, inputs: str, **args: Any) -> nn.Module:
    """A model that was trained on a little, so that what it counted is not what it began with."""
    torch.manual_seed(3)
    model: nn.Module = getattr(models_modes, name)(**args)
    for _ in range(3):
        model(**getattr(models_modes, inputs)(4))
    return model.eval()


@pytest.mark.parametrize("name", sorted(OTHERWISE))
def test_eval_mode_is_that_of_the_unsplit_model(name: str, slow_cores: str, tmp_path: Path) -> None:
    folder = compiled(tmp_path, slow_cores, name, OTHERWISE[name])
    assert not folder.plan.evaluation.refused
    model = warmed(name, OTHERWISE[name])
    for size in (2, 5):
        batch = getattr(models_modes, OTHERWISE[name])(size)
        with torch.no_grad():
            wanted = model(**batch)
        loss, outputs, _ = run_chain(folder, model, batch, training=False)
        assert loss is not None and torch.allclose(loss, wanted["loss"], rtol=1e-5)
        assert set(outputs) == set(wanted) - {"loss"}
        for output, tensor in outputs.items():
            assert torch.allclose(tensor, wanted[output], rtol=1e-4, atol=1e-6), output
    assert bool(folder.plan.evaluation.stages) == (name not in FLAGS_ALONE)


def test_a_loss_may_come_from_training_alone(slow_cores: str, tmp_path: Path) -> None:
    folder = compiled(tmp_path, slow_cores, "no_loss_in_eval", "rows")
    evaluation = folder.plan.evaluation
    assert not evaluation.refused and not evaluation.loss
    model, batch = warmed("no_loss_in_eval", "rows"), models_modes.rows(3)
    loss, outputs, _ = run_chain(folder, model, batch, training=False)
    assert loss is None
    assert torch.allclose(outputs["output"], model(**batch), rtol=1e-5, atol=1e-6)


RETURNED = {
    "tuple": ["output.1", "output.2.0", "output.2.1"],
    "nested": [
        *(f"hidden_states.{index}" for index in range(4)),
        *("by_name.probabilities", "by_name.pair.first", "by_name.pair.second"),
        *("classes", "positive", "turned", "wave", "short", "given"),
    ],
    "record": ["classes", "states.0", "states.1", "states.2", "states.3"],
}


@pytest.mark.parametrize("how", sorted(RETURNED))
def test_what_the_model_returns_can_be_asked_for(how: str, slow_cores: str, tmp_path: Path) -> None:
    folder = compiled(tmp_path, slow_cores, "returning", "rows", f"{{how: {how}}}")
    model, batch = warmed("returning", "rows", how=how), models_modes.rows(5)
    result = model(**batch)
    wanted = outputs_of(result, loss_in(result)).tensors
    loss, outputs, _ = run_chain(folder, model, batch, training=False)
    assert loss is not None and torch.allclose(loss, loss_in(result), rtol=1e-5)
    assert sorted(outputs) == sorted(RETURNED[how])
    for name, tensor in outputs.items():
        assert torch.allclose(tensor, wanted[name], rtol=1e-4, atol=1e-6), name
    trained = {operator.target for operator in folder.graph.operators}
    assert not any("argmax" in target for target in trained), (
        "training pays for what it does not need"
    )


def test_what_cannot_be_handed_out_says_why(slow_cores: str, tmp_path: Path) -> None:
    folder = compiled(tmp_path, slow_cores, "returning", "rows", "{how: nested}")
    left_out = folder.plan.evaluation.left_out
    assert sorted(left_out) == ["kind", "mean", "scale", "weight"]
    outputs = Outputs({}, left_out)
    with pytest.raises(
        RunError, match=r"'mean' cannot be handed out: not exactly one of its dimensions.*samples"
    ):
        outputs["mean"]
    with pytest.raises(RunError, match="a Identity; have the model return the tensors in it"):
        outputs["kind"]


def test_a_job_with_its_own_loss_hands_out_the_tensor(slow_cores: str, tmp_path: Path) -> None:
    extra = 'loss: "tests.models.modes:to_itself"\n'
    folder = compiled(tmp_path, slow_cores, "tensor_only", "only_x", extra=extra)
    torch.manual_seed(3)
    model, batch = models_modes.tensor_only().eval(), models_modes.only_x(3)
    _, outputs, _ = run_chain(folder, model, batch, training=False)
    assert torch.allclose(outputs["output"], model(**batch), rtol=1e-5, atol=1e-6)


CELLS = [
    ("tracked_norms", "rows", "{}", "1f1b", 3, ""),
    ("spectral", "rows", "{}", "gpipe", 2, ""),
    ("stochastic_depth", "rows", "{}", "v-shaped", 4, ""),
    ("returning", "rows", "{how: nested}", "1f1b", 2, "data_parallel: 2\n"),
]


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=() if index in (0, 3) else pytest.mark.slow)
        for index, cell in enumerate(CELLS)
    ],
)
def test_verify_compares_eval_mode_and_every_output(
    cell: Any, slow_cores: str, tmp_path: Path
) -> None:
    name, inputs, args, schedule, stages, extra = cell
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(name=name, inputs=inputs, args=args) + extra)
    plan = compile(
        job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=stages, schedule=schedule))
    ).plan
    result = verify(tmp_path / "plan", steps=2, evaluation=True)
    assert result.passed, result.worst
    assert {"eval loss", "output"} <= set(result.worst)
    assert any(stage.outputs for stage in plan.in_evaluation().stages)
