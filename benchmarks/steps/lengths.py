"""Samples of FLAN-like lengths on two CPU ranks: listed, beside padded to the longest.

python -m benchmarks.steps.lengths

Lengths are drawn from a log-normal distribution, as those of instruction data roughly are. Prints
the exactness of such steps, the predicted step beside one whose microbatches had no padding, and
seconds of steps in turn. Figures go to docs/figures.json.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.figures import write_figures
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.folder import PlanFolder, read_plan
from pipecut.plan.replay.lengths import costs_for, predicted_for
from pipecut.plan.replay.simulate import Costs, costs_of, simulate
from pipecut.plan.schema import Plan, Sizes
from pipecut.runtime.batches.microbatches import divided
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.pipeline import load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.verify.verify import verify

LONGEST, SAMPLES, ROUNDS, WARM = 128, 64, 6, 1
MICROBATCHES = (2, 4)
# Tokens: the median of a sample, and the deviation of its logarithm.
MEDIAN, SPREAD = 32, 0.6
IGNORED = -100
# Bars: of the predicted step beside its tokens alone, and of padding to the longest.
OVERHEAD, FASTER = 1.05, 1.5
JOB = """model: {{factory: "examples.gpt2:build", args: {{size: demo}}}}
inputs: "benchmarks.steps.lengths:inputs"
batch:
  {{global: 64, microbatch: {microbatch}, order: balanced, pad: {{input_ids: 0, labels: -100}}}}
reduction: tokens
lengths: dynamic
schedule: 1f1b
stages: 2
"""


def inputs(samples: int, length: int = LONGEST) -> dict[str, torch.Tensor]:
    """Random tokens."""
    ids = torch.randint(0, 256, (samples, length))
    return {"input_ids": ids, "labels": ids.clone()}


def listed(seed: int) -> dict[str, list[torch.Tensor]]:
    """A batch of samples that each have their own length."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (MEDIAN * (SPREAD * torch.randn(SAMPLES, generator=generator)).exp()).long()
    ids = [
        torch.randint(0, 256, (int(length),), generator=generator)
        for length in drawn.clamp(4, LONGEST)
    ]
    return {"input_ids": ids, "labels": [each.clone() for each in ids]}


def padded(batch: dict[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The same samples, all as long as the longest that the plan takes."""
    values = {"input_ids": 0, "labels": IGNORED}
    return {
        name: torch.stack(
            [torch.nn.functional.pad(s, (0, LONGEST - len(s)), value=values[name]) for s in samples]
        )
        for name, samples in batch.items()
    }


def predicted_overhead(folder: PlanFolder, batch: dict[str, list[torch.Tensor]]) -> float:
    """The predicted step beside one whose microbatches take what their samples alone would."""
    parts = divided(folder.plan, batch, folder.plan.microbatches)
    step = predicted_for(folder, [part.sizes for part in parts]).step_seconds
    whole = costs_of(folder.plan)
    alone = []
    for part in parts:
        lengths = (part.tensors["labels"] != IGNORED).sum(1).tolist()
        sizes: list[Sizes] = [{"batch": 1, "length": length} for length in lengths]
        alone.append(_together(folder.plan, [costs_for(folder.plan, whole, e) for e in sizes]))
    return step / simulate(folder.actions, replace(whole, by_microbatch=alone)).step_seconds


def _together(plan: Plan, samples: list[Costs]) -> Costs:
    """The costs of a microbatch that takes what its samples take; messages have one latency."""
    latency = {boundary.left: boundary.latency for boundary in plan.boundaries}
    transfers = {
        hop: sum(each.transfers[hop] for each in samples)
        - (len(samples) - 1) * latency[hop.receiver - 1 if hop.direction == "F" else hop.receiver]
        for hop in samples[0].transfers
    }
    return replace(
        samples[0],
        transfers=transfers,
        forward=[sum(each) for each in zip(*(s.forward for s in samples), strict=True)],
        backward=[sum(each) for each in zip(*(s.backward for s in samples), strict=True)],
        weights=[sum(each) for each in zip(*(s.weights for s in samples), strict=True)],
    )


def rank() -> None:
    """Steps of listed and padded samples in turn; rank 0 writes their seconds."""
    file, plan = sys.argv[1:]
    pipe = load_pipeline(Path(plan), None)
    rows = []
    for number in range(ROUNDS + WARM):
        batch = listed(number)
        row = []
        for given in (batch, padded(batch)):
            dist.barrier()
            begin, cpu = time.perf_counter(), time.process_time()
            loss = pipe.step(**given)
            row.append(
                [time.perf_counter() - begin, time.process_time() - cpu, float(loss.detach())]
            )
            for parameter in pipe.parameters():
                parameter.grad = None
        rows.append(row)
    if os.environ["RANK"] == "0":
        Path(file).write_text(json.dumps(rows[WARM:]))
    leave_world(pipe.world)


def measured(microbatch: int) -> dict[str, Any]:
    """The figures of microbatches of so many samples."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "job.yaml").write_text(JOB.format(microbatch=microbatch))
        compile(folder / "job.yaml", "auto", folder / "plan", Options(SizeOverrides(stages=2)))
        result = verify(folder / "plan", steps=2)
        plan = read_plan(folder / "plan")
        overheads = [predicted_overhead(plan, listed(n)) for n in range(ROUNDS)]
        times = folder / "times.json"
        launch(2, "benchmarks.steps.lengths", [str(times), str(folder / "plan")])
        rows = json.loads(times.read_text())
    faster = statistics.median(of_padded[0] / of_listed[0] for of_listed, of_padded in rows)
    less = statistics.median(of_padded[1] / of_listed[1] for of_listed, of_padded in rows)
    apart = max(abs(a[2] - b[2]) / abs(b[2]) for a, b in rows)
    return {
        "exact": result.passed,
        "overhead": round(statistics.median(overheads), 3),
        "worst_overhead": round(max(overheads), 3),
        "faster": round(faster, 2),
        "less_cpu": round(less, 2),
        "losses_apart": float(f"{apart:.1e}"),
    }


def main() -> None:
    """Print the figures and whether the bars are met."""
    met = True
    for microbatch in MICROBATCHES:
        row = measured(microbatch)
        print(
            f"microbatches of {microbatch}: exact: {row['exact']}; predicted step beside its "
            f"tokens alone: {row['overhead']} in the median, {row['worst_overhead']} at most"
        )
        print(
            f"padded to the longest: {row['faster']} x the seconds, {row['less_cpu']} x the CPU's"
        )
        print(f"losses of both are {row['losses_apart']} apart", flush=True)
        met = met and row["exact"] and row["overhead"] <= OVERHEAD and row["faster"] >= FASTER
        write_figures("lengths", {f"{microbatch} samples, gpt2 demo, 2 ranks": row})
    print("bars met" if met else "bars missed")


if __name__ == "__main__":
    rank() if len(sys.argv) > 1 else main()
