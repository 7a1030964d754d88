"""Serve character-level language models: stateful streams and scoring over gRPC, on ONNX Runtime.

A request's way through the modules:

    services -> requests (validated) -> sequence -> worker (thread) -> engine -> model (ONNX Runtime)
             <------------------------- stream (event loop) <--------- advances
"""
