"""A file becomes a graph whose shapes are all known, or is refused with what to give."""

from pathlib import Path

import onnx
import pytest

from pipecut.compiler.partition.standalone.onnx_model.read import read_onnx
from pipecut.errors import UserFileError
from tests.compiler.partition.standalone.onnx_model.models import CHAIN, write


def test_shapes_follow_from_the_sizes_that_are_given(tmp_path: Path) -> None:
    graph = read_onnx(write(tmp_path / "m.onnx", CHAIN), {"batch": 8})
    assert [node.name for node in graph.nodes][:3] == ["first", "act", "turn"]
    assert graph.tensors["h4"].shape == (8, 64) and graph.tensors["y"].bytes == 8 * 64 * 4
    assert graph.initializers == {"w1", "w2", "zero"} and graph.outputs == ("y",)


def test_expressions_in_dimensions_are_evaluated(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", CHAIN)
    model = onnx.load(path, load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "2*batch + 1"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    path.write_bytes(model.SerializeToString())
    assert read_onnx(path, {"batch": 3}).tensors["y"].shape == (7, 64)


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        (CHAIN, {}, "dimension 0 of 'x' is 'batch'; give --dim batch=N"),
        (CHAIN, {"btch": 8}, r"--dim btch: .* has no dimension of that name \(it has batch\)"),
        (CHAIN.replace("[batch, 64] x", "[?, 64] x"), {}, "not given; give --dim x.0=N"),
        (
            CHAIN.replace("Relu(h1)", "my.Odd(h1)").replace("20]", '20, "my" : 1]'),
            {"batch": 8},
            "the shape of 'h2' cannot be inferred",
        ),
        (CHAIN.replace("Relu(h1)", "my.Odd(h1)"), {"batch": 8}, "the model contradicts itself"),
    ],
)
def test_what_is_not_known_is_asked_for(
    text: str, sizes: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserFileError, match=message):
        read_onnx(write(tmp_path / "m.onnx", text), sizes)


def test_a_dimension_without_a_name_is_given_by_tensor_and_axis(tmp_path: Path) -> None:
    text = CHAIN.replace("[batch, 64] x", "[?, 64] x").replace("[batch, 64] y", "[?, 64] y")
    graph = read_onnx(write(tmp_path / "m.onnx", text), {"x.0": 4})
    assert graph.tensors["y"].shape == (4, 64)


def test_sizes_that_the_graph_computes_are_known(tmp_path: Path) -> None:
    """The half of a table whose length depends on the input's, as exporters write it."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    sliced (float[batch, seq] x) => (float[rows, columns] y)
    <float[64, 8] table>
    {
      one = Constant <value_ints = [1]> ()
      two = Constant <value_ints = [2]> ()
      zero = Constant <value_ints = [0]> ()
      shape = Shape(x)
      seq = Gather(shape, one)
      half = Div(seq, two)
      rows = Slice(table, zero, half, zero)
      [last] y = Relu(rows)
    }
    """
    graph = read_onnx(write(tmp_path / "m.onnx", text), {"batch": 2, "seq": 32})
    assert graph.tensors["y"].shape == (16, 8)


@pytest.mark.parametrize("data", [b"model: {factory: x}", b"PK\x03\x04", b""])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(UserFileError, match="not an ONNX"):
        read_onnx(tmp_path / "m.onnx", {})


def test_control_flow_is_refused_by_name(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    branch (float[4] x, bool c) => (float[4] y)
    {
      [choose] y = If (c) <
        then_branch = g1 () => (float[4] a) { a = Neg(x) },
        else_branch = g2 () => (float[4] b) { b = Abs(x) }
      >
    }
    """
    with pytest.raises(UserFileError, match="node 'choose' is of kind If"):
        read_onnx(write(tmp_path / "m.onnx", text), {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(UserFileError, match=f"{path}: cannot be read: .*; name an ONNX file"):
            read_onnx(path, {})


def test_more_elements_than_numpy_counts_are_no_bug(tmp_path: Path) -> None:
    shape = "n = Shape(x)\n  y = Reshape(x, n)"
    text = (
        f'<ir_version: 8, opset_import: ["" : 20]> '
        f"m (float[a, b, c] x) => (float[a, b, c] y) {{ {shape} }}"
    )
    graph = read_onnx(write(tmp_path / "m.onnx", text), dict.fromkeys("abc", 2**31 - 1))
    assert graph.tensors["y"].shape == (2**31 - 1,) * 3
