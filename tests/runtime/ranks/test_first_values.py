"""Every parameter starts with the right value, or the start is refused with its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RunError, UserFileError
from pipecut.model.weights import read_weights
from pipecut.plan.folder import read_plan
from pipecut.plan.sources import changed_sources, source_hashes
from pipecut.runtime.engine.stage import build_module
from pipecut.runtime.engine.warm import warm
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from pipecut.runtime.ranks.agree.same_model import refuse_other_parameters
from pipecut.runtime.ranks.first_values import warn_of_changes
from tests.models import startup as models_startup
from tests.models.core import mlp
from tests.ranks import run_ranks

JOB = """
model: {{factory: "tests.models.startup:{factory}"}}
inputs: "tests.models.core:vectors"
batch: {{global: 8, microbatch: 2}}
"""
TRAIN = """
from tests.models.core import vectors
pipe = pipecut.load("{plan}")
print("loss", float(pipe.step(**vectors(8))))
"""


@pytest.fixture
def compiled(tmp_path: Path, slow_cores: str) -> Callable[..., Path]:
    """Compile a model of tests/models/startup.py for two stages."""

    def compiled_plan(factory: str, extra: str = "") -> Path:
        job = tmp_path / "job.yaml"
        job.write_text(JOB.format(factory=factory) + extra)
        compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))
        return tmp_path / "plan"

    return compiled_plan


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rank_holds_its_own_parameters_alone(
    precision: str, compiled: Callable[..., Path], tmp_path: Path
) -> None:
    plan = compiled("wide", f"precision: {precision}\noptimizer: sgd\n")
    # A parameter of its own, and where it is of half precision a master.
    own = sum(s.parameter_count for s in read_plan(plan).plan.stages if s.index == 1) * (
        4 if precision == "fp32" else 6
    )
    body = f"""
import resource
import torch._dynamo
from tests.models import startup as models_startup
small = torch.nn.Linear(4, 4)(torch.zeros(2, 4)).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
pipe = pipecut.load("{plan}")
print("took", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""
    ended = run_ranks(tmp_path, [body] * 2)
    assert all(rank.code == 0 for rank in ended), ended
    took = int(ended[1].output.split()[-1])
    # The largest parameter may be there twice, and the rest is code.
    assert took < own + 2**26 + 2**27, (took, own)


def test_warming_a_stage_changes_nothing(write_job: Any, slow_cores: str, tmp_path: Path) -> None:
    job = write_job("resnet", "images")
    plan = compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))).plan
    device = torch.device("cpu")
    modules = {s.index: build_module(tmp_path / "plan", plan, s, device) for s in plan.stages}
    masters = Masters([p for module in modules.values() for p in parameters_of(module)])
    with torch.no_grad():
        for parameter in masters.parameters:
            parameter.fill_(0.1)
    before = {
        f"{i}.{name}": t.clone() for i, m in modules.items() for name, t in m.state_dict().items()
    }
    random = torch.get_rng_state()
    ran: list[int] = []
    for index, module in modules.items():
        module.register_forward_hook(lambda *_, index=index: ran.append(index))
    for training in (True, False):
        warm(plan, plan.stages, modules, masters, device, training)
        assert not ran
        warm(
            plan.model_copy(update={"compile": "inductor"}),
            plan.stages,
            modules,
            masters,
            device,
            training,
        )
        assert ran == [0, 1]
        ran.clear()
    after = {f"{i}.{name}": t for i, m in modules.items() for name, t in m.state_dict().items()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in masters.parameters)


