"""A batch for which a plan is not right ends the run on every rank, and updates nothing."""

from pathlib import Path

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.runtime.verify.verify import verify
from tests.ranks import run_ranks

RANKS = 3
STEPS = """
from tests.programs.choosing import labelled
pipe = pipecut.load({plan!r})
optimizer = torch.optim.SGD(pipe.parameters(), lr=0.1)
def step(batch):
    loss = pipe.step(**batch)
    optimizer.step()
    optimizer.zero_grad()
    return loss
step(labelled(8))
before = [parameter.clone() for parameter in pipe.parameters()]
batch = labelled(8)
{change}
try:
    step(batch)
except PipecutError as error:
    assert all(map(torch.equal, before, pipe.parameters()))
    assert all(parameter.grad is None for parameter in pipe.parameters())
    print("refused", type(error).__name__)
    try:
        pipe.eval_step(**batch)
    except PipecutError as error:
        print("evaluated", type(error).__name__)
    raise
"""
SINGLE = """
from tests.programs.choosing import labelled
pipe = pipecut.load({plan!r})
batch = labelled(8)
batch['labels'][6] = 6
pipe.step(**batch)
"""
PADDED = "batch['labels'][6] = -100"


def compiled(folder: Path, cluster: str, where: str, extra: str = "") -> Path:
    job = folder / "job.yaml"
    job.write_text(
        f'model: {{factory: "tests.programs.choosing:choosing", args: {{where: {where}}}}}\n'
        'inputs: "tests.programs.choosing:labelled"\nbatch: {global: 8, microbatch: 2}\n'
        f"optimizer: sgd\nschedule: 1f1b\nseed: 0\n{extra}"
    )
    plan = folder / "plan"
    compile(str(job), cluster, plan, Options(SizeOverrides(stages=RANKS)))
    return plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "extra", "change", "condition"),
    [
        ("padding", "", PADDED, "(labels == -100).any() is False"),
        ("padding", "recompute: always\n", PADDED, "(labels == -100).any() is False"),
        ("clamps", "", "batch['x'][3] = float('nan')", "torch.isfinite(x).all() is True"),
        ("number", "", "batch['labels'][4:] = 0", "labels.max().item() > 3 is True"),
    ],
)
def test_a_batch_of_another_way_is_refused(
    tmp_path: Path, slow_cores: str, where: str, extra: str, change: str, condition: str
) -> None:
    plan = compiled(tmp_path, slow_cores, where, extra)
    ranks = run_ranks(tmp_path, [STEPS.format(plan=str(plan), change=change)] * RANKS)
    assert [rank.code for rank in ranks] == [4] * RANKS
    for rank in ranks:
        assert "refused OtherWayError" in rank.output and "evaluated OtherWayError" in rank.output
    said = [rank for rank in ranks if "pipecut: " in rank.output]
    assert said == ranks[:1], "one rank of a machine says it"
    assert f"the plan was made for batches where {condition}" in said[0].output
    assert "of step 2:" in said[0].output


@pytest.mark.slow
def test_a_label_that_is_too_large_names_the_line(tmp_path: Path, slow_cores: str) -> None:
    plan = compiled(tmp_path, slow_cores, "raises")
    script = SINGLE.format(plan=str(plan))
    ranks = run_ranks(tmp_path, [script] * RANKS)
    assert all(rank.code for rank in ranks)
    output = "".join(rank.output for rank in ranks)
    assert "where labels.max() >= CLASSES is False (tests/programs/choosing.py" in output


@pytest.mark.slow
@pytest.mark.parametrize("where", ["raises", "clamps", "padding", "number", "buffer", "constant"])
def test_the_plan_of_a_choice_is_exact(tmp_path: Path, slow_cores: str, where: str) -> None:
    result = verify(compiled(tmp_path, slow_cores, where), steps=1, evaluation=True)
    assert result.passed, result.worst
