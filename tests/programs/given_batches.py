"""A rank that makes a step of each batch as it comes: PLAN MICROBATCH FOLDER; no optimizer steps.

It writes `RANK.pt`: of each batch the loss, and the gradients of this rank's parameters.
"""

import sys
from pathlib import Path

import torch

from pipecut.runtime.pipeline import load_pipeline
from pipecut.runtime.ranks.world import leave_world
from tests.models.batches.causal import batches


def main() -> None:
    plan, microbatch, folder = sys.argv[1:]
    pipe = load_pipeline(Path(plan), "cpu")
    made = {}
    for name, batch in batches(int(microbatch)).items():
        loss = pipe.step(**batch)
        gradients = {n: p.grad.clone() for n, p in pipe.named_parameters() if p.grad is not None}
        made[name] = {"loss": loss.detach(), **gradients}
        made[name]["eval loss"] = pipe.eval_step(**batch).detach()
        for parameter in pipe.parameters():
            parameter.grad = None
    torch.save({"made": made, "state": pipe.state_dict()}, Path(folder) / f"{pipe.world.rank}.pt")
    leave_world(pipe.world)


if __name__ == "__main__":
    main()
