"""How many connections may be open, and which ones gRPC ends by itself.

A connection holds a file and some 15 KiB, also if it never sends a byte. Beyond the limit gRPC closes new ones at once;
files that models, stores and metrics need are kept free.
"""

import resource
import socket
from dataclasses import dataclass
from typing import Final

from segue_server.errors import StartupError

DEFAULT_CONNECTIONS: Final = 8192
RESERVED_FILES: Final = 256
"""For everything but clients' connections."""

_HANDSHAKE_MS: Final = 10_000
_IDLE_MS: Final = 300_000
"""Not short: gRPC ends an idle connection abruptly, and a call that is just being made may fail."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What the files of this process allow."""

    connections: int
    """Open at once, on all listeners."""
    listeners: int = 1
    """gRPC counts the connections of each listener by itself."""

    def __post_init__(self) -> None:
        if self.connections < self.listeners:
            raise ValueError(f"{self.connections} connections on {self.listeners} listeners: at least one each")


def limits_for(host: str, wanted: int | None = None) -> ConnectionLimits:
    """Raise this process's limit of open files as far as `wanted` connections need it; return what fits.

    None: DEFAULT_CONNECTIONS, or as many as fit. Raises StartupError if fewer than `wanted` fit, or none.
    """
    files = _raise_file_limit((wanted or DEFAULT_CONNECTIONS) + RESERVED_FILES)
    fitting = min(wanted or DEFAULT_CONNECTIONS, files - RESERVED_FILES)
    listeners = _listeners(host)
    if fitting < (wanted or listeners):
        raise StartupError(
            f"{files} open files are allowed (ulimit -Hn); {RESERVED_FILES} of them are for models, stores and logs, "
            f"which leaves {max(0, fitting)} connections: allow {(wanted or DEFAULT_CONNECTIONS) + RESERVED_FILES}"
        )
    return ConnectionLimits(fitting, listeners)


def connection_options(limits: ConnectionLimits) -> tuple[tuple[str, int], ...]:
    """Return the channel arguments; each one's effect in gRPC was measured, as names and meanings differ there."""
    return (
        ("grpc.max_allowed_incoming_connections", limits.connections // limits.listeners),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),  # no preface, no settings
        ("grpc.http2.settings_timeout", _HANDSHAKE_MS),  # our settings are not acknowledged
        ("grpc.max_connection_idle_ms", _IDLE_MS),  # no call; pings do not count
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Ends a connection whose pings stay unanswered; keepalive alone does not.
        ("grpc.http2.ping_timeout_ms", 30_000),
        # Beside a call; without one the fourth ping ends the connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    )


def _raise_file_limit(wanted: int) -> int:
    """Raise the soft limit of open files towards the hard one, to `wanted`; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if reachable > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    return max(soft, reachable)


def _listeners(host: str) -> int:
    """Return on how many addresses gRPC listens for `host`: two for a name of both IPv4 and IPv6."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return 1  # listening will fail, and say why
    return max(1, len({address for *_, address in found}))
