"""What of an ONNX graph is known before it runs: numbers made of shapes and of small constants.

Exporters compute sizes within the graph, and shapes that follow from them are known only where they
are.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

# Larger results are weights, not sizes.
MOST_ELEMENTS = 4096
# NumPy counts elements of no larger array.
MOST_COUNTED = 2**60
# What depends on no value of its input.
OF_SHAPES = {"Shape", "Size"}
Arrays = dict[str, np.ndarray[Any, Any]]


def fold(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Make constants of nodes whose results are known, in place. Returns whether there were any."""
    graph = model.graph
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    known: Arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL
    }
    folded = False
    for node in graph.node:
        results = _results(node, known, shapes, opsets)
        if results is None:
            continue
        known |= results
        if node.op_type != "Constant" and len(results) == 1:
            (array,) = results.values()
            node.op_type, node.domain = "Constant", ""
            del node.input[:]
            del node.attribute[:]
            node.attribute.append(
                onnx.helper.make_attribute("value", numpy_helper.from_array(array))
            )
            folded = True
    return folded


def _results(
    node: onnx.NodeProto,
    known: Arrays,
    shapes: Mapping[str, tuple[int, ...]],
    opsets: dict[str, int],
) -> Arrays | None:
    """A node's results by name; None where they are not known, or large."""
    names = [name for name in node.input if name]
    feeds = {name: known[name] for name in names if name in known}
    if node.op_type in OF_SHAPES and names[0] in shapes:
        shape = shapes[names[0]]
        if math.prod(shape) > MOST_COUNTED:
            return None
        # An array of that shape which takes no memory.
        feeds = {names[0]: np.broadcast_to(np.float32(0), shape)}
    draws = node.op_type.startswith("Random")
    if len(feeds) < len(names) or draws or any(a.HasField("g") for a in node.attribute):
        return None
    if node.op_type not in OF_SHAPES and any(a.size > MOST_ELEMENTS for a in feeds.values()):
        return None
    try:
        arrays = ReferenceEvaluator(node, opsets=opsets).run(None, feeds)
    except Exception:
        # Of operators that the evaluator has not, the result is not known.
        return None
    results = dict(zip(node.output, arrays, strict=False))
    return results if all(array.size <= MOST_ELEMENTS for array in results.values()) else None
