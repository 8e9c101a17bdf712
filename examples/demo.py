"""`make demo`: compile a model for this machine, train it on two ranks, say what came out."""

import subprocess
import sys
from pathlib import Path

PLAN, CLUSTER = Path("demo-plan"), Path("demo-cluster.yaml")
REPORT, TRACE, PAGE = Path("demo-report.json"), Path("demo-trace.json"), Path("demo-plan.html")
HERE = Path(__file__).parent


def pipecut(*arguments: str) -> None:
    """Show a command, run it, end with its exit code if it fails."""
    print(f"\n$ pipecut {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "pipecut", *arguments]).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Measure this machine and the job, compile, check, run, draw."""
    job = str(HERE / "demo.yaml")
    pipecut("calibrate", "--ranks", "2", "--device", "cpu", "-o", str(CLUSTER))
    pipecut("profile", job, "--device", "cpu")
    pipecut("compile", job, "--cluster", str(CLUSTER), "-o", str(PLAN), "--explain")
    pipecut("check", str(PLAN))
    loop = "--data", "examples.corpus:batches", "--steps", "200", "--lr", "1e-3", "--clip", "1.0"
    pipecut("run", str(PLAN), *loop, "--report", str(REPORT), "--trace", str(TRACE))
    run = "--run", str(REPORT), "--trace", str(TRACE)
    pipecut("view", str(PLAN), *run, "-o", str(PAGE))
    print(
        f"\nThe plan lies in {PLAN}/. Open {PLAN}/plan.yaml for what was decided and proven, "
        f"{PLAN}/stages/stage_0.py for the code rank 0 ran,"
        f" {PLAN}/schedule.yaml for its actions in order."
        f"\nAll of it, with this run, on one page for your browser: {PAGE.resolve().as_uri()}"
    )


if __name__ == "__main__":
    main()
