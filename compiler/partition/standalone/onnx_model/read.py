"""An ONNX file, with numbers for its symbolic dimensions, as a graph whose shapes are all known."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner, shape_inference

from pipecut.compiler.partition.standalone.onnx_model.fold import fold
from pipecut.compiler.partition.standalone.onnx_model.graph import Node, OnnxGraph, TensorInfo
from pipecut.errors import PlanError, UserFileError
from pipecut.plan.schema.dimensions import evaluate

# Of larger initializers only the shape is needed.
MOST_BYTES_KEPT = 1 << 16
CONTROL_FLOW = {"If", "Loop", "Scan"}
# Bits of what is no number of whole bytes, or none at all.
BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "STRING": 0}


def read_onnx(path: Path, sizes: Mapping[str, int]) -> OnnxGraph:
    """The graph; `sizes` has symbolic dimensions by name, and others as `TENSOR.AXIS`.

    Weights are not read, so their external data may be absent. Raises UserFileError for a file that
    is no ONNX, for control flow, and for a dimension that is not known, with its name.
    """
    model = _load(path)
    graph = model.graph
    control_flow = next((node for node in graph.node if node.op_type in CONTROL_FLOW), None)
    if control_flow is not None:
        raise UserFileError(
            f"{path}: node '{control_flow.name}' is of kind {control_flow.op_type}, and how often "
            "its body runs is not in the file; export the model without control flow"
        )
    _refuse_unknown_names(path, graph, sizes)
    try:
        unnamed = _infer(model, sizes)
    except shape_inference.InferenceError as error:
        reason = str(error).splitlines()[0]
        raise UserFileError(
            f"{path}: the model contradicts itself: {reason}; export it again"
        ) from None
    initializers = frozenset(tensor.name for tensor in graph.initializer)
    nodes = tuple(_node(node, index) for index, node in enumerate(graph.node))
    read = {name for node in nodes for name in (*node.inputs, *node.outputs)}
    missing = [text for name, text in unnamed.items() if name in read]
    tensors = dict(_known(graph))
    if missing:
        raise UserFileError(f"{path}: {missing[0]}{_more(len(missing) - 1)}")
    return OnnxGraph(nodes, tensors, initializers, tuple(value.name for value in graph.output))


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        raise UserFileError(
            f"{path}: not an ONNX file: it cannot be decoded; export it again"
        ) from None
    except OSError as error:
        raise UserFileError(
            f"{path}: cannot be read: {error.strerror or error}; name an ONNX file"
        ) from None
    if not model.graph.node:
        raise UserFileError(f"{path}: not an ONNX model: it has no nodes")
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > MOST_BYTES_KEPT:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
    return inliner.inline_local_functions(model) if model.functions else model


def _infer(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, str]:
    """Infer shapes in place. Returns, for values whose shape is not known, what to say of them."""
    graph = model.graph
    while True:
        given = _give_sizes(graph, sizes)
        inferred = shape_inference.infer_shapes(model, data_prop=True)
        known = sum(1 for _ in _known(graph))
        del graph.value_info[:]
        graph.value_info.extend(inferred.graph.value_info)
        for old, new in zip(graph.output, inferred.graph.output, strict=True):
            old.CopyFrom(new)
        folded = fold(model, {name: info.shape for name, info in _known(graph)})
        if not given and not folded and known == sum(1 for _ in _known(graph)):
            break
    values = {value.name: value for value in _values(graph)}
    outputs = [name for node in graph.node for name in node.output if name]
    initializers = {tensor.name for tensor in graph.initializer}
    unknown = {
        name: _unknown(name, values.get(name))
        for name in (*(value.name for value in graph.input), *outputs)
        if name not in initializers
    }
    return {name: text for name, text in unknown.items() if text}


def _give_sizes(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> bool:
    """Put in numbers for symbolic dimensions. Returns whether there was one to put in."""
    given = False
    for value in _values(graph):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.HasField("dim_value"):
                continue
            size = sizes.get(f"{value.name}.{axis}")
            if size is None and dimension.dim_param:
                size = _evaluated(dimension.dim_param, sizes)
            if size is not None:
                dimension.dim_value, given = size, True
    return given


def _evaluated(text: str, sizes: Mapping[str, int]) -> int | None:
    """The number that a symbolic dimension is; None where a name in it is not given."""
    if text in sizes:
        return sizes[text]
    try:
        return evaluate(re.sub(r"[A-Za-z_]\w*", lambda m: str(sizes[m[0]]), text), {})
    except (KeyError, PlanError):
        return None


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.value_info
    yield from graph.output


def _known(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorInfo]]:
    """What is known of values by name, initializers included."""
    for tensor in graph.initializer:
        yield tensor.name, _info(tuple(tensor.dims), tensor.data_type)
    for value in _values(graph):
        kind = value.type.tensor_type
        if not _unknown(value.name, value):
            yield value.name, _info(tuple(d.dim_value for d in kind.shape.dim), kind.elem_type)


def _info(shape: tuple[int, ...], data_type: int) -> TensorInfo:
    name = onnx.TensorProto.DataType.Name(data_type)
    if name in BITS:
        return TensorInfo(shape, name.lower(), BITS[name])
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    return TensorInfo(shape, dtype.name, dtype.itemsize * 8)


def _unknown(name: str, value: onnx.ValueInfoProto | None) -> str:
    """What of a value's shape is not known, and what to give; empty where all is."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return (
            f"the shape of '{name}' cannot be inferred: an operator before it has no shape "
            "inference, or makes as many values as its data says; leave it out of the export"
        )
    for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
        if not dimension.HasField("dim_value"):
            names = re.findall(r"[A-Za-z_]\w*", dimension.dim_param)
            option = " ".join(f"--dim {n}=N" for n in names) or f"--dim {name}.{axis}=N"
            size = f"'{dimension.dim_param}'" if dimension.dim_param else "not given"
            return f"dimension {axis} of '{name}' is {size}; give {option}, such as 8"
    return ""


def _refuse_unknown_names(path: Path, graph: onnx.GraphProto, sizes: Mapping[str, int]) -> None:
    params = {
        name
        for value in _values(graph)
        for dimension in value.type.tensor_type.shape.dim
        for name in re.findall(r"[A-Za-z_]\w*", dimension.dim_param)
    }
    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in graph.input}
    for name in sizes:
        tensor, _, axis = name.rpartition(".")
        if name not in params and not (tensor in made and axis.isdigit()):
            has = f"it has {', '.join(sorted(params))}" if params else "all of its are numbers"
            raise UserFileError(
                f"--dim {name}: {path} has no dimension of that name ({has}); give one of these, "
                "or TENSOR.AXIS"
            )


def _more(count: int) -> str:
    return f" ({count} more tensors like that)" if count else ""


def _node(node: onnx.NodeProto, index: int) -> Node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Node(
        node.name or f"{node.op_type}_{index}",
        node.op_type,
        tuple(node.input),
        tuple(name for name in node.output if name),
        attributes,
    )
