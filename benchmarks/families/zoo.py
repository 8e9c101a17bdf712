"""A folder of models by name: where it is, and a job that builds one of them.

The folder has `models.txt` with a name per line and `zoo.py` with `build(name)`, a module;
`inputs(name, samples)`, a batch; and `loss(name)`, a function of output and batch.
"""

import sys
import types
from pathlib import Path

import yaml

from benchmarks.families.sizes import with_own_sizes
from benchmarks.figures import ROOT
from benchmarks.slow_cores import SLOW_CORES

DEFAULT = ROOT.parent / "shared" / "zoo"
JOB, CLUSTER, PLAN = "job.yaml", "cluster.yaml", "plan"
# The module of a job's folder that has its functions.
MODULE = "family"
SAMPLES, MICROBATCH = 8, 2
FUNCTIONS = '''"""A model of the zoo for pipecut."""

import sys

sys.path.insert(0, {folder!r})

import torch
import zoo


def build():
    torch.manual_seed(0)
    return zoo.build({name!r})


def inputs(samples):
    torch.manual_seed(1)
    return zoo.inputs({name!r}, samples)


def loss(output, batch):
    return zoo.loss({name!r})(output, batch)
'''


def names_in(folder: Path) -> list[str]:
    """The names of models.txt. Ends the benchmark where there is none."""
    file = folder / "models.txt"
    if not file.exists():
        sys.exit(
            f"no zoo: looked for {file}; give the folder that has models.txt and zoo.py "
            "with --zoo FOLDER"
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def write_job(name: str, zoo: Path, folder: Path) -> None:
    """A folder with a job for the model, its functions and a cluster."""
    job = {
        "model": {"factory": f"{MODULE}:build"},
        "inputs": f"{MODULE}:inputs",
        "loss": f"{MODULE}:loss",
        "batch": {"global": SAMPLES, "microbatch": MICROBATCH},
        "optimizer": "adamw",
        "schedule": "1f1b",
        "seed": 0,
    }
    functions = FUNCTIONS.format(name=name, folder=str(zoo.resolve()))
    (folder / f"{MODULE}.py").write_text(functions, encoding="utf-8")
    (folder / JOB).write_text(yaml.safe_dump(job), encoding="utf-8")
    (folder / CLUSTER).write_text(SLOW_CORES, encoding="utf-8")


def import_zoo(folder: Path) -> types.ModuleType:
    """The folder's zoo.py, with all that it imports, and sizes of ours for a few models."""
    import importlib

    sys.path.insert(0, str(folder.resolve()))
    _import_torchvision()
    return with_own_sizes(importlib.import_module("zoo"))


def _import_torchvision() -> None:
    """Import it where it is installed, even where its compiled operators are for another torch.

    It describes two of them to torch when it is imported, and fails if they are not there. Models
    of images do without.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            operators.define(operator + signature)
        # A library's operators go with it.
        _KEPT.append(operators)
        import torchvision  # noqa: F401


_KEPT: list[object] = []