@pytest.mark.slow
def test_a_model_that_changed_after_compiling_is_refused_by_name(
    compiled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_plan(compiled("changing")).plan
    refuse_other_parameters(plan, models_startup.changing())
    for change, message in (
        (
            "rename",
            "it has 'other.bias', 'other.weight', which the plan has not; "
            "it has no 'second.bias', 'second.weight'",
        ),
        ("shape", r"'first.bias' is float32\[48\], in the plan float32\[32\]"),
        ("dtype", r"'last.bias' is float64\[32\], in the plan float32\[32\]"),
        ("freeze", r"'last.bias' is float32\[32\], frozen, in the plan float32\[32\]"),
        ("tie", "'last.weight' is one with second.weight, in the plan on its own"),
        ("more", "it has 'extra', which the plan has not"),
    ):
        monkeypatch.setenv(models_startup.CHANGE, change)
        with pytest.raises(RunError, match=message):
            refuse_other_parameters(plan, models_startup.changing())


def test_ranks_refuse_a_renamed_parameter(compiled: Callable[..., Path], tmp_path: Path) -> None:
    body = TRAIN.format(plan=compiled("changing"))
    ended = run_ranks(tmp_path, [body] * 2, environment={models_startup.CHANGE: "rename"})
    assert {rank.code for rank in ended} <= {4, 75} and any(rank.code == 4 for rank in ended), ended
    output = "".join(rank.output for rank in ended)
    assert "it has no 'second.bias'" in output and "loss" not in output


def test_nothing_is_drawn_when_restoring(compiled: Callable[..., Path], tmp_path: Path) -> None:
    plan = compiled("changing")
    save = (
        TRAIN.format(plan=plan)
        + f'pipe.save("{tmp_path}/checkpoints", step=1)\n'
        + 'print("then", float(pipe.step(**vectors(8))))'
    )
    first = run_ranks(tmp_path, [save] * 2)
    again = f"""
from tests.models import startup as models_startup
def never(): raise AssertionError("a model was built")
models_startup.changing = never
from tests.models.core import vectors
pipe = pipecut.load("{plan}", restoring=True)
batches = [vectors(8), vectors(8)]
try:
    pipe.step(**batches[0])
except PipecutError as error:
    print("refused", error)
pipe.restore("{tmp_path}/checkpoints")
print("then", float(pipe.step(**batches[1])))
"""
    (tmp_path / "store").unlink(missing_ok=True)
    second = run_ranks(tmp_path, [again] * 2)
    assert all(rank.code == 0 for rank in (*first, *second)), (first, second)
    assert "has no value yet, since the plan was loaded for restoring" in second[0].output
    assert [r.output.splitlines()[-1] for r in first] == [r.output.splitlines()[-1] for r in second]


@pytest.mark.slow
def test_a_frozen_stage_has_an_optimizer_too(compiled: Callable[..., Path], tmp_path: Path) -> None:
    body = f"""
from tests.models.core import vectors
pipe = pipecut.load("{compiled("frozen_end")}")
for make in (torch.optim.AdamW, torch.optim.SGD):
    optimizer = make(pipe.parameters(), lr=0.1)
    pipe.step(**vectors(8))
    pipe.clip_grad_norm_(1.0)
    optimizer.step()
    optimizer.zero_grad()
pipe.save("{tmp_path}/checkpoints", optimizer, step=2)
pipe.restore("{tmp_path}/checkpoints", optimizer)
trained = [p for p in pipe.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained)
print("has", len(trained), sum(p.numel() for p in trained))
"""
    ended = run_ranks(tmp_path, [body] * 2)
    assert all(rank.code == 0 for rank in ended), ended


def _save(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = mlp().state_dict()
    change(state)
    save_file(state, str(tmp_path / "w.safetensors"))


BAD_WEIGHTS: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
    (lambda state: state.pop(next(iter(state))), "has no"),
    (lambda state: state.update(extra=torch.zeros(2)), "has tensors that the model has not: extra"),
    (
        lambda state: state.update({next(iter(state)): torch.zeros(3, 5)}),
        r"is \[3, 5\], the plan has",
    ),
    (
        lambda state: state.update({k: v.to(torch.int8) for k, v in state.items()}),
        "is int8, the plan has float32",
    ),
    (
        lambda state: state.update({k: v.double() for k, v in state.items()}),
        "is float64, the plan has float32",
    ),
    (
        lambda state: next(iter(state.values())).view(-1).__setitem__(0, float("nan")),
        r"no numbers \(NaN\)",
    ),
]


def test_weights_of_another_kind_are_refused(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    _save(tmp_path, lambda state: None)
    job = write_job("mlp", "vectors", extra="weights: w.safetensors\n")
    plan = compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))).plan
    assert set(read_weights(tmp_path / "w.safetensors", plan)) == set(mlp().state_dict())
    for change, message in BAD_WEIGHTS:
        _save(tmp_path, change)
        with pytest.raises(RunError, match=message):
            read_weights(tmp_path / "w.safetensors", plan)
        if "NaN" in message:
            # Values are read by the ranks alone.
            continue
        with pytest.raises(UserFileError, match=message):
            compile(job, slow_cores, tmp_path / "other", Options(SizeOverrides(stages=2)))


def test_changed_files_of_the_model_are_named(
    compiled: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    plan = read_plan(compiled("changing")).plan
    model = plan.model
    assert list(model.sources) == ["tests/models/core.py", "tests/models/startup.py"]
    assert changed_sources(model) == []
    edited = model.model_copy(
        update={"sources": {**model.sources, "tests/models/core.py": "0", "gone.py": "0"}}
    )
    assert changed_sources(edited) == ["tests/models/core.py"]
    warn_of_changes(plan)
    assert "changed since" not in caplog.text
    warn_of_changes(plan.model_copy(update={"model": edited}))
    assert "tests/models/core.py has changed since the plan was compiled" in caplog.text


def test_sources_are_followed_through_imports(tmp_path: Path) -> None:
    (tmp_path / "job_model.py").write_text(
        "from layers.block import Block\ndef build():\n    import late\n"
    )
    (tmp_path / "late.py").write_text("import os, torch\nimport not_there\n")
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("")
    (tmp_path / "layers" / "block.py").write_text("from . import ops\nfrom .norm import Norm\n")
    (tmp_path / "layers" / "ops.py").write_text("this is no python")
    (tmp_path / "layers" / "norm.py").write_text("")
    (tmp_path / "other.py").write_text("")
    found = source_hashes(["job_model:build", None], [tmp_path])
    assert sorted(found) == sorted(
        ["job_model.py", "late.py"]
        + [f"layers/{name}.py" for name in ("__init__", "block", "ops", "norm")]
    )
