"""A run that goes wrong ends with one clear error on the rank concerned, and every rank ends."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import TraceError

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import torch
import pipecut
from pipecut.errors import PipecutError
from tests.models.core import vectors

try:
    pipe = pipecut.load(sys.argv[1])
    {body}
except PipecutError as error:
    import os
    print(f"pipecut: {{error}}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)
"""


def torchrun(tmp_path: Path, plan: Path, ranks: int, body: str) -> tuple[int, str, float]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(body=body))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={ranks}",
        "--rdzv-backend=c10d",
    ]
    command += ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(script), str(plan)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    begin = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begin


@pytest.fixture
def plan(write_job: Any, tmp_path: Path) -> Path:
    compile(
        write_job("mlp", "vectors"), "auto", tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    return tmp_path / "plan"


def test_a_wrong_batch_shape_is_told_and_ends_every_rank(plan: Path, tmp_path: Path) -> None:
    body = """
    wrong = {"x": torch.randn(8, 31), "target": torch.randn(8, 32)}
    pipe.step(**(wrong if pipe.world.rank == 0 else vectors(8)))
    """
    code, output, seconds = torchrun(tmp_path, plan, 2, body)
    assert code != 0 and seconds < 300
    assert (
        "rank 0: input 'x' is torch.float32[8, 31], the plan takes torch.float32[8, 32]" in output
    )


def test_a_missing_rank_is_told(plan: Path, tmp_path: Path) -> None:
    code, output, _ = torchrun(tmp_path, plan, 1, "pass")
    assert code != 0
    assert "the plan has 2 ranks but 1 was started" in output


@pytest.mark.parametrize(
    ("stages", "extra"), [(2, ""), (1, "data_parallel: 2\nshard_optimizer: true\n")]
)
def test_a_user_loop_accumulates_and_clips_by_the_global_norm(
    stages: int, extra: str, write_job: Any, tmp_path: Path
) -> None:
    plan = tmp_path / "plan"
    compile(
        write_job("mlp", "vectors", extra=extra),
        "auto",
        plan,
        Options(SizeOverrides(stages=stages)),
    )
    body = """
    optimizer = torch.optim.SGD(pipe.parameters(), lr=0.1)
    torch.manual_seed(1)
    batch = vectors(8)
    first = pipe.step(**batch)
    pipe.step(**batch)
    norm = pipe.clip_grad_norm_(0.01)
    from tests.models.core import mlp
    torch.manual_seed(0)
    model = mlp()
    for part in zip(*(t.split(2) for t in batch.values())):
        (2 * model(*part) / 4).backward()
    whole = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert abs(norm - whole) <= 1e-5 * whole, (norm, whole)
    wanted = dict(model.named_parameters())
    for name, parameter in pipe.named_parameters():
        begin, end = pipe.rows(parameter) or (0, len(wanted[name]))
        expected = wanted[name].grad[begin:end]
        assert torch.allclose(parameter.grad, expected, rtol=1e-5, atol=1e-9), name
    ragged = pipe.step(**vectors(7))
    print(f"rank {pipe.world.rank} loss {float(first):.6f} {float(ragged):.6f}")
"""
    code, output, _ = torchrun(tmp_path, plan, 2, body)
    assert code == 0, output
    losses = re.findall(r"loss (\d+\.\d{6} \d+\.\d{6})", output)
    assert len(losses) == 2 and losses[0] == losses[1]


@pytest.mark.parametrize(
    ("schedule", "stages"),
    [("1f1b", 2), pytest.param("interleaved", 4, marks=pytest.mark.slow), ("v-shaped", 4)],
)
def test_evaluation_takes_any_batch_and_changes_nothing(
    schedule: str, stages: int, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    body = """
    from tests.models.core import images, resnet
    torch.manual_seed(1)
    before = {name: buffer.clone() for name, buffer in pipe.named_buffers()}
    for size in (1, 7, 20):
        batch = images(size)
        loss = pipe.eval_step(**batch)
        rng = torch.get_rng_state()
        torch.manual_seed(0)
        whole = resnet().eval()(**batch)
        torch.set_rng_state(rng)
        whole = whole if torch.is_tensor(whole) else whole["loss"]
        assert abs(loss - whole) <= 1e-5 * abs(whole), (size, loss, whole)
    for name, buffer in pipe.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert all(p.grad is None for p in pipe.parameters())
    assert all(m.training for m in pipe.model.modules.values())
    print(f"rank {pipe.world.rank} done")
    pipe.step(**images(8))
"""
    plan = tmp_path / "plan"
    compile(
        write_job("resnet", "images"),
        slow_cores,
        plan,
        Options(SizeOverrides(stages=stages, schedule=schedule)),
    )
    code, output, _ = torchrun(tmp_path, plan, 2, body)
    assert code == 0 and output.count("done") == 2, output


def test_tokens_weigh_as_in_the_whole_batch(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    body = """
    from tests.models.core import bert, bert_inputs
    torch.manual_seed(1)
    batch = bert_inputs(7)
    batch["labels"][:, 3:] = torch.where(torch.rand(7, 13) < 0.6, -100, batch["labels"][:, 3:])
    loss = pipe.step(**batch)
    torch.manual_seed(0)
    model = bert()
    whole = model(**batch).loss
    whole.backward()
    assert abs(loss - whole) <= 1e-6 * whole, (loss, whole)
    wanted = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in pipe.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-7), name
    print(f"rank {pipe.world.rank} done")
    batch["labels"][2:4] = -100
    pipe.step(**batch)
"""
    plan = tmp_path / "plan"
    compile(
        write_job("bert", "bert_inputs", extra="reduction: tokens\n"),
        slow_cores,
        plan,
        Options(SizeOverrides(stages=2)),
    )
    code, output, _ = torchrun(tmp_path, plan, 2, body)
    assert code != 0 and output.count("done") == 2, output
    assert "no label of microbatch 1 counts" in output


def test_a_loss_whose_terms_are_not_known_is_refused(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match="no plain cross entropy"):
        compile(
            write_job("mlp", "vectors", extra="reduction: tokens\n"),
            slow_cores,
            tmp_path / "plan",
            Options(SizeOverrides(stages=2)),
        )


@pytest.mark.parametrize(
    ("model", "inputs", "extra"),
    [
        ("t5", "tokens", ""),
        pytest.param("bert", "bert_inputs", "data_parallel: 2\n", marks=pytest.mark.slow),
    ],
)
def test_predictions_are_the_models_own_outputs_without_labels(
    model: str, inputs: str, extra: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    body = f"""
    from tests.models import core as models
    for size in (3, 9):
        torch.manual_seed(size)
        batch = models.{inputs}(size)
        labels = batch["labels"]
        if "{model}" == "bert":
            del batch["labels"]
        own = pipe.predict(**batch)
        everywhere = pipe.predict(everywhere=True, **batch)
        torch.manual_seed(0)
        with torch.no_grad():
            more = {{}} if "labels" in batch else {{"labels": labels}}
            whole = models.{model}().eval()(**batch, **more)
        assert set(own) <= set(everywhere) and "logits" in everywhere, everywhere.keys()
        for name, tensor in everywhere.items():
            assert tensor.shape == whole[name].shape, name
            assert torch.allclose(tensor, whole[name], rtol=1e-4, atol=1e-5), name
    print(f"rank {{pipe.world.rank}} done, has {{sorted(own)}} of", sorted(everywhere))
    gradients = [p.grad for p in pipe.parameters()]
    assert not any(g is not None for g in gradients)
"""
    plan = tmp_path / "plan"
    compile(
        write_job(model, inputs, extra=extra), slow_cores, plan, Options(SizeOverrides(stages=2))
    )
    ranks = 4 if extra else 2
    code, output, _ = torchrun(tmp_path, plan, ranks, body)
    assert code == 0 and output.count("done") == ranks, output


def test_a_model_that_gives_its_loss_alone_has_nothing_to_predict(
    plan: Path, tmp_path: Path
) -> None:
    code, output, _ = torchrun(tmp_path, plan, 2, "pipe.predict(**vectors(8))")
    assert code != 0 and "nothing to predict" in output
