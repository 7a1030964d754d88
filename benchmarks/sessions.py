"""What idle sessions cost, and how soon one of a million continues.

    python benchmarks/sessions.py [--sessions 1000000] [--in-memory 100000] [--folder FOLDER] [--json]

    file      a file of sealed sessions, made through the store's interface: bytes for each, and the time
    continue  Generate in a session chosen at random among them, over gRPC, by a separate `segue serve`, with a
              position and a request_key: from the call to the end of its stream. "ticket": the same text from a ticket,
              which asks no store. "disk": after the file was dropped from the system's cache
    memory    sessions in the store of `memory:`, and what the process grows by while they are replaced

The file takes some 2.6 KB for each session while it runs (2.6 GB), in --folder.
"""

import argparse
import asyncio
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio
import numpy as np
from harness.arrivals import percentile
from harness.machine import resident_bytes
from harness.served import Server, make_model, segue_server
from harness.tables import Column, parser, show
from rich.progress import track
from segue.v1 import common_pb2, generation_pb2_grpc, session_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue.v1 import session_pb2 as spb
from segue_export.artifact import read_artifact
from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Sampling
from segue_server.engine.sequence import State
from segue_server.runtime.registry import Served
from segue_server.runtime.self_check import check
from segue_server.state.key_ring import KeyRing, make_key_file
from segue_server.state.session_record import Record
from segue_server.state.sessions import Sessions
from segue_server.state.snapshot import Snapshot
from segue_server.state.stores.memory import MemoryStore
from segue_server.state.stores.sqlite import SqliteStore
from segue_server.state.stores.store import SessionStore

COSTS: Final = (
    Column("store", "store"),
    Column("sessions", "sessions", ",.0f"),
    Column("bytes_each", "bytes each", ",.0f"),
    Column("fill_seconds", "made in s", ",.0f"),
    Column("replaces", "replaced", ",.0f"),
    Column("grown_bytes", "grown by bytes each", ",.0f"),
)
LATENCIES: Final = (
    Column("start", "start"),
    Column("cache", "from"),
    Column("at_once", "at once", ",.0f"),
    Column("p50_ms", "p50 ms", ",.2f"),
    Column("p99_ms", "p99 ms", ",.2f"),
    Column("per_second", "calls/s", ",.0f"),
)
BATCH: Final = 1000
IDLE_SECONDS: Final = 7 * 86_400
POSITION: Final = 1000
TENANT: Final = ""
MAX_BYTES: Final = 10**12


@dataclass(frozen=True)
class Bench:
    """Everything that the parts share."""

    models: Path
    keys: Path
    file: Path
    served: Served

    @classmethod
    def prepare(cls, folder: Path) -> "Bench":
        """Make a model of 1 x 256 and a key below `folder`."""
        model = Model(read_artifact(make_model(folder / "models", 1, 256)))
        make_key_file(folder / "keys")
        engine_thread: Any = None  # nothing is generated here
        served = Served.of(model, engine_thread, Build.of(model, check(model).host_class), reproducible=True)
        return cls(folder / "models", folder / "keys", folder / "sessions.sqlite", served)

    def sessions(self, store: SessionStore) -> Sessions:
        """Return the sessions in a store."""
        return Sessions(store, KeyRing(self.keys))

    def records(self, count: int) -> list[Record]:
        """Return sessions that have read a thousand characters; no two states are alike."""
        generator, shape = np.random.default_rng(), self.served.model.state_shape
        h, c = generator.uniform(-1, 1, (2, count, *shape)).astype(np.float32)
        snapshots = (Snapshot(State(h[i], c[i], 3, POSITION, seed=i), Sampling()) for i in range(count))
        return [Record(self.served.build, 0, IDLE_SECONDS, seed=0, current=snapshot) for snapshot in snapshots]


async def fill(bench: Bench, store: SessionStore, count: int) -> list[str]:
    """Make sessions; return their names."""
    sessions, names = bench.sessions(store), list[str]()
    batches = [min(BATCH, count - at) for at in range(0, count, BATCH)]
    for size in track(batches, "making sessions", disable=not sys.stderr.isatty()):
        names += await sessions.create([""] * size, bench.records(size), bench.served, TENANT)
    return names


async def fill_file(bench: Bench, count: int) -> tuple[list[str], float]:
    """Return the names, and the seconds that it took until everything stood in the file."""
    store, began = SqliteStore(bench.file, MAX_BYTES), time.perf_counter()
    await store.open()
    names = await fill(bench, store, count)
    await store.close()
    return names, time.perf_counter() - began


