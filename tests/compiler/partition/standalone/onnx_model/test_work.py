"""Operations and bytes of operators, beside what their definitions say."""

from pathlib import Path

import pytest

from pipecut.compiler.partition.standalone.onnx_model.read import read_onnx
from pipecut.compiler.partition.standalone.onnx_model.work import NodeWork, work_of
from tests.compiler.partition.standalone.onnx_model.models import write

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
one ({inputs}) => (float[{result}] y)
<int64[1] unused>
{{ y = {call} }}
"""


def work(inputs: str, call: str, result: str, folder: Path) -> NodeWork:
    text = MODEL.format(inputs=inputs, call=call, result=result)
    graph = read_onnx(write(folder / "m.onnx", text), {})
    return work_of(graph.nodes[0], graph)


CASES = {
    "matmul": ("float[2,3,4] a, float[4,5] b", "MatMul(a, b)", "2,3,5", 2 * 2 * 3 * 5 * 4),
    "gemm": ("float[4,3] a, float[4,5] b", "Gemm <transA = 1> (a, b)", "3,5", 2 * 3 * 5 * 4),
    "conv": (
        "float[1,4,8,8] x, float[6,2,3,3] w",
        "Conv <group = 2> (x, w)",
        "1,6,6,6",
        2 * 6 * 6 * 6 * (2 * 3 * 3),
    ),
    "transposed": (
        "float[1,4,8,8] x, float[4,6,2,2] w",
        "ConvTranspose <strides = [2, 2]> (x, w)",
        "1,6,16,16",
        2 * (4 * 8 * 8) * (6 * 2 * 2),
    ),
    "einsum": (
        "float[2,3,4] a, float[2,4,5] b",
        'Einsum <equation = "bij,bjk->bik"> (a, b)',
        "2,3,5",
        2 * 2 * 3 * 4 * 5,
    ),
    "lstm": (
        "float[7,2,3] x, float[1,20,3] w, float[1,20,5] r",
        "LSTM <hidden_size = 5> (x, w, r)",
        "7,1,2,5",
        2 * 7 * 2 * (20 * 3 + 20 * 5),
    ),
    "pool": ("float[1,2,4,4] x", "MaxPool <kernel_shape = [2, 2]> (x)", "1,2,3,3", 18 * 4),
    "elementwise": ("float[2,3] a, float[2,3] b", "Mul(a, b)", "2,3", 6),
    "transpose": ("float[2,3] a", "Transpose(a)", "3,2", 0),
}


@pytest.mark.parametrize(("inputs", "call", "result", "flops"), CASES.values(), ids=CASES)
def test_flops(inputs: str, call: str, result: str, flops: int, tmp_path: Path) -> None:
    assert work(inputs, call, result, tmp_path).flops == flops


def test_bytes_are_what_is_read_and_written(tmp_path: Path) -> None:
    assert work("float[2,3] a, float[3] b", "Add(a, b)", "2,3", tmp_path).bytes == 4 * (6 + 3 + 6)


def test_a_lookup_reads_what_it_takes_and_a_view_nothing(tmp_path: Path) -> None:
    table = work("float[1000,8] t, int64[2] i", "Gather(t, i)", "2,8", tmp_path)
    assert table.bytes == 2 * (2 * 8 * 4)
    view = work("float[2,3] a", "Flatten(a)", "2,3", tmp_path)
    assert (view.flops, view.bytes) == (0, 0)


def test_the_narrowest_floats_say_the_precision(tmp_path: Path) -> None:
    text = "float16[2,3] a, float16[3,4] b"
    model = MODEL.replace("float[{result}]", "float16[{result}]")
    path = write(tmp_path / "m.onnx", model.format(inputs=text, call="MatMul(a, b)", result="2,4"))
    graph = read_onnx(path, {})
    assert work_of(graph.nodes[0], graph).precision == "fp16"
