"""ONNX models from text, as https://onnx.ai/onnx/ has their syntax."""

from pathlib import Path

import onnx
from onnx import parser

# Two layers with a skip; the second weight is transposed, and a shape is taken from the input.
CHAIN = """
<ir_version: 10, opset_import: ["" : 20]>
chain (float[batch, 64] x) => (float[batch, 64] y)
<float[64, 64] w1, float[64, 64] w2, int64[1] zero>
{
  [first] h1 = MatMul(x, w1)
  [act] h2 = Relu(h1)
  [turn] w2t = Transpose <perm = [1, 0]> (w2)
  [second] h3 = MatMul(h2, w2t)
  [shape] s = Shape(x)
  [view] h4 = Reshape(h3, s)
  [skip] y = Add(h4, h2)
}
"""


def write(path: Path, text: str) -> Path:
    """Write a model; its initializers have shapes, and external data that no file has."""
    model = parser.parse_model(text)
    for value in list(model.graph.value_info):
        tensor = model.graph.initializer.add()
        tensor.name, tensor.data_type = value.name, value.type.tensor_type.elem_type
        tensor.dims.extend(d.dim_value for d in value.type.tensor_type.shape.dim)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "absent.data"
        model.graph.value_info.remove(value)
    path.write_bytes(model.SerializeToString())
    return path
