"""Ranks that differ end with one message that names them, before any waits for another."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.runtime.ranks.agree.same_batches import digest
from tests.models.core import mlp
from tests.ranks import run_ranks

LOAD = 'pipe = pipecut.load("{plan}")\nfrom tests.models.core import vectors\n'
TRAIN = LOAD + 'for step in range(3):\n    pipe.step(**vectors(8))\nprint("trained")\n'


@pytest.fixture
def plan(write_job: Any, slow_cores: str, tmp_path: Path) -> Path:
    compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    return tmp_path / "plan"


@pytest.mark.parametrize(
    ("extra", "sizes", "what"),
    [
        (
            "",
            SizeOverrides(stages=2, schedule="gpipe"),
            "schedule: 1f1b on rank 0; gpipe on rank 1",
        ),
        pytest.param(
            "optimizer: sgd\nseed: 3\n",
            SizeOverrides(stages=2),
            "model.seed: 0 on rank 0; 3 on rank 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "", SizeOverrides(stages=4), "ranks: 2 on rank 0; 4 on rank 1", marks=pytest.mark.slow
        ),
    ],
)
def test_two_plans_are_one_message_and_every_rank_ends(
    extra: str,
    sizes: SizeOverrides,
    what: str,
    plan: Path,
    write_job: Any,
    slow_cores: str,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    compile(write_job("mlp", "vectors", extra=extra), slow_cores, other, Options(sizes))
    first, second = run_ranks(tmp_path, [TRAIN.format(plan=plan), TRAIN.format(plan=other)])
    assert (first.code, second.code) == (4, 4), (first, second)
    assert (
        what in first.output and "plan.yaml: " in first.output and "copy one plan" in first.output
    ), first.output
    assert not second.output, second.output


@pytest.mark.slow
def test_a_plan_that_one_host_has_not_ends_the_others(plan: Path, tmp_path: Path) -> None:
    first, second = run_ranks(
        tmp_path, [TRAIN.format(plan=plan), TRAIN.format(plan=tmp_path / "nowhere")]
    )
    assert second.code == 4 and "no plan folder" in second.output
    assert first.code == 75 and "another rank could not start" in first.output


@pytest.mark.slow
def test_weights_of_another_run_on_one_host_are_told(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        save_file(mlp().state_dict(), str(tmp_path / host / "w.safetensors"))
    (tmp_path / "w.safetensors").symlink_to("a/w.safetensors")
    job = write_job("mlp", "vectors", extra="weights: w.safetensors\n")
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))
    shutil.copy(tmp_path / "b" / "w.safetensors", tmp_path / "b.safetensors")
    other_weights = (
        "import pipecut.runtime.ranks.agree.agreement as agreement\n"
        "digest = agreement.weights_digest\n"
        'agreement.weights_digest = lambda path: digest(Path("{file}"))\n'
    )
    bodies = [
        other_weights.format(file=tmp_path / host / "w.safetensors")
        + TRAIN.format(plan=tmp_path / "plan")
        for host in ("a", "b")
    ]
    first, second = run_ranks(tmp_path, bodies)
    assert (first.code, second.code) == (
        4,
        4,
    ) and "give every host the same weights" in first.output, first.output


OTHER_BATCH = LOAD + "torch.manual_seed(pipe.world.rank)\npipe.step(**vectors(8))\n"
AHEAD = (
    LOAD
    + """
batches = [vectors(8) for _ in range(4)]
for batch in batches[pipe.world.rank:]:
    pipe.step(**batch)
"""
)
EVALUATE = OTHER_BATCH.replace("pipe.step", "pipe.eval_step")
MIXED = (
    LOAD
    + """
batch = vectors(8)
pipe.step(**batch)
(pipe.step if pipe.world.rank else pipe.eval_step)(**batch)
"""
)
SHORT = (
    LOAD
    + """
for _ in range(5 - pipe.world.rank):
    pipe.step(**vectors(8))
"""
)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(
            OTHER_BATCH,
            "the batch of step 1 differs between ranks:\n  input 'target': float32[8, 32] ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            EVALUATE, "batch 1 of eval_step differs between ranks:", marks=pytest.mark.slow
        ),
        pytest.param(
            MIXED, "  called: eval_step on rank 0; step on rank 1", marks=pytest.mark.slow
        ),
        (AHEAD, "the batch of step 1 differs between ranks:"),
    ],
)
def test_batches_that_differ_are_told_on_every_rank(
    body: str, told: str, plan: Path, tmp_path: Path
) -> None:
    first, second = run_ranks(tmp_path, [body.format(plan=plan)] * 2)
    assert (first.code, second.code) == (4, 4) and told in first.output, (first, second)
    assert " on rank 0; " in first.output and " on rank 1" in first.output
    assert "seeds all ranks alike" in first.output


@pytest.mark.slow
def test_batches_that_differ_later_are_told_in_their_step(plan: Path, tmp_path: Path) -> None:
    body = (
        LOAD.format(plan=plan)
        + """
