"""Only pipecut/device tells types of devices apart; the rest asks the table."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import pipecut
from pipecut.device.local import has_devices, is_available, on_cpu, use_device
from pipecut.device.types import (
    CPU,
    CUDA,
    DEVICE_TYPES,
    DeviceType,
    common_type,
    is_traced_device,
    type_of,
)

PACKAGE = Path(pipecut.__file__).parent
# Names of types of devices, of their modules in torch, and of backends.
NAMES = {"cpu", "cuda", "mps", "xpu", "nccl", "gloo"}
ROOMS = (PACKAGE, PACKAGE / "compiler", PACKAGE / "runtime")
FILES = sorted(
    {file.resolve() for room in ROOMS for file in room.rglob("*.py")}
    - set((PACKAGE / "device").resolve().glob("*.py"))
)


def names_compared(tree: ast.Module) -> list[int]:
    """Lines that compare a device's name, keep something by it, or choose a name by a condition."""
    lines = []
    for node in ast.walk(tree):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = list(node.keys)
        elif isinstance(node, ast.IfExp):
            parts = [node.body, node.orelse]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Attribute):
            of_torch = isinstance(node.value, ast.Name) and node.value.id == "torch"
            if node.attr in ("is_cuda", "is_cpu", "is_mps") or (of_torch and node.attr in NAMES):
                lines.append(node.lineno)
        constants = [c for part in parts if part is not None for c in ast.walk(part)]
        lines += [c.lineno for c in constants if isinstance(c, ast.Constant) and c.value in NAMES]
    return lines


def test_no_other_file_tells_types_of_devices_apart() -> None:
    assert len(FILES) > 100
    told_apart = [
        f"{file.relative_to(PACKAGE.parent)}:{line}"
        for file in FILES
        for line in names_compared(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not told_apart, "ask pipecut.device.types.type_of(device) for what differs"


@pytest.mark.parametrize(
    "code",
    [
        "device.type == 'cuda'",
        "device in ('cpu', 'meta')",
        "{'cpu': 512}",
        "'nccl' if on_gpu else 'gloo'",
        "torch.cuda.synchronize()",
        "tensor.is_cuda",
    ],
)
def test_what_tells_them_apart_is_seen(code: str) -> None:
    assert names_compared(ast.parse(code))


def test_the_table_is_known_by_torchs_names() -> None:
    assert DEVICE_TYPES == {"cpu": CPU, "cuda": CUDA}
    assert type_of(torch.device("cuda", 3)) is CUDA and type_of("cpu") is CPU
    assert type_of(torch.device("meta")) is CPU


def test_one_entry_says_all_that_differs() -> None:
    """A new type answers each question by itself: no field but the last two has a default."""
    assert [field.name for field in fields(DeviceType)][-2:] == ["context_bytes", "visible"]
    assert CUDA.uses_nccl and not CPU.uses_nccl


def test_a_common_type_is_one() -> None:
    assert common_type(["cuda", "cuda"]) is CUDA
    assert common_type(["cuda", "cpu"]) is None


def test_traced_code_that_names_a_device_means_the_one_it_runs_on() -> None:
    assert all(is_traced_device(name) for name in ("cpu", "cuda", "meta"))
    assert not is_traced_device("hpu")


def test_ranks_share_the_hosts_cores() -> None:
    assert is_available(CPU) and has_devices(CPU, 1000)
    assert use_device(CPU, 5) == torch.device("cpu")
    assert on_cpu(torch.empty(1)) and not on_cpu(torch.empty(1, device="meta"))
