"""Refused requests, in a server whose collector of cycles is off: nothing may be kept alive by an error."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from attacks.harness.finding import Finding
from attacks.harness.messages import LARGEST, METHODS, TOO_LARGE
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

_PROGRAM: Final = """
import gc, os, signal, types
gc.disable()
gc.collect = lambda *_: 0
gc.freeze()

def count(*_):
    found = [thing for thing in gc.get_objects() if isinstance(thing, BaseException | types.TracebackType)]
    path = os.environ["SEGUE_STATE"] + "/kept"
    with open(path + ".new", "w") as file:
        file.write(f"{len(found)} {sorted({type(thing).__name__ for thing in found})}")
    os.replace(path + ".new", path)

signal.signal(signal.SIGUSR1, count)
from segue_server.cli import serve
serve()
"""
"""A server that counts the exceptions and tracebacks that are alive, on SIGUSR1."""


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    requests: int
    bytes: int = 1_000_000


def kept_by_errors(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Have requests of every kind refused; then count what is left of them, with no collector to break cycles."""
    attack = f"{sizes.requests} refused requests of {sizes.bytes / 1e6:g} MB"
    with serve(program=_PROGRAM) as server:
        _refused(server, 2 * len(METHODS), sizes.bytes)  # what is made once is no leak
        before, _ = _alive(server)
        growth = Growth(server.process)
        refused = _refused(server, sizes.requests, sizes.bytes)
        after, kinds = _alive(server)
        return [
            Finding(f"{attack}: refused", refused, "requests", sizes.requests, at_least=True),
            Finding(f"{attack}: exceptions and tracebacks kept", after - before, "objects", 4, notes=kinds),
            Finding(f"{attack}: memory kept", growth.now, "MiB", 16 + 8 * sizes.bytes / 2**20),
        ]


def _refused(server: Server, count: int, size: int) -> int:
    refused = 0
    with grpc.insecure_channel(server.address) as channel:
        for number in range(count):
            call: Any = channel.unary_stream(METHODS[number % len(METHODS)], request_serializer=bytes)
            message = b"\xff" * size if number % 2 else b"\x0a\x06\x0a\x04none" + b"\x7a\x00" * (size // 2)
            if METHODS[number % len(METHODS)].endswith("ListModels"):
                message = b"\xff" * size
            try:
                list(call(message, timeout=60))
            except grpc.RpcError:
                refused += 1
    return refused


def _alive(server: Server) -> tuple[int, str]:
    """Return how many exceptions and tracebacks the server holds, and their kinds."""
    path = server.log.parent / "kept"
    path.unlink(missing_ok=True)
    time.sleep(0.5)
    os.kill(server.id, signal.SIGUSR1)
    count, kinds = _awaited(path).split(" ", 1)
    return int(count), kinds


def _awaited(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, "the server has not counted"
        time.sleep(0.05)
    return path.read_text()


SMALL: Final = (Sizes(100),)
FULL: Final = (Sizes(100, bytes=LARGEST - 16), Sizes(100, bytes=TOO_LARGE))
