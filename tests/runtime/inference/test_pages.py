"""The pages on loops, evaluation and inference, tried as they stand, in a folder with examples/."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from examples.classifier import build, questions

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


def blocks(page: str) -> list[str]:
    """The indented blocks of a page, without the indent."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", text, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def python_blocks(page: str, having: str) -> str:
    """The block that has this text."""
    return next(block for block in blocks(page) if having in block)


def run(folder: Path, command: str) -> str:
    """A command of a page. Returns what it printed."""
    program, *arguments = command.split()
    module = {"pipecut": "pipecut", "torchrun": "torch.distributed.run"}[program]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(page: str) -> list[str]:
    """The commands of a page, in their order."""
    lines = [line for block in blocks(page) for line in block.splitlines()]
    return [line for line in lines if re.match(r"(pipecut|torchrun) ", line)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def test_own_loop(folder: Path) -> None:
    (folder / "loop.py").write_text(python_blocks("own-loop.md", "for step, batch in enumerate"))
    compiling, looping = commands("own-loop.md")
    run(folder, compiling)
    lines = run(folder, looping).splitlines()
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == ["4", "8"]
    start = "import pipecut, torch\nfrom examples.classifier import batches\n"
    short = python_blocks("own-loop.md", "for batch in batches(): pipe.step")
    own = python_blocks("own-loop.md", "torch.optim.AdamW")
    restored = python_blocks("own-loop.md", "done = pipe.restore")
    (folder / "loop.py").write_text(
        start + short + restored + "assert done == 8\nbatch = next(batches())\n" + own
    )
    run(folder, looping)


def test_evaluation(folder: Path) -> None:
    compiling, training, verifying = [*commands("evaluation.md"), "pipecut verify plan/ --eval"]
    run(folder, compiling)
    out = run(folder, training)
    assert out.count("eval loss") == 2
    assert '{"step": 10, "eval_loss": ' in (folder / "logs" / "first" / "steps.jsonl").read_text()
    assert "ok   eval loss" in run(folder, verifying)
    start = "import pipecut\nfrom examples.classifier import validation\n"
    start += 'pipe = pipecut.load("plan/")\n'
    losses = python_blocks("evaluation.md", "pipe.eval_step")
    measure = python_blocks("evaluation.md", "pipe.predict(everywhere=True")
    end = "assert len(losses) == 3 and count == 71 and 0 <= right <= 71\n"
    (folder / "loop.py").write_text(start + losses + measure + end)
    run(folder, "torchrun --nproc-per-node 2 loop.py")


def test_inference(folder: Path) -> None:
    for command in [
        *commands("inference.md"),
        "pipecut export plan/ checkpoints/ -o w.safetensors",
    ]:
        out = run(folder, command)
        assert "predict" not in command or "logits [71, 4] written to out.safetensors" in out
    model = build().eval()
    model.load_state_dict(load_file(folder / "w.safetensors"))
    with torch.no_grad():
        expected = torch.cat(
            [
                model(batch["features"], torch.zeros(len(batch["features"])).long())["logits"]
                for batch in questions()
            ]
        )
    logits = load_file(folder / "out.safetensors")["logits"]
    torch.testing.assert_close(logits, expected)
    run(
        folder, "pipecut predict plan/ --data examples.classifier:questions --weights w.safetensors"
    )
    assert torch.equal(load_file(folder / "outputs.safetensors")["logits"], logits)
    start = "import pipecut\nfrom examples.classifier import questions\n"
    code = python_blocks("inference.md", "pipe.predict(questions()")
    (folder / "loop.py").write_text(start + code)
    assert "torch.Size([71, 4])" in run(folder, "torchrun --nproc-per-node 2 loop.py")


def test_parts_of_replicas_train_as_the_global_batch_does(folder: Path) -> None:
    """The guide's `def batches(rank, count)`, and a smaller batch at the end of an epoch."""
    run(folder, "pipecut compile examples/classifier.yaml -o plan/ --stages 1 --data-parallel 2")
    losses = {}
    for data in ("batches", "parts", "with_rest"):
        command = f"pipecut run plan/ --data examples.classifier:{data} --steps 9 --log {data}"
        run(folder, command)
        lines = (folder / data / "steps.jsonl").read_text().splitlines()
        losses[data] = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    assert len(losses["batches"]) == 9 and losses["parts"] == losses["batches"]
    assert losses["with_rest"][:7] == losses["batches"][:7]
    assert losses["with_rest"][7] != losses["batches"][7]
