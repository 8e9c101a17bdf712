"""How each page is tried: what it takes for granted, and what is not run, with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Optimizer steps and checkpoints of the pages, and of their trial.
SHORTER = (
    ("--steps 1000", "--steps 20"),
    ("--checkpoint-every 100", "--checkpoint-every 2"),
    ("step_00000800", "step_00000016"),
)
PLAN = "pipecut compile job.yaml --stages 2 -o plan/"
CLASSIFIER = "pipecut compile examples/classifier.yaml -o plan/"
LLAMA = "python make_llama.py"
MACHINES = "needs several machines"
OUTLINE = "an outline of the reader's own code"


@dataclass(frozen=True)
class Trial:
    """How a page is tried.

    `before` are commands before its first; `first` those before a command or Python that begins
    so.
    `preamble` are lines before its Python, which two ranks run; where a block takes `pipe` for
    granted, the plan is loaded after them, and `loaded` are lines after that. `left_out` has
    the reasons of commands and blocks that begin so. `packages` must be installed.
    """

    before: tuple[str, ...] = ()
    first: Mapping[str, str] = field(default_factory=dict)
    preamble: str = ""
    loaded: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


TRIALS = {
    "README.md": Trial(
        before=(LLAMA,),
        # The clusters of the page have 16 GPUs and 8.
        first={"pipecut verify plan/": PLAN, "pipe = pipecut.load(": PLAN},
        preamble="import pipecut\nfrom mymodel import batches\n",
        left_out={
            "make": "sets up an environment",
            "demo-plan/": "a listing",
            "def build": OUTLINE,
        },
        packages=("transformers",),
    ),
    "docs/guide.md": Trial(
        before=(PLAN, "pipecut compile job.yaml --stages 1 -o other-plan/"),
        first={
            "pipecut run plan/ --steps 1000 --checkpoint-every 100 --max-restarts 5": (
                "rm -rf checkpoints"
            ),
        },
        preamble=(
            "import pipecut\nfrom mymodel import batches\n"
            "step, batch = 1, next(batches())\nids, labels = batch.values()\n"
        ),
        left_out={
            "loss = pipe.step(input_ids=[": OUTLINE,
            "def batches": OUTLINE,
            "pipecut: rank 2": "a message",
            "pipecut timeline": "needs matplotlib",
            "export": MACHINES,
            "torchrun": MACHINES,
            "pipecut run /shared": "tests/runtime/test_moved_plan.py",
        },
    ),
    "docs/own-loop.md": Trial(
        before=(CLASSIFIER,),
        preamble="import torch, pipecut\nfrom examples.classifier import batches\n",
        loaded="optimizer, batch = pipe.optimizer(), next(batches())\n",
    ),
    "docs/evaluation.md": Trial(
        preamble="import pipecut\nfrom examples.classifier import validation\n",
    ),
    "docs/inference.md": Trial(
        preamble="import pipecut\nfrom examples.classifier import questions\n"
    ),
    "docs/hugging-face.md": Trial(before=(LLAMA,), packages=("transformers",)),
    "docs/lora.md": Trial(before=(LLAMA,), packages=("transformers", "peft")),
    "docs/onnx.md": Trial(
        before=(CLASSIFIER, "pipecut run plan/ --steps 2 --checkpoint-every 2"),
        first={"pipecut solve": "cp onnx/stage_0.onnx model.onnx"},
        preamble=(
            "from examples.classifier import questions\n"
            "batch = {name: tensor.numpy() for name, tensor in next(questions()).items()}\n"
        ),
        left_out={"pip ": "sets up an environment", "onnx/": "a listing"},
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
    "docs/other-tools.md": Trial(
        before=(PLAN,),
        first={"pipecut schedule import": "cp schedule.csv zero_bubble.csv"},
        left_out={"pipecut: x.csv": "a message", "note:": "a message"},
    ),
    "docs/view.md": Trial(before=(PLAN, "pipecut compile job.yaml --stages 1 -o other-plan/")),
}
