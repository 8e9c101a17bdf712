"""Plans made by hand: a chain of stages that each hold one weight, to start tests from values."""

import json
from pathlib import Path
from typing import Any

from pipecut.plan.folder import GRAPH, SCHEDULE, file_hash, write_plan
from pipecut.plan.schema import (
    VERSION,
    Batch,
    Boundary,
    CertificateRecord,
    ModelRef,
    Plan,
    Prediction,
    Stage,
    StageMemory,
    StageTensor,
    Tensor,
)

# Bytes of a microbatch that are easy to tell apart in sums.
PASSES = StageMemory(
    forward_peak=30,
    kept=20,
    saved=10,
    first_backward_peak=70,
    backward_peak=40,
    gradients=64,
)


def made_tensor(name: str, **fields: Any) -> Tensor:
    """A float32 tensor of 4 numbers per sample, with a gradient."""
    return Tensor(
        **{"name": name, "shape": ["batch", 4], "dtype": "float32", "needs_grad": True} | fields
    )


def made_stage(index: int = 0, stages: int = 1, /, **fields: Any) -> Stage:
    """A stage of a chain: takes `x` or what the stage before sends; its weight has 16 numbers."""
    last = index == stages - 1
    weight = StageTensor(
        names=[f"layers.{index}.weight"], shape=[4, 4], dtype="float32", trainable=True
    )
    return Stage(
        **{
            "index": index,
            "pipeline_rank": index,
            "device": "slow-core",
            "device_type": "cpu",
            "file": f"stages/stage_{index}.py",
            "modules": [f"layers.{index}"],
            "operators": 1,
            "receives": [f"hidden_{index - 1}"] if index else [],
            "batch_inputs": [] if index else ["x"],
            "sends": [] if last else [f"hidden_{index}"],
            "parameters": [weight],
            "buffers": [],
            "parameter_count": 16,
            "forward_seconds": 1.0,
            "backward_seconds": 2.0,
            "load_seconds": 3.0,
            "recompute": False,
            "memory_bytes": 1000,
            "capacity_bytes": 10_000,
            "bytes_sent": 0 if last else 32,
            "device_bytes": 10_000,
            "passes": PASSES,
        }
        | fields
    )


def made_plan(count: int = 2, /, **fields: Any) -> Plan:
    """A plan of that many stages, one per rank; a step has 4 microbatches of 2 samples."""
    return Plan(
        **{
            "version": VERSION,
            "pipecut": "0",
            "torch": "2",
            "cluster": "made",
            "model": ModelRef(
                factory="models:build",
                args={},
                inputs="models:inputs",
                loss=None,
                folders=[],
                precision="fp32",
                seed=0,
                weights=None,
            ),
            "batch": Batch(global_size=8, microbatch=2, dynamic=True),
            "optimizer": "sgd",
            "schedule": "1f1b",
            "inputs": [made_tensor("x", needs_grad=False)],
            "stages": [made_stage(index, count) for index in range(count)],
            "boundaries": [
                Boundary(
                    left=left, tensors=[made_tensor(f"hidden_{left}")], bandwidth=1e9, latency=0.0
                )
                for left in range(count - 1)
            ],
            "tied": [],
            "prediction": Prediction(step_seconds=15.0, bubble=0.2),
            "certificate": CertificateRecord(
                objective=3.0, bound=3.0, gap=0.0, proven=True, solver="none", seconds=0.0
            ),
            "notes": [],
            "hashes": {},
        }
        | fields
    )


OPERATOR = {
    "name": "hidden_0",
    "target": "aten.linear.default",
    "module": "layers.0",
    "source": "model.py:3",
    "inputs": ["x", "weight_0"],
    "stage": 0,
    "forward_seconds": {"slow-core": 1.0},
    "backward_seconds": {"slow-core": 2.0},
    "saved_bytes": 8,
    "transient_bytes": 16,
}
GRAPH_DATA = {
    "loss": "hidden_0",
    "operators": [OPERATOR],
    "values": {"x": {"shape": ["batch", 4], "dtype": "float32", "bytes": 32, "needs_grad": False}},
    "parameters": [
        {"value": "weight_0", "names": ["layers.0.weight"], "bytes": 64, "trainable": True}
    ],
    "buffers": [{"value": "seen_0", "names": ["layers.0.seen"]}],
    "problem": {"anything": "is not read"},
}


def write_made_plan(
    folder: Path,
    schedule: str = "ranks:\n  - [F 0.0, B 0.0]\n",
    graph: str = json.dumps(GRAPH_DATA),
    **fields: Any,
) -> Path:
    """A plan folder of one stage, with its hashes and seal, that reads but proves nothing."""
    stage = made_stage()
    (folder / "stages").mkdir(exist_ok=True)
    for name, text in ((stage.file, "class Stage0: ...\n"), (SCHEDULE, schedule), (GRAPH, graph)):
        (folder / name).write_text(text)
    hashes = {name: file_hash(folder / name) for name in (stage.file, SCHEDULE, GRAPH)}
    write_plan(folder, made_plan(1, **{"hashes": hashes} | fields))
    return folder
