"""verify under NCCL's rules, emulated over gloo: real processes, ties, replicas, every schedule."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.registry import SCHEDULES
from tests.runtime.exact import exact_under_rules

# Stages of each schedule on two ranks, and on three.
STAGES = {
    name: (2 * (schedule.stages_per_rank or 2), 3 * (schedule.stages_per_rank or 2))
    for name, schedule in SCHEDULES.items()
}
EXTRAS = {
    "": "",
    "replicas": "data_parallel: 2\n",
    "shards": "data_parallel: 2\nshard_optimizer: true\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["Nccl", "Lagging"])
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("schedule", STAGES)
def test_tied_models_are_exact_under_the_rules_of_nccl(
    schedule: str,
    extra: str,
    rules: str,
    write_job: Any,
    slow_cores: str,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    job = write_job("t5" if schedule == "1f1b" else "gpt2", "tokens", extra=EXTRAS[extra])
    sizes = SizeOverrides(stages=STAGES[schedule][0], schedule=schedule)
    assert compile(job, slow_cores, tmp_path / "plan", Options(sizes)).plan.tied
    exact_under_rules(tmp_path / "plan", rules, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2, 3, 6])
@pytest.mark.parametrize("schedule", STAGES)
def test_any_number_of_microbatches_is_exact_under_the_rules_of_nccl(
    schedule: str,
    microbatches: int,
    write_job: Any,
    slow_cores: str,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    job = write_job("gpt2", "tokens")
    job.write_text(job.read_text().replace("global: 8", f"global: {2 * microbatches}"))
    sizes = SizeOverrides(stages=STAGES[schedule][1], schedule=schedule)
    compile(job, slow_cores, tmp_path / "plan", Options(sizes))
    exact_under_rules(tmp_path / "plan", "Lagging", monkeypatch)
