"""Streams that are cancelled at any moment leave nothing behind."""

import random
import time
from dataclasses import dataclass
from typing import Final
from urllib.request import urlopen

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import UNLIMITED, Connection, framed
from attacks.harness.finding import Finding
from attacks.harness.messages import (
    GENERATE,
    SCORE,
    SCORE_STREAM,
    generate,
    score_stream_start,
    score_stream_text,
    score_with_tickets,
)
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

_AT_ONCE: Final = 100
_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    calls: int
    connections_cut: int = 5
    """Connections that are closed with calls under way, instead of cancelling them."""


def cancelled_streams(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Cancel texts, streams of text and scores at random moments; then look for what is left."""
    attack = f"{sizes.calls:,} calls cancelled at random moments"
    with serve("--metrics-port", "0") as server:
        with bystander(server) as other:
            quiet = other.quiet(1)
            _cancel(server, _AT_ONCE)
            files, growth = server.process.files, Growth(server.process)
            _cancel(server, sizes.calls)
            for _ in range(sizes.connections_cut):
                _cancel(server, _AT_ONCE // 2, politely=False)
            findings = undisturbed(attack, quiet, other.settled())
        live = _settled(server, files)
        return [
            *findings,
            Finding(f"{attack}: sequences left in the engine", live, "sequences", 0),
            Finding(f"{attack}: descriptors left", server.process.files - files, "descriptors", 0),
            Finding(f"{attack}: memory", growth.peak, "MiB", 64),
        ]


def _cancel(server: Server, count: int, *, politely: bool = True) -> None:
    source = random.Random(count)
    with Connection(server.port, window=UNLIMITED) as connection:
        while count > 0 and not connection.closed:
            opened = []
            for _ in range(min(_AT_ONCE, connection.room, count)):
                kind = source.randrange(3)
                if kind == 0:
                    opened.append(connection.call(GENERATE, generate(100_000, samples=source.randint(1, 3))))
                elif kind == 1:
                    opened.append(connection.call(SCORE, score_with_tickets(50)))
                else:
                    stream = connection.open(SCORE_STREAM)
                    connection.send(stream, framed(score_stream_start()) + framed(score_stream_text("The cat. " * 500)))
                    opened.append(stream)
            connection.receive(source.random() / 20)
            count -= max(1, len(opened))
            if not politely:
                return
            for stream in opened:
                connection.reset(stream)
                del connection.replies[stream]


def _settled(server: Server, files: int) -> float:
    """Wait for the sequences and descriptors to go; return how many sequences are left."""
    deadline = time.monotonic() + _SECONDS
    while (live := _live(server)) or server.process.files > files:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return live


def _live(server: Server) -> float:
    with urlopen(f"http://{server.metrics}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("segue_live_sequences"))


SMALL: Final = (Sizes(800),)
FULL: Final = (Sizes(5000, connections_cut=50), Sizes(70_000))
