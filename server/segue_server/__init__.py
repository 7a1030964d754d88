"""Serve character-level language models: stateful streams and scoring over gRPC, on ONNX Runtime.

The path of a request:

    api/services -> api/*_request (checked) -> Sequence -> EngineThread -> Engine -> Model (ONNX Runtime)
                 <----------------------- Stream (event loop) <----------- StepOutput
"""
