"""Test pipecut with other interpreters and other versions of torch.

python -m benchmarks.versions [PYTHON ...] [torch==VERSION ...]

Each environment is a virtual environment of its own: an interpreter (by default those of python3.11
to python3.13 on the PATH) and a version of torch, without constraints.txt, with a wheel of this
checkout. In it an example is compiled and trained away from the checkout, and the quick tests of
the compiler and the checker run. Prints a row per environment, and which interpreters are missing.
Exit code 1 where an environment failed. torch takes gigabytes where its index has no CPU build.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TORCH = ("2.13.0", "2.14.1", "2.15.0")
PYTHONS = ("python3.11", "python3.12", "python3.13")
TESTS = ("tests/compiler", "tests/plan/test_check.py")
COMPILE = ("compile", "examples/gpt2-tiny.yaml", "--stages", "2", "-o", "plan")


@dataclass(frozen=True)
class Environment:
    """An interpreter and a version of torch."""

    python: str
    torch: str

    def __str__(self) -> str:
        return f"{Path(self.python).name}, torch {self.torch}"


def runs(name: str) -> bool:
    """Whether there is such an interpreter; a version manager's shim may be there without one."""
    return (
        shutil.which(name) is not None
        and subprocess.run([name, "-V"], capture_output=True).returncode == 0
    )


def build(environment: Environment, folder: Path, wheel: Path) -> Path:
    """Install the wheel, its newest dependencies and the test tools. Returns the interpreter.

    Raises CalledProcessError.
    """
    run([environment.python, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*install, f"torch=={environment.torch}"])
    run([*install, f"{wheel}[examples]", "pytest", "hypothesis"])
    return python


def check(python: Path, checkout: Path, folder: Path) -> str:
    """The last line of the tests, after a compile and a run of the installed wheel.

    Raises CalledProcessError.
    """
    away = folder / "away"
    shutil.copytree(checkout / "examples", away / "examples")
    pipecut = str(python.parent / "pipecut")
    run([pipecut, *COMPILE], away)
    run([pipecut, "run", "plan", "--steps", "2"], away)
    tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *TESTS]
    return run(tests, checkout).strip().splitlines()[-1]


def versions(python: Path) -> str:
    """What pip chose beside torch, with versions."""
    names = ("pulp", "highspy", "transformers", "numpy", "networkx")
    code = (
        "from importlib.metadata import version; "
        f"print(*(name + ' ' + version(name) for name in {names}), sep=', ')"
    )
    return run([str(python), "-c", code]).strip()


def run(command: list[str], folder: Path | None = None) -> str:
    """Standard output. Raises CalledProcessError, which has both outputs."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Build and test every environment there is an interpreter for."""
    asked = [word.removeprefix("torch==") for word in sys.argv[1:] if word.startswith("torch==")]
    installed = [name for name in PYTHONS if runs(name)]
    pythons = [word for word in sys.argv[1:] if not word.startswith("torch==")] or installed
    missing = [name for name in PYTHONS if name not in installed]
    print("not on this machine:", ", ".join(missing) or "none")
    checkout, failed = Path.cwd(), False
    with tempfile.TemporaryDirectory() as scratch:
        make_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", scratch]
        run([*make_wheel, str(checkout)])
        wheel = next(Path(scratch).glob("*.whl"))
        for environment in [
            Environment(python, torch) for python in pythons for torch in asked or TORCH
        ]:
            folder = Path(scratch) / "environment"
            try:
                python = build(environment, folder, wheel)
                print(
                    f"{environment}: {check(python, checkout, folder)} ({versions(python)})",
                    flush=True,
                )
            except subprocess.CalledProcessError as error:
                failed = True
                end = "\n".join((error.stdout + error.stderr).strip().splitlines()[-15:])
                print(f"{environment}: FAILED: {' '.join(map(str, error.cmd))}\n{end}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
