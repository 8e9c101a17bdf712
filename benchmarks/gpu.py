"""What a machine with one GPU can prove of pipecut in a quarter of an hour.

python -m benchmarks.gpu [-o gpu.json] [PART ...]

| part | what | seconds at most |
|---|---|---|
| one_device | stages on one rank beside the unsplit model, float32 and bf16: numbers, time | 240 |
| families | six families in bf16 on one rank beside the unsplit model | 180 |
| memory | the predicted peak of each family beside max_memory_allocated | 120 |
| calibrate | calibrate's rates beside a product of 8,192 cubed, and what the context takes | 150 |
| two_ranks, four_ranks | NCCL ranks that share the GPU, each schedule beside unsplit | 120 each |
| faults | a rank killed in training: the run goes on and ends with the same weights | 90 |

Each part is a process of its own, ended at its limit with the results so far. The results, and what
was skipped and why, are printed and written as JSON. NCCL refuses two ranks on one GPU unless each
says that it is another host (NCCL_HOSTID); where that does not work, the part says so.
`--device cpu` runs what needs no GPU on CPU ranks, to try the program itself.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml

from benchmarks.shapes import SHAPES
from benchmarks.steps import one_device
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.device.memory import workspace_bytes
from pipecut.errors import PipecutError
from pipecut.runtime.pipeline import load_pipeline
from pipecut.runtime.training.data import batches
from pipecut.runtime.verify.verify import verify

HERE = Path(__file__).parents[1]
# Where the schedule leaves it open.
STAGES_PER_RANK = 2
Result = dict[str, Any]
# Takes what a part found, as soon as it is found.
Save = Callable[[str, Any], None]


@dataclass(frozen=True)
class Part:
    """What runs, in how many seconds at the most, and whether it can do nothing without a GPU."""

    run: Callable[[str, Path, Save], None]
    seconds: int
    needs_gpu: bool = False


def job_of(name: str, folder: Path, precision: str, microbatches: int = 4) -> Path:
    """A job of one of the families."""
    factory, inputs, size = SHAPES[name]
    text = {
        "model": {"factory": f"benchmarks.shapes:{factory}"},
        "inputs": f"benchmarks.shapes:{inputs}",
        "batch": {"global": size * microbatches, "microbatch": size},
        "precision": precision,
    }
    path = folder / f"{factory}-{precision}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def on_one_rank(name: str, folder: Path, precision: str) -> Path:
    """A plan of a family with all its stages on one device."""
    plan = folder / f"plan-{name}-{precision}"
    sizes = SizeOverrides(stages=2, schedule="interleaved", stages_per_rank=2)
    compile(job_of(name, folder, precision), "auto", plan, Options(sizes, costs="roofline"))
    return plan


def largest(plan: Path, device: str, devices: list[dict[str, str]] | None = None) -> Result:
    """Whether verify passes, and the largest difference of each kind."""
    compared = verify(plan, 2, device=device, devices=devices)
    worst = {kind: difference.value for kind, difference in compared.worst.items()}
    return {"passed": compared.passed, **worst}


def one_device_part(device: str, folder: Path, save: Save) -> None:
    """The same numbers as the unsplit model, and the engine's step over its step."""
    for precision in ("fp32", "bf16"):
        plan = one_device.plan_of(folder / precision, device, precision)
        ours, theirs = one_device.in_turn(plan, device)
        ratio = sorted(a / b for a, b in zip(ours, theirs, strict=True))[len(ours) // 2]
        step = sorted(ours)[len(ours) // 2]
        save(precision, {**largest(plan, device), "step over unsplit": ratio, "step seconds": step})


def families_part(device: str, folder: Path, save: Save) -> None:
    """Every family in bf16."""
    for name in SHAPES:
        save(name, largest(on_one_rank(name, folder, "bf16"), device))


def memory_part(device: str, folder: Path, save: Save) -> None:
    """The predicted peak over the measured one, by family, in the second step."""
    for name in SHAPES:
        path = on_one_rank(name, folder, "fp32")
        pipe = load_pipeline(path, device)
        optimizer = pipe.optimizer()
        source = batches(pipe, None, path)
        for step in range(2):
            batch = next(source)
            if step:
                torch.cuda.reset_peak_memory_stats()
            pipe.step(**batch)
            optimizer.step()
        peak, predicted = (
            torch.cuda.max_memory_allocated(),
            max(stage.peak_bytes for stage in pipe.plan.stages),
        )
        del pipe, optimizer, source, batch
        gc.collect()
        # cuBLAS's workspaces lie in the allocator too; a cluster's reserve counts them.
        workspaces = workspace_bytes(torch.device("cuda", 0))
        measured = peak - workspaces
        save(
            name,
            {
                "predicted": predicted,
                "measured": measured,
                "workspaces": workspaces,
                "predicted over measured": predicted / measured,
            },
        )
        torch.cuda.empty_cache()


def calibrate_part(device: str, folder: Path, save: Save) -> None:
    """Calibrate's rates beside a matrix product of 8,192 cubed, timed with events around twenty."""
    from pipecut.calibrate.calibrate import calibrate
    from pipecut.compiler.inputs.cluster_file import read_cluster

    calibrate(1, device, folder / "cluster.yaml")
    cluster = read_cluster(str(folder / "cluster.yaml"))
    rates = dict(cluster.devices[0].flops)
    save("reserve", cluster.reserve)
    size, times = (8192, 20) if device == "cuda" else (512, 5)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        rate = 2 * size**3 / product_seconds(a, b, times)
        save(
            name,
            {
                "calibrate": rates[name],
                f"{size} cubed": rate,
                "calibrate over it": rates[name] / rate,
            },
        )


def product_seconds(a: torch.Tensor, b: torch.Tensor, times: int) -> float:
    """Of one product, of so many queued."""
    a @ b
    if a.device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        a @ b
    if a.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times


def ranks_part(ranks: int) -> Callable[[str, Path, Save], None]:
    """Real ranks that share the device: each schedule, beside the unsplit model."""

    def run(device: str, folder: Path, save: Save) -> None:
        job = job_of("GPT-2", folder, "fp32", 2 * ranks)
        cluster = folder / "cluster.yaml"
        cluster.write_text(shared_cluster(device, ranks))
        # Each rank sees one device, and says that it is a host of its own.
        hosts = [
            {"CUDA_VISIBLE_DEVICES": "0", "LOCAL_RANK": "0", "NCCL_HOSTID": f"host-{rank}"}
            for rank in range(ranks)
        ]
        for schedule, known in SCHEDULES.items():
            plan = folder / schedule
            sizes = SizeOverrides(
                stages=ranks * (known.stages_per_rank or STAGES_PER_RANK),
                schedule=schedule,
                stages_per_rank=STAGES_PER_RANK if known.stages_per_rank is None else None,
            )
            try:
                compile(job, str(cluster), plan, Options(sizes, costs="roofline"))
                save(schedule, largest(plan, device, hosts if device == "cuda" else None))
            except PipecutError as error:
                save(schedule, {"passed": False, "error": str(error)})

    return run


def shared_cluster(device: str, ranks: int) -> str:
    """A cluster file of so many devices that are one, each with its share of the memory."""
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 8 * 2**30
    kind = {
        "memory": f"{memory // ranks}B",
        "bandwidth": "1TB/s",
        "flops": {"fp32": "20TFLOP/s"},
        "type": device,
        "source": "shared",
    }
    node = {"devices": {"share": ranks}, "link": "itself"}
    link = {"bandwidth": "20GB/s", "latency": "20us"}
    text = {
        "name": "one-gpu",
        "nodes": [node],
        "devices": {"share": kind},
        "links": {"itself": link},
        "reserve": "1GiB",
    }
    return yaml.safe_dump(text)


def faults_part(device: str, folder: Path, save: Save) -> None:
    """Weights after a run whose rank is killed in the middle, beside those of a calm run."""
    from benchmarks.faults.kills import disturbed
    from benchmarks.faults.kinds import weights_of

    plan = on_one_rank("GPT-2", folder, "fp32")
    # A step takes a CPU rank tenths of a second, and a GPU some hundredths.
    steps, every = (30, 5) if device == "cpu" else (300, 50)
    command = [
        sys.executable,
        "-m",
        "pipecut",
        "run",
        str(plan),
        "--steps",
        str(steps),
        "--checkpoint-every",
        str(every),
        "--device",
        device,
    ]
    calm = disturbed(
        [*command, "--checkpoints", str(folder / "calm")], 1, 0, (1.0, 3.0), folder / "a"
    )
    killing = [*command, "--checkpoints", str(folder / "killed"), "--max-restarts", "2"]
    killed = disturbed(killing, 1, 1, (1.0, 3.0), folder / "b")
    if calm.code or killed.code:
        save("error", (calm.output + killed.output)[-2000:])
        return
    before, after = weights_of(plan, folder / "calm"), weights_of(plan, folder / "killed")
    equal = before.keys() == after.keys() and all(
        torch.equal(tensor, after[name]) for name, tensor in before.items()
    )
    save("passed", equal and bool(killed.killed) and not killed.orphans)
    save("killed", list(killed.killed))


PARTS = {
    "one_device": Part(one_device_part, 240),
    "families": Part(families_part, 180),
    "memory": Part(memory_part, 120, needs_gpu=True),
    "calibrate": Part(calibrate_part, 150),
    "two_ranks": Part(ranks_part(2), 120),
    "four_ranks": Part(ranks_part(4), 120),
    "faults": Part(faults_part, 90),
}
app = typer.Typer(add_completion=False)


def run_part(name: str, device: str) -> Result:
    """In a process of its own, ended at the part's limit with all that it started."""
    part = PARTS[name]
    if part.needs_gpu and device != "cuda":
        return {"skipped": "it needs a GPU"}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipecut-gpu-") as scratch:
        output = Path(scratch) / "result.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            "--only",
            name,
            "--device",
            device,
            "-o",
            str(output),
        ]
        environment = {**os.environ, "TMPDIR": scratch}
        running = subprocess.Popen(command, cwd=HERE, env=environment, start_new_session=True)
        try:
            code = running.wait(part.seconds)
            ended = {"error": f"exit code {code}; see above"} if code else {}
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            ended = {"skipped": f"the rest: it took over {part.seconds} s"}
        result: Result = json.loads(output.read_text()) if output.is_file() else {}
    return {**result, **ended, "seconds": round(time.monotonic() - begin, 1)}


def run_here(name: str, device: str, output: Path) -> None:
    """The part itself, which writes its results so far."""
    result: Result = {}

    def save(key: str, value: Any) -> None:
        result[key] = value
        output.write_text(json.dumps(result))

    with tempfile.TemporaryDirectory(prefix="pipecut-part-") as scratch:
        PARTS[name].run(device, Path(scratch), save)


@app.command()
def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(PARTS)}; by default all.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; by default a GPU where there is one.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path(
        "gpu.json"
    ),
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the parts one after the other; results so far are written after each."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if only is not None:
        run_here(only, kind, output)
        return
    unknown = [name for name in parts or () if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"no part '{unknown[0]}'; there are {', '.join(PARTS)}")
    where = torch.cuda.get_device_name() if kind == "cuda" else "CPU"
    results: Result = {"device": where, "torch": torch.__version__, "parts": {}}
    for name in parts or PARTS:
        print(f"{name} ...", flush=True)
        results["parts"][name] = result = run_part(name, kind)
        print(f"{name}: {json.dumps(result)}", flush=True)
        output.write_text(json.dumps(results, indent=1))
    skipped = [
        name
        for name, result in results["parts"].items()
        if "skipped" in result or "error" in result
    ]
    print(f"written to {output}; not done: {', '.join(skipped) or 'nothing'}")


if __name__ == "__main__":
    app()
