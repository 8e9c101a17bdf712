"""A run that goes wrong ends with one clear error on the rank concerned, and every rank ends."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, Sizes, compile

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import torch
import pipecut
from pipecut.errors import PipecutError
from tests.models import vectors

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
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(script), str(plan)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begin


@pytest.fixture
def plan(write_job: Any, tmp_path: Path) -> Path:
    compile(write_job("mlp", "vectors"), "auto", tmp_path / "plan", Options(Sizes(stages=2)))
    return tmp_path / "plan"


def test_a_wrong_batch_shape_is_told_and_ends_every_rank(plan: Path, tmp_path: Path) -> None:
    body = "pipe.step(x=torch.randn(8, 31), target=torch.randn(8, 32)) if pipe.world.rank == 0 else pipe.step(**vectors(8))"
    code, output, seconds = torchrun(tmp_path, plan, 2, body)
    assert code != 0 and seconds < 60
    assert "rank 0: input 'x' is torch.float32[8, 31], the plan takes torch.float32[8, 32]" in output


def test_a_missing_rank_is_told(plan: Path, tmp_path: Path) -> None:
    code, output, _ = torchrun(tmp_path, plan, 1, "pass")
    assert code != 0
    assert "the plan has 2 ranks but 1 was started" in output


def test_a_user_loop_trains_and_clips_by_the_global_norm(plan: Path, tmp_path: Path) -> None:
    body = """
    optimizer = torch.optim.SGD(pipe.parameters(), lr=0.1)
    torch.manual_seed(1)
    batch = vectors(8)
    first = pipe.step(**batch)
    norm = pipe.clip_grad_norm_(0.01)
    from tests.models import mlp
    torch.manual_seed(0)
    model = mlp()
    for part in zip(*(t.split(2) for t in batch.values())):
        (model(*part) / 4).backward()
    whole = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert abs(norm - whole) <= 1e-5 * whole, (norm, whole)
    wanted = dict(model.named_parameters())
    for name, parameter in pipe.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name].grad, rtol=1e-5, atol=1e-9), name
    ragged = pipe.step(**vectors(7))
    print(f"rank {pipe.world.rank} loss {float(first):.6f} {float(ragged):.6f}")
"""
    code, output, _ = torchrun(tmp_path, plan, 2, body)
    assert code == 0, output
    losses = re.findall(r"loss (\d+\.\d{6} \d+\.\d{6})", output)
    assert len(losses) == 2 and losses[0] == losses[1]
