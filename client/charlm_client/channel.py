"""How a client connects: what the sync and the async channel have in common."""

from typing import Final

DEFAULT_TARGET: Final = "127.0.0.1:50051"

MAX_MESSAGE_BYTES: Final = 64 * 2**20
"""Room for the largest request and the largest reply of the contract."""

# A server with gRPC's defaults closes connections that are pinged more often than every 5 minutes.
_KEEPALIVE_TIME_MS: Final = 6 * 60 * 1000
_KEEPALIVE_TIMEOUT_MS: Final = 20 * 1000
_LOOPBACK: Final = ("127.", "localhost:", "[::1]:", "unix:")


def channel_options(target: str, max_message_bytes: int) -> list[tuple[str, int]]:
    """Return the arguments of a channel to `target` for messages of up to `max_message_bytes` either way."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # gRPC obeys `http_proxy` even for this very machine, which no proxy can reach.
        ("grpc.enable_http_proxy", int(not target.startswith(_LOOPBACK))),
    ]
