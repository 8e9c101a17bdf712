"""Compiles and verifies models that it is told, and says what happened.

python -m benchmarks.families.worker ZOO SECONDS

A name per line of standard input; for each a line of JSON: kind, seconds, difference, reason. All
libraries are imported once, here; each model's processes are forked from this one, which runs
nothing itself. Every rank of a plan is a process, and ranks meet over gloo, as those of
`pipecut verify`.
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.export

from benchmarks.families.outcome import Kind, shortened
from benchmarks.families.processes import Ended, Work, run_forked
from benchmarks.families.zoo import CLUSTER, JOB, MODULE, PLAN, import_zoo, write_job
from benchmarks.slow_cores import STAGES
from pipecut.compiler.entry import compile
from pipecut.compiler.request import Options
from pipecut.compiler.search.sizes import SizeOverrides
from pipecut.errors import PipecutError
from pipecut.model.comparison import Comparison
from pipecut.model.unsplit import WithLoss
from pipecut.plan.folder import plan_in
from pipecut.runtime.health.rank_errors import print_error
from pipecut.runtime.health.status import FOLDER
from pipecut.runtime.launch.launch import environment_of_rank
from pipecut.runtime.ranks.environment import STORE
from pipecut.runtime.verify.rank import run_rank
from pipecut.runtime.verify.verify import compare_run

Row = dict[str, Any]
ANSWER = "answer.json"
CPU = "cpu"


def outcome_of(name: str, zoo: Path, limit: float) -> Row:
    """What becomes of a model; no process of it may take longer than `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="pipecut-family-") as scratch:
        folder = Path(scratch)
        write_job(name, zoo, folder)
        compiled = _alone(lambda: compile_in(folder), folder, limit)
        row: Row = {"seconds": round(compiled.seconds, 1)}
        if compiled.code is None:
            return row | {"kind": Kind.TIMEOUT, "reason": f"compiling takes over {limit:g} s"}
        if compiled.code:
            unbuilt = _alone(lambda: run_unsplit(folder), folder, limit)
            if unbuilt.code:
                return {"kind": Kind.NOT_BUILT, "reason": _last_line(unbuilt)}
            refused = compiled.code == PipecutError.exit_code
            return row | {
                "kind": Kind.REFUSED if refused else Kind.FAILED,
                "reason": compiled.printed if refused else f"compile: {_last_line(compiled)}",
            }
        return row | _verified(folder, limit)


def _verified(folder: Path, limit: float) -> Row:
    """Trains a step on real ranks and without them, and compares."""
    ranks = plan_in(folder / PLAN).ranks
    written = folder / "written"
    written.mkdir()
    meeting = {FOLDER: str(written), STORE: str(folder / "store")}

    def work_of(rank: int) -> Work:
        environment = environment_of_rank(ranks, rank, limit) | meeting
        return Work(lambda: train_rank(folder, written), environment, folder / f"rank-{rank}")

    ended = run_forked([work_of(rank) for rank in range(ranks)], limit)
    if all(end.code is None for end in ended):
        return {"kind": Kind.TIMEOUT, "reason": f"a step takes over {limit:g} s"}
    failed = [end for end in ended if end.code]
    if failed or any(end.code is None for end in ended):
        said = [end for end in failed if end.printed.strip()] or failed
        return {"kind": Kind.FAILED, "reason": f"run: {_last_line(said[0])}"}
    compared = _alone(lambda: compare(folder, written), folder, limit)
    if compared.code is None:
        return {"kind": Kind.TIMEOUT, "reason": f"the unsplit model takes over {limit:g} s"}
    if compared.code:
        return {"kind": Kind.FAILED, "reason": f"verify: {_last_line(compared)}"}
    answer: Row = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    return answer


def _alone(run: Callable[[], int], folder: Path, limit: float) -> Ended:
    """Run a function in a process of its own."""
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as output:
        return run_forked([Work(run, {}, Path(output.name))], limit)[0]


def compile_in(folder: Path) -> int:
    """Compile a folder's job; exit code 1 where that is refused, and the message is printed."""
    options = Options(SizeOverrides(stages=STAGES), costs="roofline")
    try:
        compile(folder / JOB, str(folder / CLUSTER), folder / PLAN, options)
    except PipecutError as error:
        print(error)
        return PipecutError.exit_code
    return 0


def run_unsplit(folder: Path) -> int:
    """Build the model, and run it forward and backward, without compiling anything."""
    sys.path.insert(0, str(folder))
    family = __import__(MODULE)
    model = WithLoss(family.build(), family.loss).train()
    model(family.inputs(2)).backward()
    return 0


def train_rank(folder: Path, written: Path) -> int:
    """A step of one rank, as a rank of `pipecut verify` trains it."""
    try:
        run_rank(folder / PLAN, written, 1, CPU, False, None)
    except PipecutError as error:
        print_error(error)
        return error.exit_code
    return 0


def compare(folder: Path, written: Path) -> int:
    """Compare what ranks wrote with the unsplit model; the answer is a file."""
    comparison = compare_run(plan_in(folder / PLAN), written, 1, CPU)
    (folder / ANSWER).write_text(json.dumps(_judged(comparison)), encoding="utf-8")
    return 0


def _judged(comparison: Comparison) -> Row:
    kind, worst = max(comparison.worst.items(), key=lambda item: item[1].value)
    reason = "" if comparison.passed else f"{kind} {worst.name}"
    for kind, rounded in comparison.rounded.items() if comparison.passed else ():
        reason = f"but {rounded.value:.1e} by rounding ({kind} {rounded.name})"
    exact = Kind.EXACT if comparison.passed else Kind.INEXACT
    return {"kind": exact, "difference": worst.value, "reason": reason}


def _last_line(ended: Ended) -> str:
    """What a process said last, or how it ended."""
    lines = [line.strip() for line in ended.printed.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {ended.code}"


def main() -> None:
    """Answer each line of standard input."""
    zoo, limit = Path(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(1)
    # What models print goes elsewhere than the answers.
    answers = sys.stdout
    sys.stdout = sys.stderr
    import_zoo(zoo)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            row = outcome_of(line.strip(), zoo, limit)
        except Exception:
            row = {"kind": Kind.FAILED, "reason": traceback.format_exc().splitlines()[-1]}
        row["reason"] = shortened(row.get("reason", ""))
        print(json.dumps(row), file=answers, flush=True)


if __name__ == "__main__":
    main()
