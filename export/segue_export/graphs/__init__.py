"""The ONNX graphs of a model."""
