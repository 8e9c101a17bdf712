"""`make demo`: compile a model for this machine, train it on two ranks, say what came out."""

import subprocess
import sys
from pathlib import Path

PLAN = Path("demo-plan")
HERE = Path(__file__).parent


def pipecut(*arguments: str) -> None:
    """Show a command, run it, end with its exit code if it fails."""
    print(f"\n$ pipecut {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "pipecut", *arguments]).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Compile, check, run."""
    pipecut("compile", str(HERE / "demo.yaml"), "--cluster", "auto", "--stages", "2", "-o", str(PLAN))
    pipecut("check", str(PLAN))
    pipecut("run", str(PLAN), "--data", "examples.corpus:batches", "--steps", "200", "--lr", "1e-3", "--clip", "1.0")
    print(
        f"\nThe plan lies in {PLAN}/. Open {PLAN}/plan.yaml for what was decided and proven, "
        f"{PLAN}/stages/stage_0.py for the code rank 0 ran, {PLAN}/schedule.yaml for its actions in order."
    )


if __name__ == "__main__":
    main()
