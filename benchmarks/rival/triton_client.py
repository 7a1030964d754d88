"""The load generator of rival (c): what `streams.py` is for segue.v1, for the Open Inference Protocol.

    PYTHONPATH=benchmarks FOLDER/environment/bin/python benchmarks/rival/triton_client.py HOST:PORT [--streams 64]

It runs in the environment that `triton_server.py` makes: Triton's messages register names that need an older protobuf.
A stream is a sequence of calls of ModelInfer, each with the character that the reply before it brought. Messages are
made by hand, because the wrappers of `tritonclient` take longer. The bidirectional ModelStreamInfer was tried: it was
no faster, and this version of Triton ended in a segmentation fault under it.
"""

import argparse
import asyncio
import gc
import time
from typing import Any, Final

import grpc
import grpc.aio
from harness.arrivals import Arrivals, Load
from tritonclient.grpc import service_pb2, service_pb2_grpc  # type: ignore[import-not-found]  # see above

MODEL: Final = "benchmark"
PROMPT: Final = (1, 2, 3, 4)


class Sequence:
    """The requests of one stream."""

    def __init__(self, number: int) -> None:
        self._request = service_pb2.ModelInferRequest(model_name=MODEL)
        self._request.inputs.add(name="TOKEN", datatype="INT64", shape=[1, 1])
        self._request.outputs.add(name="NEXT")
        self._request.parameters["sequence_id"].int64_param = number
        self._request.raw_input_contents.append(b"")

    def request(self, token: bytes, *, start: bool, end: bool) -> Any:
        """Return the message that brings one character, as 8 bytes."""
        self._request.parameters["sequence_start"].bool_param = start
        self._request.parameters["sequence_end"].bool_param = end
        self._request.raw_input_contents[0] = token
        return self._request


async def read(stub: Any, number: int, characters: int, arrivals: Arrivals) -> None:
    """Read the prompt and then write `characters` characters."""
    sequence = Sequence(number)
    called, before, token = time.perf_counter(), None, b""
    steps = len(PROMPT) - 1 + characters
    for step in range(steps):
        given = PROMPT[step].to_bytes(8, "little") if step < len(PROMPT) else token
        reply = await stub.ModelInfer(sequence.request(given, start=step == 0, end=step == steps - 1))
        token = reply.raw_output_contents[0]
        if step >= len(PROMPT) - 1:
            before = arrivals.take(1, called, before)


async def read_all(address: str, streams: int, characters: int) -> Load:
    """Read `streams` texts of `characters` characters each, all at once."""
    arrivals = Arrivals()
    async with grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        await channel.channel_ready()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(read(stub, k + 1, characters, arrivals) for k in range(streams)))
        return arrivals.load(time.perf_counter() - began, time.process_time() - cpu)


def main() -> None:
    """Read and print one JSON object."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("address")
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--characters", type=int, default=100, help="of each stream")
    arguments = options.parse_args()
    gc.disable()
    load = asyncio.run(read_all(arguments.address, arguments.streams, arguments.characters))
    print(load.to_json())


if __name__ == "__main__":
    main()