for step in range(1, 30):
    batch = vectors(8)
    if step >= 12 and pipe.world.rank:
        batch["x"] += 1
    pipe.step(**batch)
"""
    )
    first, second = run_ranks(tmp_path, [body] * 2)
    assert (first.code, second.code) == (
        4,
        4,
    ) and "the batch of step 12 differs" in first.output, first


@pytest.mark.slow
def test_data_of_another_length_is_told_before_the_first_step(plan: Path, tmp_path: Path) -> None:
    body = """
from pipecut.runtime import __main__ as run
options = "--data", "tests.models.startup:longer_on_rank_1", "--steps", "2"
run.app([{plan!r}, *options], standalone_mode=False)
"""
    first, second = run_ranks(tmp_path, [body.format(plan=str(plan))] * 2)
    assert (first.code, second.code) == (
        4,
        4,
    ) and "batches: 5 on rank 0; 6 on rank 1" in first.output, first


def test_a_loop_that_ends_early_on_one_rank_is_told_by_the_other(
    plan: Path, tmp_path: Path
) -> None:
    first, second = run_ranks(tmp_path, [SHORT.format(plan=plan)] * 2)
    assert second.code == 0, second
    assert (
        first.code == 4 and "rank 1 ended after 4 steps, and this rank goes on" in first.output
    ), first


@pytest.mark.slow
def test_data_that_ends_early_on_one_rank_is_told_before_the_optimizer_steps(
    plan: Path, tmp_path: Path
) -> None:
    body = """
from pipecut.runtime import __main__ as run
options = "--data", "tests.models.startup:one_less_on_rank_1", "--steps", "9"
run.app([{plan!r}, *options], standalone_mode=False)
"""
    first, second = run_ranks(tmp_path, [body.format(plan=str(plan))] * 2)
    assert (first.code, second.code) == (4, 4)
    told = r"its data: goes on on rank 0; ended after 4 batches on rank 1"
    assert re.search(told, first.output), first


@pytest.mark.slow
def test_arguments_that_differ_between_hosts_are_told(plan: Path, tmp_path: Path) -> None:
    body = """
from pipecut.runtime import __main__ as run
run.app([{plan!r}, "--lr", "0.{rank}"], standalone_mode=False)
"""
    first, second = run_ranks(tmp_path, [body.format(plan=str(plan), rank=rank) for rank in (1, 2)])
    assert (first.code, second.code) == (
        4,
        4,
    ) and "--lr: 0.1 on rank 0; 0.2 on rank 1" in first.output, first


@pytest.mark.slow
def test_ranks_shuffle_alike(plan: Path, tmp_path: Path) -> None:
    body = """
import random
import numpy
random.seed(os.environ["RANK"])
numpy.random.seed(int(os.environ["RANK"]))
torch.manual_seed(int(os.environ["RANK"]))
pipe = pipecut.load("{plan}")
loader = torch.utils.data.DataLoader(torch.arange(30), batch_size=30, shuffle=True)
print("drew", next(iter(loader)).tolist(), random.random(), numpy.random.rand())
"""
    first, second = run_ranks(tmp_path, [body.format(plan=plan)] * 2)
    assert (
        (first.code, second.code) == (0, 0)
        and first.output == second.output
        and "drew" in first.output
    )


def test_a_digest_sees_places_and_bits() -> None:
    for dtype in (
        torch.float32,
        torch.bfloat16,
        torch.int64,
        torch.bool,
        torch.complex64,
        torch.float64,
        torch.uint8,
    ):
        batch = torch.arange(12).remainder(5).reshape(4, 3).to(dtype)
        swapped = batch.clone()
        swapped[[0, 1]] = swapped[[1, 0]]
        assert digest(batch) == digest(batch.clone()) == digest(batch.t().contiguous().t())
        assert digest(batch) != digest(swapped) and digest(batch) != digest(batch.reshape(3, 4))
    assert digest(torch.tensor(1.5)) != digest(torch.tensor(2.5))
    assert digest(torch.zeros(0, 3)) == digest(torch.zeros(0, 3))
