"""Connections that do nothing, or never finish what they begin: descriptors, threads, and a way in for health."""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal
from urllib.request import urlopen

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_http2 import PREFACE, SETTINGS, frame

from attacks.harness.finding import Finding
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

_HEALTH_SECONDS: Final = 20.0
"""For a connection that found no place to find one: those that never finish a handshake lose theirs in 10 s."""

_BEGINNINGS: Final = {
    "silent": b"",
    "half of a preface": PREFACE[:10],
    "settings never acknowledged": PREFACE + frame(SETTINGS, 0, 0),
    "half of a frame": PREFACE + frame(SETTINGS, 0, 0) + b"\x00\x40\x00\x01",
}


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    connections: int
    open_files: int
    """Of the server."""
    kind: Literal["silent", "half of a preface", "settings never acknowledged", "half of a frame"] = (
        "settings never acknowledged"
    )
    checks: int = 2
    """Of health, each on a connection of its own."""


@dataclass(frozen=True)
class MetricsSizes:
    """How much of it, on the port of the metrics."""

    connections: int
    threads: int = 16
    """The most that they may add to the server."""


def idle_connections(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Open more connections than the server has descriptors; then ask for health as a stranger would."""
    attack = f"{sizes.connections:,} connections ({sizes.kind}), {sizes.open_files:,} descriptors"
    with serve(open_files=sizes.open_files) as server:
        growth = Growth(server.process)
        mine = _connect(server.port, sizes.connections, _BEGINNINGS[sizes.kind])
        time.sleep(1)
        healthy = sum(_healthy(server) for _ in range(sizes.checks))
        files, peak = server.process.files, growth.peak
        for connection in mine:
            connection.close()
        time.sleep(0.5)
        return [
            Finding(
                f"{attack}: health checks on new connections answered", healthy, "checks", sizes.checks, at_least=True
            ),
            Finding(f"{attack}: descriptors of the server", files, "descriptors", sizes.open_files - 8),
            Finding(f"{attack}: memory", peak, "MiB", 64 + sizes.connections / 32),
            Finding(f"{attack}: health afterwards", _healthy(server), "checks", 1, at_least=True),
        ]


def half_requests_for_metrics(serve: Serve, sizes: MetricsSizes) -> list[Finding]:
    """Send half a GET on each of many connections; then ask for the metrics as Prometheus would."""
    attack = f"{sizes.connections} half requests for metrics"
    with serve("--metrics-port", "0") as server:
        threads = server.process.threads
        mine = _connect(int(server.metrics.rsplit(":", 1)[1]), sizes.connections, b"GET /met")
        time.sleep(1)
        more = server.process.threads - threads
        answered = 0
        deadline = time.monotonic() + 30
        while not answered and time.monotonic() < deadline:
            with suppress(OSError), urlopen(f"http://{server.metrics}/metrics", timeout=30) as reply:
                answered = int(b"segue_" in reply.read())
        for connection in mine:
            connection.close()
        return [
            Finding(f"{attack}: threads more", more, "threads", sizes.threads),
            Finding(f"{attack}: metrics answered in the end", answered, "requests", 1, at_least=True),
            Finding(f"{attack}: health", _healthy(server), "checks", 1, at_least=True),
        ]


def _connect(port: int, count: int, first: bytes) -> list[socket.socket]:
    """Open connections and write the same on each; those that the server does not take are left out."""
    mine: list[socket.socket] = []
    for _ in range(count):
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=0.3)
            mine.append(connection)
            connection.sendall(first)
    return mine


def _healthy(server: Server) -> bool:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.address, options=options) as channel, suppress(grpc.RpcError):
        stub = health_pb2_grpc.HealthStub(channel)
        return bool(
            stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS, wait_for_ready=True).status == 1
        )
    return False


SMALL: Final = (Sizes(500, open_files=400),)
METRICS_SMALL: Final = (MetricsSizes(100),)
FULL: Final = (
    Sizes(5200, open_files=4096),
    Sizes(5200, open_files=4096, kind="silent"),
    Sizes(5200, open_files=4096, kind="half of a preface"),
    Sizes(5200, open_files=4096, kind="half of a frame"),
)
METRICS_FULL: Final = (MetricsSizes(400),)
