"""Rival (a): a gRPC server as a competent engineer would write it in an afternoon.

    python benchmarks/rival/grpc_aio.py models/NAME/VERSION/model.onnx

It speaks segue.v1's Generate, so that the same load generator drives it: the portable graph, one run a character and
stream, a state for each call, a sample by NumPy, a message for each character. One thread for ONNX Runtime, whose
default of spinning threads on every core would slow it down here.
"""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import numpy as np
import onnxruntime
from segue.v1 import generation_pb2, generation_pb2_grpc
from segue_export.artifact import read_artifact


class NaiveService(generation_pb2_grpc.GenerationServiceServicer):
    """Steps each stream by itself."""

    def __init__(self, graph: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        manifest = read_artifact(graph.parent).manifest
        self._characters = manifest.characters
        self._ids = {character: number for number, character in enumerate(manifest.characters)}
        self._shape = (manifest.layers, 1, manifest.hidden)

    async def Generate(  # noqa: N802 - the contract's name
        self, request: generation_pb2.GenerateRequest, context: object
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        """Stream the characters."""
        del context
        random = np.random.default_rng(request.sampling.seed)
        h = c = np.zeros(self._shape, dtype=np.float32)
        tokens = np.array([[self._ids.get(character, 0) for character in request.prompt or "\n"]])
        for position in range(request.max_characters):
            logits, h, c = self._session.run(["logits", "h_out", "c_out"], {"tokens": tokens, "h": h, "c": c})
            scores = logits[0, -1]
            weights = np.exp(scores - scores.max())
            weights[0] = 0  # never <unk>
            cumulative = weights.cumsum()
            token = int(np.searchsorted(cumulative, random.random() * cumulative[-1]))
            tokens = np.array([[token]])
            text = generation_pb2.GeneratedText(text=self._characters[token], position=position)
            yield generation_pb2.GenerateResponse(text=text)
        yield generation_pb2.GenerateResponse(finished=generation_pb2.GenerationFinished())


async def serve(graph: Path) -> None:
    """Serve on a free port until the process is ended."""
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(NaiveService(graph), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready: 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    import asyncio

    asyncio.run(serve(Path(sys.argv[1])))
