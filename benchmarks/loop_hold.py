"""How long one request holds the event loop of a server: nothing else is answered meanwhile.

    python benchmarks/loop_hold.py [--only NAME] [--json]

A probe on the server's own event loop runs every millisecond. Each request is sent --repeats times. Of the longest
time between two runs of the probe,

    hold    is what the loop's thread computed meanwhile
    gap     is what went by on the clock: also the engine's thread, which shares Python's lock, and other processes

The generator is another process. Every request is as large as the limits allow, or larger.
"""

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import torch
import uvloop
from harness.served import make_manifest, stop
from harness.tables import Column, parser, show
from segue.v1 import common_pb2, generation_pb2, model_pb2, scoring_pb2
from segue_export.artifact import write_artifact
from segue_export.graphs.portable import portable_graph
from segue_training.models import ModelConfig, Recurrent

COLUMNS = (
    Column("request", "request"),
    Column("bytes", "request bytes", ",.0f"),
    Column("hold_ms", "hold ms", ",.1f"),
    Column("gap_ms", "gap ms", ",.1f"),
    Column("seconds", "answered in s", ",.2f"),
    Column("status", "status"),
)
ALPHABET: Final = 12_000
"""Symbols of the second model."""
HIDDEN: Final = 32
"""Of both: what is measured does not depend on it."""
_BEAT_SECONDS: Final = 0.001
_LAST_BEATS_SECONDS: Final = 0.1
_MARK: Final = "\u0301"
_GENERATE: Final = "/segue.v1.GenerationService/Generate"
_SCORE: Final = "/segue.v1.ScoringService/Score"
_CANDIDATES: Final = "/segue.v1.ScoringService/ScoreCandidates"
_STREAM: Final = "/segue.v1.ScoringService/ScoreStream"
_FORK: Final = "/segue.v1.SessionService/ForkSession"
_MODEL: Final = "/segue.v1.ModelService/GetModel"

Call = tuple[str, list[bytes]]
"""A method, and the messages to send to it."""


def requests() -> Mapping[str, Call]:
    """Return the requests by name."""
    small, wide = common_pb2.ModelReference(name="small"), common_pb2.ModelReference(name="wide")
    lines, words = "ab\n" * 20_000, ["a few words of text"] * 4_096
    windows = scoring_pb2.Windows(characters=1)
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 10_000)))

    refuse = common_pb2.UNKNOWN_POLICY_REFUSE  # what is unknown is found at the end: nothing is left for the engine

    def generate(**fields: Any) -> Call:
        return _GENERATE, [_message(generation_pb2.GenerateRequest(max_characters=1, **fields))]

    def score(**fields: Any) -> Call:
        return _SCORE, [_message(scoring_pb2.ScoreRequest(model=small, **fields))]

    def stream(text: str, **fields: Any) -> Call:
        start = scoring_pb2.ScoreStreamStart(model=small, **fields)
        return _STREAM, [
            _message(scoring_pb2.ScoreStreamRequest(start=start)),
            _message(scoring_pb2.ScoreStreamRequest(text=text)),
        ]

    return {
        "4.5 MiB of empty texts": (_SCORE, [b"\x1a\x00" * 9 * 2**18]),
        "4.5 MiB of empty stops": (_GENERATE, [b"\x32\x00" * 9 * 2**18]),
        "4.5 MiB of empty names": (_FORK, [b"\x1a\x00" * 9 * 2**18]),
        "4.5 MiB of unknown fields": (_SCORE, [b"\xf8\x3f\x01" * 3 * 2**19]),
        "65,536 windows": score(texts=["a" * 65_536], windows=windows),
        "20,000 windows of lines": score(texts=[lines], windows=scoring_pb2.Windows(lines=True)),
        "4,096 texts": score(texts=words, return_texts=True),
        "20,000 x 20 alternatives": score(texts=["ab" * 10_000], top_alternatives=20),
        "250,000 log-probabilities, ranks": score(texts=["ab" * 125_000], log_probabilities=True, ranks=True),
        "256 tickets": score(texts=["ab"] * 256, return_tickets=True),
        "a text of 1,000,000": score(
            texts=["ab" * 499_999 + "é"], policies=scoring_pb2.ScoringPolicies(unknown=refuse)
        ),
        "300,000 marks, nfc": generate(model=wide, prompt="a" + _MARK * 300_000, unknown_policy=refuse),
        "marks of two classes, nfc": generate(
            model=wide, prompt=("e" + _MARK + "\u0323") * 300_000, unknown_policy=refuse
        ),
        "1,000 marks between letters, nfc": generate(
            model=wide, prompt=("e" + "\u0323\u0301" * 500) * 900, unknown_policy=refuse
        ),
        "a prompt of 1,000,000": generate(model=small, prompt="ab" * 500_000),
        "prompt and written_before, 2 bytes each": generate(
            model=small, prompt="é" * 1_000_000, written_before="é" * 1_000_000, unknown_policy=refuse
        ),
        "10,000 allowed_characters": generate(
            model=wide, prompt="a", sampling=generation_pb2.Sampling(allowed_characters=characters)
        ),
        "4,096 candidates": (
            _CANDIDATES,
            [_message(scoring_pb2.ScoreCandidatesRequest(model=small, candidates=words))],
        ),
        "a piece of 65,536, windows of one": stream("a" * 65_536, windows=windows),
        "a piece of 1,000,000": stream("ab" * 499_999 + "é", policies=scoring_pb2.ScoringPolicies(unknown=refuse)),
        "an alphabet of 12,000": (_MODEL, [_message(model_pb2.GetModelRequest(model=wide))]),
    }


