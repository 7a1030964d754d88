"""An open-loop load generator: streams arrive at random at a given rate, whether or not earlier ones have ended.

    cd benchmarks
    python -m harness.arriving HOST:PORT --rate 50 [--seconds 10] [--characters 1000] [--prompt-every 2]

With --prompt-every, a prompt of 10,000 characters arrives every N seconds beside them, and is not counted.
"""

import asyncio
import gc
import random
import time

import grpc.aio
from segue.v1 import generation_pb2, generation_pb2_grpc
from streams import PROMPT, read, request

from harness.arrivals import Arrivals, Load
from harness.tables import parser

LONG_PROMPT = PROMPT * 2500


async def read_arriving(address: str, rate: float, seconds: float, characters: int, prompt_every: float) -> Load:
    """Call streams for `seconds` seconds, and read them all."""
    generator, arrivals, calls = random.Random(0), Arrivals(), set[asyncio.Task[None]]()
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        disturbing = asyncio.create_task(_disturb(stub, prompt_every)) if prompt_every else None
        began, cpu, due = time.perf_counter(), time.process_time(), 0.0
        while (due := due + generator.expovariate(rate)) < seconds:
            await asyncio.sleep(began + due - time.perf_counter())
            calls.add(asyncio.create_task(read(stub, request(len(calls), characters), arrivals)))
        await asyncio.gather(*calls)
        if disturbing:
            disturbing.cancel()
        return arrivals.load(time.perf_counter() - began, time.process_time() - cpu)


async def _disturb(stub: "generation_pb2_grpc.GenerationServiceStub", every: float) -> None:
    while True:
        long = generation_pb2.GenerateRequest(prompt=LONG_PROMPT, max_characters=1)
        await asyncio.gather(read(stub, long, Arrivals()), asyncio.sleep(every))


def main() -> None:
    """Read and print one JSON object."""
    options = parser(__doc__)
    options.add_argument("address")
    options.add_argument("--rate", type=float, required=True, help="streams a second")
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--characters", type=int, default=1000, help="of each stream")
    options.add_argument("--prompt-every", type=float, default=0, help="seconds; 0: never")
    chosen = options.parse_args()
    gc.disable()  # a pause of the generator would look like one of the server
    load = read_arriving(chosen.address, chosen.rate, chosen.seconds, chosen.characters, chosen.prompt_every)
    print(asyncio.run(load).to_json())


if __name__ == "__main__":
    main()