async def in_memory(bench: Bench, count: int, replaces: int) -> dict[str, Any]:
    """Fill the store in memory, then continue its sessions; each replacement is sealed and read as by a call."""
    store = MemoryStore(MAX_BYTES)
    empty, began = settled_bytes(), time.perf_counter()
    names = await fill(bench, store, count)
    seconds, full = time.perf_counter() - began, settled_bytes()
    sessions = bench.sessions(store)
    for _ in track(range(0, replaces, BATCH), "replacing", disable=not sys.stderr.isatty()):
        for record in bench.records(BATCH):
            held = await sessions.load(random.choice(names), bench.served, TENANT)
            await sessions.replace(held, record, bench.served, TENANT)
    return {
        "store": "memory",
        "sessions": count,
        "bytes_each": (full - empty) / count,
        "fill_seconds": seconds,
        "replaces": replaces,
        "grown_bytes": (settled_bytes() - full) / count,
    }


def settled_bytes() -> int:
    """Return the memory of this process with nothing left to collect."""
    gc.collect()
    return resident_bytes(os.getpid())


def drop_from_cache(path: Path) -> None:
    """Have the system forget what it has read of a file (a hint: other processes may hold some)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def latencies(stub: Any, starts: Sequence[common_pb2.Start], characters: int, at_once: int) -> dict[str, Any]:
    """Generate from each start, `at_once` of them at a time; return what the calls took."""
    taken, waiting = list[float](), iter(starts)

    async def call_after_call() -> None:
        for start in waiting:
            began = time.perf_counter()
            async for _ in stub.Generate(pb.GenerateRequest(start=start, max_characters=characters)):
                pass
            taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(call_after_call() for _ in range(at_once)))
    seconds = time.perf_counter() - began
    taken.sort()
    return {
        "at_once": at_once,
        "p50_ms": 1e3 * percentile(taken, 50),
        "p99_ms": 1e3 * percentile(taken, 99),
        "per_second": len(taken) / seconds,
    }


def of_sessions(names: Sequence[str]) -> list[common_pb2.Start]:
    """Return the starts of calls that can be repeated."""
    references = (common_pb2.SessionReference(name=name, position=POSITION, request_key=name) for name in names)
    return [common_pb2.Start(session=reference) for reference in references]


async def go_on(server: Server, names: list[str], chosen: argparse.Namespace, file: Path) -> list[dict[str, Any]]:
    """Go on with sessions chosen at random, none of them twice."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        sessions = session_pb2_grpc.SessionServiceStub(channel)
        fresh: Iterator[str] = iter(random.sample(names, min(len(names), 1 + 10 * chosen.calls)))

        def some() -> list[str]:
            return [name for name, _ in zip(fresh, range(chosen.calls), strict=False)]

        request = spb.GetSessionRequest(name=next(fresh), return_ticket=True)
        ticket = common_pb2.Start(ticket=(await sessions.GetSession(request)).ticket)
        rows = list[dict[str, Any]]()
        for at_once in chosen.at_once:
            found = await latencies(stub, [ticket] * chosen.calls, chosen.characters, at_once)
            rows.append({"start": "ticket", "cache": None, **found})
            for cache in ("disk", "cache"):
                drawn = some()
                if cache == "disk":
                    drop_from_cache(file)
                else:  # what the first read brings into the system's cache
                    for name in drawn:
                        await sessions.GetSession(spb.GetSessionRequest(name=name))
                found = await latencies(stub, of_sessions(drawn), chosen.characters, at_once)
                rows.append({"start": "session", "cache": cache, **found})
        return rows


def read_options() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__)
    options.add_argument("--sessions", type=int, default=1_000_000, help="in the file")
    options.add_argument("--in-memory", type=int, default=100_000, help="in memory")
    options.add_argument("--replaces", type=int, default=200_000, help="of those in memory")
    options.add_argument("--calls", type=int, default=2000, help="of each kind")
    options.add_argument("--characters", type=int, default=8, help="that each call writes")
    options.add_argument("--at-once", type=int, nargs="+", default=[1, 16], help="calls")
    options.add_argument("--folder", type=Path, help="for the file; default: the system's folder for temporary files")
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    chosen = read_options()
    if chosen.folder:
        chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        bench = Bench.prepare(Path(folder))
        costs = [asyncio.run(in_memory(bench, chosen.in_memory, chosen.replaces))]
        names, seconds = asyncio.run(fill_file(bench, chosen.sessions))
        size = bench.file.stat().st_size / chosen.sessions
        costs.append({"store": "file", "sessions": chosen.sessions, "bytes_each": size, "fill_seconds": seconds})
        options = ["--keys", str(bench.keys), "--sessions", f"sqlite:{bench.file}", "--state", folder]
        with segue_server(bench.models, options) as server:
            found = asyncio.run(go_on(server, names, chosen, bench.file))
    show("Sessions of a 1 x 256 LSTM that nobody uses", COSTS, costs, as_json=chosen.json)
    title = f"Going on with one of {chosen.sessions:,} sessions in a file by {chosen.characters} characters"
    show(title, LATENCIES, found, as_json=chosen.json)


if __name__ == "__main__":
    main()
