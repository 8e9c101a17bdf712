"""Microbatches of their own lengths compute what they do in the unsplit model: real processes."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.runtime.verify.verify import verify
from tests.runtime.exact import exact_under_rules

STAGES = {name: 2 * (schedule.stages_per_rank or 2) for name, schedule in SCHEDULES.items()}
EXTRAS = {"": "", "replicas": "data_parallel: 2\n", "recompute": "recompute: always\n"}
JOB = """
model: {{factory: "tests.models.core:{model}"}}
inputs: "tests.models.batches.lengths:{inputs}"
batch: {{global: 8, microbatch: 2, order: balanced}}
lengths: dynamic
optimizer: sgd
{extra}"""


def compiled(tmp_path: Path, cores: str, sizes: SizeOverrides, **job: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(**{"model": "gpt2", "inputs": "tokens", "extra": "", **job}))
    plan = compile(path, cores, tmp_path / "plan", Options(sizes)).plan
    assert plan.batch.lengths and plan.batch.order == "balanced"
    return tmp_path / "plan"


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("schedule", STAGES)
def test_every_schedule_is_exact_for_microbatches_of_their_own_lengths(
    schedule: str, extra: str, slow_cores: str, tmp_path: Path
) -> None:
    sizes = SizeOverrides(stages=STAGES[schedule], schedule=schedule)
    plan = compiled(tmp_path, slow_cores, sizes, extra=EXTRAS[extra])
    result = verify(plan, steps=2, evaluation=not extra)
    assert result.passed, result.worst


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["Nccl", "Lagging"])
@pytest.mark.parametrize("schedule", STAGES)
def test_lengths_are_exact_under_the_rules_of_nccl(
    schedule: str, rules: str, slow_cores: str, tmp_path: Path, monkeypatch: Any
) -> None:
    sizes = SizeOverrides(stages=STAGES[schedule], schedule=schedule)
    plan = compiled(tmp_path, slow_cores, sizes)
    exact_under_rules(plan, rules, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "inputs"), [("llama", "packed"), ("t5", "tokens")])
def test_families_are_exact_for_microbatches_of_their_own_lengths(
    model: str, inputs: str, slow_cores: str, tmp_path: Path
) -> None:
    sizes = SizeOverrides(stages=2, schedule="1f1b")
    plan = compiled(tmp_path, slow_cores, sizes, model=model, inputs=inputs)
    result = verify(plan, steps=2)
    assert result.passed, result.worst
