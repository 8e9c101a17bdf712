"""The plan's schema and its reader: the contract between compiler and runtime."""

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipecut.errors import PlanError

VERSION = 4
Dimension = int | str
ITEM_BYTES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


class Part(BaseModel):
    """Base of the schema: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRef(Part):
    """Where the unsplit model comes from; needed to initialise and to verify."""

    factory: str
    args: dict[str, Any]
    inputs: str
    loss: str | None
    folders: list[str]
    precision: Literal["fp32", "bf16", "fp16"]
    seed: int
    weights: str | None


class Batch(Part):
    """Samples a step, samples a microbatch; `dynamic` when any other size works too."""

    global_size: int
    microbatch: int
    dynamic: bool


class Tensor(Part):
    """A tensor over a boundary or from the batch. Dimensions are ints or expressions in `batch`.

    `order` lists the dimensions from the outermost in memory to the innermost; empty when that is their own order.
    """

    name: str
    shape: list[Dimension]
    dtype: str
    needs_grad: bool = False
    order: list[int] = []

    def sizes(self, batch: int) -> list[int]:
        """The shape for a microbatch of that many samples."""
        return [evaluate(d, batch) for d in self.shape]

    def bytes_for(self, batch: int) -> int:
        """Bytes of a microbatch of that many samples."""
        return prod(self.sizes(batch)) * ITEM_BYTES[self.dtype]


class Held(Part):
    """A parameter or buffer of a stage; `names` are all its FQNs. `written` when the stage's forward changes it."""

    names: list[str]
    shape: list[int]
    dtype: str
    trainable: bool = False
    persistent: bool = True
    written: bool = False


class Passes(Part):
    """Bytes that a microbatch takes on its stage, above parameters, buffers, what it receives and the batch.

    `kept` is alive after a forward, `saved` once what is sent has left. The first backward of a step brings `gradients` of
    parameters into being; backward's peaks are without the gradient that it is given.
    """

    forward_peak: int
    kept: int
    saved: int
    first_backward_peak: int
    backward_peak: int
    gradients: int


class Stage(Part):
    """One stage. Seconds per microbatch. Stage and replica run on rank `rank` x replicas + replica.

    `memory_bytes` is what the partitioner counts, at the most, against `capacity_bytes`: the device's less the cluster's reserve,
    out of which come `buffer_bytes` of tensors on their way. `peak_bytes` is what its rank takes, replayed from `passes`, against
    `device_bytes`; `passes` are None where they could not be found. `reduce_seconds` is once a step, to sum gradients over
    replicas. A stage that recomputes keeps what it receives and runs its forward again before each backward; `load_seconds`
    has that.
    """

    index: int
    rank: int
    device: str
    device_type: Literal["cuda", "cpu"]
    file: str
    modules: list[str]
    operators: int
    receives: list[str]
    batch_inputs: list[str]
    sends: list[str]
    parameters: list[Held]
    buffers: list[Held]
    parameter_count: int
    forward_seconds: float
    backward_seconds: float
    load_seconds: float
    recompute: bool
    memory_bytes: int
    capacity_bytes: int
    bytes_sent: int
    reduce_seconds: float = 0.0
    buffer_bytes: int = 0
    peak_bytes: int = 0
    device_bytes: int
    passes: Passes | None = None

    @property
    def backward_and_again(self) -> float:
        """Seconds of a backward, with the forward before it where the stage recomputes."""
        return self.backward_seconds + (self.forward_seconds if self.recompute else 0.0)


class Boundary(Part):
    """What goes from stage `left` to `left` + 1, with the link between them."""

    left: int
    tensors: list[Tensor]
    bandwidth: float
    latency: float


class Tied(Part):
    """A parameter that several stages use. Gradients are summed from the last stage to the first, in `reduce_seconds` a step."""

    names: list[str]
    stages: list[int]
    reduce_seconds: float = 0.0


class Prediction(Part):
    """Of one step: seconds, and the part of it that ranks wait, over all ranks."""

    step_seconds: float
    bubble: float


class CertificateRecord(Part):
    """Objective and bound in seconds of the slowest stage."""

    objective: float
    bound: float
    gap: float
    proven: bool
    solver: str
    seconds: float


class Source(Part):
    """What a plan was compiled from: job file, cluster file or name, and of its `available` devices that of each rank.

    Devices are counted as in the cluster file, from 0; `lost` ones were left out.
    """

    job: str
    cluster: str
    available: int
    devices: list[int]
    lost: list[int] = []