def _message(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


def answer(channel: grpc.Channel, call: Call) -> str:
    """Send a request; return the name of its status."""
    path, messages = call

    def identity(data: bytes) -> bytes:
        return data

    try:
        for _ in channel.stream_stream(path, identity, identity)(iter(messages), timeout=300):
            pass
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


class Probe:
    """Measures in the server's process how long its event loop is held."""

    def __init__(self) -> None:
        self._beat: tuple[float, float] | None = None
        self._longest = (0.0, 0.0)

    def start(self) -> None:
        """Begin; to be called on the event loop."""
        loop, now = asyncio.get_running_loop(), (time.thread_time(), time.perf_counter())
        if self._beat is not None:
            held, gone = (after - before for after, before in zip(now, self._beat, strict=True))
            self._longest = max(self._longest[0], held), max(self._longest[1], gone)
        self._beat = now
        loop.call_later(_BEAT_SECONDS, self.start)

    def take(self) -> tuple[float, float]:
        """Return the longest hold and gap in seconds since the last call."""
        longest, self._longest = self._longest, (0.0, 0.0)
        return longest


def serve(folder: Path) -> None:
    """Serve the models in `folder`; a line of standard input asks for one with the longest hold and gap."""
    from segue_server.engine.model import Device
    from segue_server.server import ServerConfig
    from segue_server.server import serve as serve_alone
    from segue_server.stop_signals import StopSignals
    from segue_server.thread_priority import wait_for_turns

    probe = Probe()

    def tell() -> None:
        for _ in sys.stdin:
            print(*probe.take(), flush=True)
        signal.raise_signal(signal.SIGTERM)  # the generator has gone

    async def serve_probed() -> None:
        asyncio.get_running_loop().call_soon(probe.start)
        config = ServerConfig(folder, folder / "keys", "memory:", port=0, device=Device.CPU)
        await serve_alone(config, signals)

    signals = StopSignals()
    signals.handle()
    wait_for_turns()
    threading.Thread(target=tell, daemon=True).start()
    uvloop.run(serve_probed())


def make_models(folder: Path) -> None:
    """Write a model of few characters, and one of many whose texts are composed."""
    few = make_manifest("lstm", 1, HIDDEN)
    characters = ("<unk>", *map(chr, range(0x4E00, 0x4E00 + ALPHABET - 5)), "a", "e", "é", "\u0323")
    many = replace(few, characters=characters, normalization="nfc", begin="a")
    for name, manifest in (("small", few), ("wide", many)):
        torch.manual_seed(0)
        module = Recurrent(ModelConfig(len(manifest.characters), embedding=HIDDEN, hidden=HIDDEN, layers=1))
        weights = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
        write_artifact(folder, name, manifest, portable_graph(manifest, weights))


class Server:
    """A process of `serve`."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, __file__, "--serve", str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self.address = self._line().removeprefix("ready: ").strip()

    def ask(self) -> tuple[float, float]:
        """Return the longest hold and gap in seconds since the last call."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        held, gone = self._line().split()
        return float(held), float(gone)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def rows(server: Server, only: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Send each request and yield what it did."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        answer(channel, requests()["an alphabet of 12,000"])
        for name, call in requests().items():
            if not re.search(only, name):
                continue
            time.sleep(_LAST_BEATS_SECONDS)
            server.ask()
            started = time.perf_counter()
            statuses = {answer(channel, call) for _ in range(repeats)}
            seconds = (time.perf_counter() - started) / repeats
            time.sleep(_LAST_BEATS_SECONDS)
            held, gone = server.ask()
            yield {
                "request": name,
                "bytes": sum(map(len, call[1])),
                "hold_ms": 1e3 * held,
                "gap_ms": 1e3 * gone,
                "seconds": seconds,
                "status": ", ".join(sorted(statuses)),
            }


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
        return
    options = parser(__doc__)
    options.add_argument("--only", default="", help="only requests whose name has this regular expression")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        server = Server(Path(folder))
        try:
            found = []
            for row in rows(server, chosen.only, chosen.repeats):
                print(row, file=sys.stderr, flush=True)
                found.append(row)
        finally:
            stop(server.process)
    show("Event loop held by one request", COLUMNS, found, as_json=chosen.json)


if __name__ == "__main__":
    main()
