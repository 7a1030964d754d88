"""Texts that nobody reads, of the kinds whose characters take the most memory."""

import time
from dataclasses import dataclass
from typing import Final, Literal

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import Connection
from attacks.harness.finding import Finding
from attacks.harness.messages import GENERATE, generate
from attacks.harness.options import stall_timeout
from attacks.harness.process import Growth, Process
from attacks.harness.servers import Serve

_FIELDS: Final[dict[str, dict[str, object]]] = {
    "plain": {},
    "with log-probabilities": {"log_probabilities": True},
    "with 20 alternatives": {"top_alternatives": 20, "log_probabilities": True},
    "with tickets all the time": {"ticket_interval": 1},
}
_STILL_SECONDS: Final = 60.0
_ENOUGH_CPU: Final = 0.5
"""Of a core: above it, the server still fills the buffers."""


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    streams: int
    kind: Literal["plain", "with log-probabilities", "with 20 alternatives", "with tickets all the time"] = (
        "with 20 alternatives"
    )
    window: int = 256
    """Bytes that the client lets the server send."""


def stalled_streams(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Ask for endless texts and read nothing; wait until the server stands still."""
    attack = f"{sizes.streams} streams {sizes.kind}, unread"
    with serve(*stall_timeout(600)) as server, Connection(server.port, window=sizes.window) as connection:
        warm = connection.call(GENERATE, generate(2000, **_FIELDS[sizes.kind]))
        connection.credit(warm, 2**24)
        connection.receive(1)
        growth = Growth(server.process)
        for _ in range(sizes.streams):
            connection.call(GENERATE, generate(1_000_000, **_FIELDS[sizes.kind]))
        _wait_until_still(server.process, connection)
        each = growth.now * 1024 / sizes.streams
        with bystander(server) as other:
            quiet = other.quiet(0.5)
            return [
                Finding(f"{attack}: memory of each", each, "KiB", 160),
                *undisturbed(attack, quiet, other.settled()),
            ]


def _wait_until_still(server: Process, connection: Connection) -> None:
    """Wait until the server uses little of the processor."""
    deadline = time.monotonic() + _STILL_SECONDS
    while time.monotonic() < deadline:
        before = server.cpu_seconds
        connection.receive(0.5)
        time.sleep(0.5)
        if server.cpu_seconds - before < _ENOUGH_CPU / 5:
            return


SMALL: Final = (Sizes(16),)
FULL: Final = (
    Sizes(24),
    Sizes(24, "plain"),
    Sizes(24, "with log-probabilities"),
    Sizes(24, "with tickets all the time"),
)
