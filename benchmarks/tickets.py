"""What tickets cost: to seal and to open one, and a server whose streams carry them.

    python benchmarks/tickets.py [--shapes 1x256,1x320,2x512] [--intervals 0,1000,256,64,1] [--seconds 3] [--json]

    seal, open        one ticket of a model of this shape, by the server's own code, in one thread
    AES-256-GCM       its ciphertext alone, under a key that is ready: what no layout can avoid
    every             characters from ticket to ticket; 0: none. A message has one ticket at most
    relative          to the same streams without tickets, in the same round

Streams are of 1 x 256, over gRPC; clients and server share the cores. Rounds over all intervals repeat; medians are
printed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import streams
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from harness.served import Server, make_model, segue_server
from harness.tables import Column, Row, numbers, parser, show
from load import medians
from segue_export.artifact import read_artifact
from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Sampling
from segue_server.engine.sequence import State
from segue_server.runtime.registry import Served
from segue_server.state.key_ring import KeyRing, make_key_file
from segue_server.state.snapshot import Snapshot, packed_bytes
from segue_server.state.tickets import TicketCodec, ticket_bytes

COSTS: Final = (
    Column("shape", "shape"),
    Column("bytes", "bytes", ",d"),
    Column("seal_us", "seal us", ",.1f"),
    Column("open_us", "open us", ",.1f"),
    Column("cipher_us", "AES-256-GCM us", ",.1f"),
)
SPEEDS: Final = (
    Column("interval", "every", ",d"),
    Column("per_second", "characters/s", ",.0f"),
    Column("relative", "relative", ".2f"),
    Column("cpu_per_million", "CPU s / million", ".2f"),
    Column("cpu_relative", "relative", ".2f"),
    Column("characters_per_message", "a message", ",.1f"),
)
TRIALS: Final = 2000
POSITION: Final = 1000


def microseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call."""
    taken = []
    for _ in range(TRIALS):
        began = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - began)
    return median(taken) / 1e3


def cost(layers: int, hidden: int, folder: Path) -> Row:
    """Measure tickets of one shape."""
    model = Model(read_artifact(make_model(folder / f"{layers}x{hidden}", layers, hidden)))
    make_key_file(folder / "keys")
    worker: Any = None  # nothing is generated here
    served = Served.of(model, worker, Build.of(model, bytes(16)), reproducible=True)
    codec = TicketCodec(KeyRing(folder / "keys"), lifetime=3600)
    h, c = np.random.default_rng(0).uniform(-1, 1, (2, *model.state_shape)).astype(np.float32)
    snapshot = Snapshot(State(h, c, 3, POSITION, seed=0), Sampling())
    ticket = codec.encode(snapshot, served.build, model, "")
    cipher, plain = AESGCM(bytes(32)), bytes(packed_bytes(model))
    return {
        "shape": f"{layers} x {hidden}",
        "bytes": ticket_bytes(model),
        "seal_us": microseconds(lambda: codec.encode(snapshot, served.build, model, "")),
        "open_us": microseconds(lambda: codec.decode(ticket, served, "")),
        "cipher_us": microseconds(lambda: cipher.encrypt(bytes(12), plain, None)),
    }


def speeds(chosen: argparse.Namespace, folder: Path) -> list[Row]:
    """Load one server with streams that carry tickets, and with some that do not."""
    make_model(folder / "models", 1, 256)
    rounds: dict[int, list[dict[str, Any]]] = {interval: [] for interval in chosen.intervals}
    with segue_server(folder / "models") as server:
        characters = streams.length_for(server, chosen.streams, chosen.seconds)
        for _ in range(chosen.repeats):
            plain = measured(server, chosen.streams, characters, 0)
            for interval in chosen.intervals:
                found = measured(server, chosen.streams, characters, interval) if interval else plain
                found["relative"] = found["per_second"] / plain["per_second"]
                found["cpu_relative"] = found["cpu_per_million"] / plain["cpu_per_million"]
                rounds[interval].append(found)
    return [{"interval": interval, **medians(rows)} for interval, rows in rounds.items()]


def measured(server: Server, count: int, characters: int, interval: int) -> dict[str, float]:
    """Read `count` streams; return the load."""
    generator = [sys.executable, streams.__file__, "--ticket-interval", str(interval)]
    found = streams.measure(server, count, characters, generator)
    return {
        "per_second": found.load.per_second,
        "cpu_per_million": found.cpu_per_million,
        "characters_per_message": found.load.characters / found.load.messages,
    }


def shapes(text: str) -> list[tuple[int, int]]:
    """Read "1x256,2x512"."""
    return [(int(layers), int(hidden)) for layers, _, hidden in (each.partition("x") for each in text.split(","))]


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--shapes", type=shapes, default=[(1, 256), (1, 320), (2, 512)], help="layers x hidden units")
    options.add_argument("--intervals", type=numbers, default=[0, 1000, 256, 64, 1], help="characters")
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--seconds", type=float, default=3, help="about how long each load takes")
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = [cost(layers, hidden, Path(folder)) for layers, hidden in chosen.shapes]
        loads = speeds(chosen, Path(folder))
    show(f"One ticket, medians of {TRIALS:,}", COSTS, costs, as_json=chosen.json)
    title = f"{chosen.streams} streams with tickets on the way, 1 x 256 LSTM, medians of {chosen.repeats}"
    show(title, SPEEDS, loads, as_json=chosen.json)


if __name__ == "__main__":
    main()
