"""What a node of an ONNX graph takes: floating-point operations, and bytes read and written.

Multiplications and additions count as one each. Formulas are those of the operators' definitions
(https://onnx.ai/onnx/operators/); what has none here is elementwise: one operation per number of
its results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from pipecut.compiler.partition.standalone.onnx_model.graph import Node, OnnxGraph, TensorInfo

Flops = Callable[["_Shapes"], float]


@dataclass(frozen=True)
class NodeWork:
    """Operations, bytes moved, and the precision in which a device computes it."""

    flops: float
    bytes: float
    precision: str


@dataclass(frozen=True)
class _Shapes:
    """A node with what it reads and writes; an input that is left out has no numbers."""

    node: Node
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def written(self) -> int:
        """Numbers of all results."""
        return sum(tensor.elements for tensor in self.outputs)


def work_of(node: Node, graph: OnnxGraph) -> NodeWork:
    """The work of a node whose tensors are all known."""
    nothing = TensorInfo((0,), "float32", 0)
    inputs = tuple(graph.tensors[name] if name else nothing for name in node.inputs)
    shapes = _Shapes(node, inputs, tuple(graph.tensors[name] for name in node.outputs))
    if node.operator in VIEWS:
        return NodeWork(0.0, 0.0, "fp32")
    written = sum(tensor.bytes for tensor in shapes.outputs)
    read = written if node.operator in GATHERING else sum(tensor.bytes for tensor in inputs)
    flops = FLOPS.get(node.operator, _elementwise(1))
    return NodeWork(flops(shapes), float(read + written), _precision(shapes))


def _precision(shapes: _Shapes) -> str:
    """That of the narrowest floats among the inputs."""
    names = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}
    dtypes = [tensor.dtype for tensor in shapes.inputs if tensor.elements]
    return next((names[dtype] for dtype in names if dtype in dtypes), "fp32")


def _elementwise(operations: float) -> Flops:
    return lambda shapes: operations * shapes.written


def _reduction(operations: float) -> Flops:
    return lambda shapes: operations * shapes.inputs[0].elements


def _none(_: _Shapes) -> float:
    return 0.0


def _matmul(shapes: _Shapes) -> float:
    return 2.0 * shapes.outputs[0].elements * shapes.inputs[0].shape[-1]


def _gemm(shapes: _Shapes) -> float:
    transposed = bool(shapes.node.attributes.get("transA", 0))
    return 2.0 * shapes.outputs[0].elements * shapes.inputs[0].shape[0 if transposed else 1]


def _convolution(weight: int) -> Flops:
    """Each result is a product over the kernel and the input channels of its group."""
    return lambda shapes: 2.0 * shapes.outputs[0].elements * prod(shapes.inputs[weight].shape[1:])


def _transposed_convolution(shapes: _Shapes) -> float:
    return 2.0 * shapes.inputs[0].elements * prod(shapes.inputs[1].shape[1:])


def _pooling(shapes: _Shapes) -> float:
    return float(shapes.written * prod(shapes.node.attributes.get("kernel_shape", [1])))


def _einsum(shapes: _Shapes) -> float:
    equation = shapes.node.attributes["equation"]
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    sizes: dict[str, int] = {}
    for term, tensor in zip(text.split("->")[0].split(","), shapes.inputs, strict=True):
        letters = term.replace(" ", "")
        before, dots, after = letters.partition("...")
        count = len(tensor.shape) - len(before) - len(after)
        labels = [*before, *(f".{number}" for number in range(count if dots else 0)), *after]
        sizes |= dict(zip(labels, tensor.shape, strict=True))
    return float((2 if len(shapes.inputs) > 1 else 1) * prod(sizes.values()))


def _attention(shapes: _Shapes) -> float:
    """Scores and their product with the values: two products over all keys for each query."""
    query, key = shapes.inputs[0], shapes.inputs[1]
    return 4.0 * query.elements * key.shape[-2]


def _recurrent(shapes: _Shapes) -> float:
    """At every step and in each direction the gates of W [d, g*h, in] and R [d, g*h, h]."""
    steps_and_batch = prod(shapes.inputs[0].shape[:2])
    return 2.0 * steps_and_batch * (shapes.inputs[1].elements + shapes.inputs[2].elements)


# No kernel runs: the same memory under another shape.
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"}
# Reads no more than it writes, however large its input.
GATHERING = {"Gather", "GatherElements", "GatherND", "Slice"}
FLOPS: dict[str, Flops] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "FusedMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
    "Attention": _attention,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    "LpPool": _pooling,
    # Largest, difference, exponential, sum, division.
    "Softmax": _elementwise(5),
    "LogSoftmax": _elementwise(6),
    # Mean, difference, square, its mean, root, division, scale, shift.
    "LayerNormalization": _reduction(8),
    "GroupNormalization": _reduction(8),
    "InstanceNormalization": _reduction(8),
    "RMSNormalization": _reduction(5),
    "BatchNormalization": _reduction(4),
    "Gelu": _elementwise(8),
    "Erf": _elementwise(8),
    "Tanh": _elementwise(8),
    "Sigmoid": _elementwise(4),
    "Exp": _elementwise(4),
    "Log": _elementwise(4),
    "Pow": _elementwise(4),
    **dict.fromkeys(
        (
            "GlobalAveragePool",
            "GlobalMaxPool",
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSumExp",
            "ReduceSumSquare",
            "ArgMax",
            "ArgMin",
            "CumSum",
            "TopK",
        ),
        _reduction(1),
    ),
    # Memory is moved, and nothing computed.
    **dict.fromkeys(
        (
            "Transpose",
            "Concat",
            "Split",
            "Expand",
            "Tile",
            "Pad",
            "Gather",
            "GatherElements",
            "GatherND",
            "Slice",
            "ScatterElements",
            "ScatterND",
            "Cast",
            "DepthToSpace",
            "SpaceToDepth",
            "Trilu",
            "ConstantOfShape",
            "OneHot",
            *VIEWS,
        ),
        _none,
    ),
}
