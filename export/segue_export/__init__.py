"""From checkpoints to artifacts: an ONNX graph with explicit state, and a manifest.

`artifact`, `manifest` and `graphs`, which the server shares, need no torch.
"""
