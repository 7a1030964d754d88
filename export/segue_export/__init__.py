"""Turn checkpoints into artifacts: an ONNX graph with its state in the open, and a manifest.

`artifact` needs neither torch nor onnx: it is the part that servers share.
"""
