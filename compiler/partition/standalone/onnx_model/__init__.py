"""An ONNX file as a problem: shapes, work and memory, without a model and without torch."""
