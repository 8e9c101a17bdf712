"""Every page that shows commands, tried from its first block to its last in a user's folder."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.pages.blocks import ROOT, Block, blocks
from tests.pages.trials import SHORTER, TRIALS, Trial

SECONDS = 600


class Project:
    """A user's folder: the pages' module, the job file of README, the examples of a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for file in (ROOT / "tests" / "pages" / "project").glob("*.py"):
            (folder / file.name).write_text(file.read_text())
        (folder / "examples").symlink_to(ROOT / "examples")
        for block in blocks(ROOT / "README.md"):
            if block.file == "job.yaml":
                (folder / block.file).write_text(block.text)

    def type(self, command: str) -> None:
        """Type a command into a shell; fails where the command does."""
        for asked, shorter in SHORTER:
            command = command.replace(asked, shorter)
        beside = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
            # Packages of a trial may be on the path that this process was given.
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(
                os.pathsep
            ),
            "PIPECUT_PROFILE": str(self.folder / "profile.sqlite"),
            "OMP_NUM_THREADS": "1",
        }
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        output = ended.stdout + ended.stderr
        print(f"$ {command}\n{output}")
        assert ended.returncode == 0, f"{command}\n{output[-3000:]}"
        assert "Traceback" not in output, output[-3000:]

    def try_block(self, block: Block, trial: Trial) -> None:
        """Type its commands, write its file, or run its Python on two ranks."""
        if block.file is not None:
            (self.folder / block.file).write_text(block.text)
        elif not block.is_shell:
            loads = "pipe." in block.text and "pipecut.load(" not in block.text
            given = f'pipe = pipecut.load("plan/")\n{trial.loaded}' if loads else ""
            (self.folder / "block.py").write_text(trial.preamble + given + block.text)
            self.type_first(block.text, trial)
            self.type("torchrun --nproc-per-node 2 block.py")
        for command in block.commands() if block.is_shell else ():
            if not _left_out(command, trial):
                self.type_first(command, trial)
                self.type(command)

    def type_first(self, text: str, trial: Trial) -> None:
        """Type the commands that a command or a block of Python needs before it."""
        for begin, needed in trial.first.items():
            if text.startswith(begin):
                self.type(needed)


def _left_out(text: str, trial: Trial) -> bool:
    return text.startswith(tuple(trial.left_out))


def _is_yaml(block: Block) -> bool:
    """Part of a job file: tests/pages/test_blocks.py reads it."""
    return block.file is None and block.text.split()[0].endswith(":")


@pytest.mark.slow
@pytest.mark.parametrize("page", TRIALS)
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    trial = TRIALS[page]
    missing = [name for name in trial.packages if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    project = Project(tmp_path)
    for command in trial.before:
        project.type(command)
    tried = 0
    for block in blocks(ROOT / page):
        if not _left_out(block.text, trial) and not _is_yaml(block):
            project.try_block(block, trial)
            tried += 1
    assert tried
