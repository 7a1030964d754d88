"""The options of a channel, synchronous or asynchronous."""

from typing import Final

from segue_client.errors import InvalidRequest
from segue_client.messages.generation_request import encodable
from segue_client.transport.proxy import is_this_machine

DEFAULT_TARGET: Final = "127.0.0.1:50051"

MAX_MESSAGE_BYTES: Final = 64 * 2**20
"""Room for the largest request and the largest reply of the contract."""

# A server with gRPC's defaults closes connections that are pinged more often than every 5 minutes.
_KEEPALIVE_TIME_MS: Final = 6 * 60 * 1000
_KEEPALIVE_TIMEOUT_MS: Final = 20 * 1000

# A channel that failed to connect refuses calls until it tries again. gRPC's defaults, up to two minutes, are too long
# for a client that somebody waits for.
_SHORTEST_RECONNECTION_MS: Final = 50
_LONGEST_RECONNECTION_MS: Final = 1000
_CONNECTING_MS: Final = 5000
"""How long to wait for a host that does not even refuse before trying the next address."""

_TENANT_KEY: Final = "segue-tenant"

Metadata = tuple[tuple[str, str], ...]


def channel_options(target: str, max_message_bytes: int) -> list[tuple[str, int]]:
    """Return the options of a channel to `target` for messages of up to `max_message_bytes` in either direction."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", _SHORTEST_RECONNECTION_MS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECTION_MS),
        ("grpc.min_reconnect_backoff_ms", _CONNECTING_MS),
        # Otherwise a new channel waits as long as others of the same address before it connects again.
        ("grpc.use_local_subchannel_pool", 1),
        # gRPC obeys `http_proxy` even for this machine, which no proxy can reach.
        ("grpc.enable_http_proxy", int(not is_this_machine(target))),
    ]


def call_metadata(tenant: str) -> Metadata:
    """Return the metadata of every call; raise InvalidRequest for a tenant that gRPC cannot carry."""
    if not encodable("tenant", tenant).isascii() or not tenant.isprintable():
        raise InvalidRequest(f"tenant is {tenant!r}; choose up to 64 of A-Z a-z 0-9 . _ -")
    return ((_TENANT_KEY, tenant),) if tenant else ()
