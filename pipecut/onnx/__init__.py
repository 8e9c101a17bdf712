"""Plans for other runtimes: each stage as an ONNX file, and how they feed each other."""
