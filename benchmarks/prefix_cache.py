"""From the call to the first character of a text: with a prompt that the server has seen, and with one that it reads.

    python benchmarks/prefix_cache.py [--lengths 1000,10000] [--layers 1] [--hidden 256] [--json]

    hit     the prompt came before
    miss    it is new, and its state is kept
    off     it is new, to a server with `--prefix-cache-mb 0`

One call at a time, over gRPC to two servers on the same cores; the three take turns. Medians are printed. `ratio` is
miss by hit.
"""

import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc
from harness.served import TEXT_CHARACTERS, make_model, segue_server
from harness.tables import Column, numbers, parser, show
from segue.v1 import generation_pb2, generation_pb2_grpc

COLUMNS: Final = (
    Column("length", "characters of prompt", ",d"),
    Column("hit_ms", "hit ms", ",.2f"),
    Column("miss_ms", "miss ms", ",.2f"),
    Column("off_ms", "off ms", ",.2f"),
    Column("ratio", "ratio", ",.1f"),
)


def seconds_to_first(stub: "generation_pb2_grpc.GenerationServiceStub", prompt: str, cached_count: int) -> float:
    """Return how long the first character after `prompt` takes, of which so much must not be read."""
    request = generation_pb2.GenerateRequest(prompt=prompt, max_characters=1, sampling=generation_pb2.Sampling(seed=1))
    began = time.perf_counter()
    responses = stub.Generate(request)
    started = next(responses).started
    next(responses)
    took = time.perf_counter() - began
    list(responses)
    if started.cached_count != cached_count:
        raise SystemExit(f"{started.cached_count:,} characters of {len(prompt):,} were known, not {cached_count:,}")
    return took


def row(length: int, repeats: int, addresses: tuple[str, str], source: random.Random) -> dict[str, Any]:
    """Measure prompts of one length."""
    taken: dict[str, list[float]] = {"hit": [], "miss": [], "off": []}
    with grpc.insecure_channel(addresses[0]) as caching, grpc.insecure_channel(addresses[1]) as reading:
        cached, uncached = map(generation_pb2_grpc.GenerationServiceStub, (caching, reading))
        for _ in range(repeats):
            prompt = "".join(source.choices(TEXT_CHARACTERS, k=length))
            taken["miss"].append(seconds_to_first(cached, prompt, 0))
            taken["hit"].append(seconds_to_first(cached, prompt, length))
            taken["off"].append(seconds_to_first(uncached, prompt, 0))
    ratio = median(miss / hit for miss, hit in zip(taken["miss"], taken["hit"], strict=True))
    return {"length": length, **{f"{name}_ms": 1e3 * median(each) for name, each in taken.items()}, "ratio": ratio}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--lengths", type=numbers, default=[1000, 10_000], help="characters of prompts")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--repeats", type=int, default=40)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), chosen.layers, chosen.hidden)
        with segue_server(Path(folder)) as caching, segue_server(Path(folder), ["--prefix-cache-mb", "0"]) as reading:
            addresses = caching.address, reading.address
            source = random.Random(0)
            row(chosen.lengths[0], 3, addresses, source)  # warms up
            rows = [row(length, chosen.repeats, addresses, source) for length in chosen.lengths]
    title = f"first character after a prompt, {chosen.layers} x {chosen.hidden} LSTM, medians of {chosen.repeats}"
    show(title, COLUMNS, rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