class Plan(Part):
    """plan.yaml."""

    version: int
    pipecut: str
    torch: str
    cluster: str
    model: ModelRef
    batch: Batch
    optimizer: str
    replicas: int = 1
    schedule: str
    inputs: list[Tensor]
    stages: list[Stage]
    boundaries: list[Boundary]
    tied: list[Tied]
    prediction: Prediction
    certificate: CertificateRecord
    notes: list[str]
    source: Source | None = None
    hashes: dict[str, str]
    seal: str = ""

    @property
    def microbatches(self) -> int:
        """Microbatches of each replica in a step of the global size."""
        return -(-self.batch.global_size // (self.batch.microbatch * self.replicas))

    @property
    def ranks(self) -> int:
        """Processes that run the plan."""
        return len({stage.rank for stage in self.stages}) * self.replicas


@dataclass(frozen=True)
class Action:
    """One step of a rank: F, B, SEND_F, RECV_F, SEND_B, RECV_B or REDUCE, for a stage and a microbatch."""

    kind: str
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return self.kind if self.kind == "REDUCE" else f"{self.kind} {self.stage}.{self.microbatch}"


KINDS = ("F", "B", "SEND_F", "RECV_F", "SEND_B", "RECV_B", "REDUCE")


def parse_action(text: str, rank: int) -> Action:
    """`SEND_F 0.3`. Raises PlanError."""
    if text == "REDUCE":
        return Action("REDUCE", rank, 0)
    kind, _, place = text.partition(" ")
    stage, _, microbatch = place.partition(".")
    if kind not in KINDS or not stage.isdigit() or not microbatch.isdigit():
        raise PlanError(f"schedule.yaml: rank {rank} has the action '{text}'; write it like 'F 0.3' (stage.microbatch)")
    return Action(kind, int(stage), int(microbatch))


@dataclass(frozen=True)
class PlanFolder:
    """A plan as read: the manifest, each rank's actions, the costed graph, and where it lies."""

    path: Path
    plan: Plan
    actions: tuple[tuple[Action, ...], ...]
    graph: dict[str, Any]


_OPERATIONS: dict[type, Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}


def evaluate(dimension: Dimension, batch: int) -> int:
    """A dimension for a batch: `16*batch`. Only integers, `batch` and + - * // % are known. Raises PlanError."""
    if isinstance(dimension, int):
        return dimension

    def walk(node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id == "batch":
            return batch
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -walk(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](walk(node.left), walk(node.right))
        raise PlanError(f"the plan has a dimension '{dimension}' that is no expression in batch")

    try:
        return walk(ast.parse(dimension, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise PlanError(f"the plan has a dimension '{dimension}' that cannot be read: {error}") from None


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_of(data: dict[str, Any]) -> str:
    """sha256 of a manifest without its seal."""
    rest = {key: value for key, value in data.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_plan(path: Path) -> PlanFolder:
    """Read a plan folder and compare every hash. Raises PlanError that names the file and the remedy."""
    manifest = path / "plan.yaml"
    if not manifest.is_file():
        raise PlanError(f"{path} is no plan folder: it has no plan.yaml; make one with pipecut compile")
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        data = yaml.load(manifest.read_text(encoding="utf-8"), Loader=loader)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"{manifest}: not valid YAML: {str(error).splitlines()[0]}; compile the plan again") from None
    if not isinstance(data, dict) or "version" not in data:
        raise PlanError(f"{manifest}: not a plan: it has no version")
    if data["version"] != VERSION:
        raise PlanError(f"{manifest}: plan version {data['version']}, this pipecut reads version {VERSION}; compile again")
    if data.get("seal") != seal_of(data):
        raise PlanError(f"{manifest} was edited after it was written; compile again")
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise PlanError(f"{manifest}: {'.'.join(map(str, first['loc']))}: {first['msg']}; compile again") from None
    for name, expected in plan.hashes.items():
        file = path / name
        if not file.is_file():
            raise PlanError(f"{file} is missing from the plan; compile again")
        if file_hash(file) != expected:
            raise PlanError(f"{file} was edited after the plan was written; compile again")
    schedule = yaml.safe_load((path / "schedule.yaml").read_text(encoding="utf-8"))
    actions = tuple(tuple(parse_action(text, rank) for text in row) for rank, row in enumerate(schedule["ranks"]))
    graph = json.loads((path / "graph.json").read_text(encoding="utf-8"))
    return PlanFolder(path, plan, actions, graph)
