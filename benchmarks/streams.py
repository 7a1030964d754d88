"""The load generator: reads many concurrent streams of any server of segue.v1.

    python benchmarks/streams.py HOST:PORT [--streams 64] [--characters 1000] [--ticket-interval 0]

A separate process, so that its CPU time is not the server's; it still shares the machine with the server.
All streams are called at once. They are read by the raw stub, without `segue_client`, over a few connections.
"""

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final, cast

import grpc.aio
from harness.arrivals import Arrivals, Load
from harness.machine import cpu_seconds, watched_memory
from harness.served import Server
from harness.tables import parser
from segue.v1 import generation_pb2, generation_pb2_grpc
from segue_server.api.listener.channel_options import STREAMS_PER_CONNECTION

PROMPT: Final = "The "
PATIENCE: Final = 600.0
"""Seconds until the deadline of a stream: calls without one are refused where hundreds come at once."""
SHORTEST: Final = 32
LONGEST: Final = 200_000
"""Characters of a stream."""


@dataclass(frozen=True)
class Measured:
    """A load, and what it cost the server."""

    load: Load
    cpu_seconds: float
    peak_bytes: int

    @property
    def cpu_per_million(self) -> float:
        """The server's CPU seconds for a million characters."""
        return 1e6 * self.cpu_seconds / self.load.characters


def measure(server: Server, streams: int, characters: int, generator: Sequence[str] = ()) -> Measured:
    """Have another process read from `server`; `generator` is the command of one, by default this module."""
    command = [*(generator or (sys.executable, __file__)), server.address]
    arguments = ["--streams", str(streams), "--characters", str(characters)]
    cpu = cpu_seconds(server.process_id)
    with watched_memory(server.process_id) as peak:
        done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}")
    return Measured(Load(**json.loads(done.stdout)), cpu_seconds(server.process_id) - cpu, peak.bytes)


def length_for(server: Server, streams: int, seconds: float, generator: Sequence[str] = ()) -> int:
    """Return how many characters of each of `streams` streams take about `seconds`, by trials that grow."""
    characters = SHORTEST
    while True:
        took = measure(server, streams, characters, generator).load.seconds
        fitting = min(LONGEST, int(characters * seconds / took))
        if took >= seconds / 4 or characters == LONGEST:  # longer than what starting the streams takes
            return max(SHORTEST, fitting)
        characters = min(fitting, 8 * characters)


async def read_all(address: str, streams: int, characters: int, ticket_interval: int = 0) -> Load:
    """Read `streams` texts of `characters` characters each, all at once."""
    connections = -(-streams // STREAMS_PER_CONNECTION)
    # Channels to one address share a connection, unless told not to.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(connections)]
    for channel in channels:
        await channel.channel_ready()
    stubs = cycle([generation_pb2_grpc.GenerationServiceStub(channel) for channel in channels])
    arrivals = Arrivals()
    began, cpu = time.perf_counter(), time.process_time()
    requests = [request(seed, characters, ticket_interval) for seed in range(streams)]
    await asyncio.gather(*(read(next(stubs), each, arrivals) for each in requests))
    load = arrivals.load(time.perf_counter() - began, time.process_time() - cpu)
    for channel in channels:
        await channel.close()
    if load.characters != (streams - load.failed) * characters:
        raise SystemExit(f"{load.characters:,} characters came, from {streams:,} streams of {characters:,}")
    return load


async def read(
    stub: "generation_pb2_grpc.GenerationServiceStub", request: generation_pb2.GenerateRequest, arrivals: Arrivals
) -> None:
    """Read one stream to its end."""
    # The type stubs know one class for both kinds of channel.
    call = cast(
        "grpc.aio.UnaryStreamCall[object, generation_pb2.GenerateResponse]", stub.Generate(request, timeout=PATIENCE)
    )
    called, before = time.perf_counter(), None
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            response = cast("generation_pb2.GenerateResponse", message)
            if text := response.text.text:
                before = arrivals.take(len(text), called, before)
    except grpc.aio.AioRpcError:
        if before is not None:
            raise
        arrivals.refused()


def request(seed: int, characters: int, ticket_interval: int = 0) -> generation_pb2.GenerateRequest:
    """Return a request of `characters` characters."""
    return generation_pb2.GenerateRequest(
        prompt=PROMPT,
        sampling=generation_pb2.Sampling(seed=seed),
        max_characters=characters,
        ticket_interval=ticket_interval,
    )


def main() -> None:
    """Read and print one JSON object."""
    options = parser(__doc__)
    options.add_argument("address")
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--characters", type=int, default=1000, help="of each stream")
    options.add_argument("--ticket-interval", type=int, default=0, help="characters from ticket to ticket")
    arguments = options.parse_args()
    gc.disable()  # a pause of the generator would look like one of the server
    load = read_all(arguments.address, arguments.streams, arguments.characters, arguments.ticket_interval)
    print(asyncio.run(load).to_json())


if __name__ == "__main__":
    main()
