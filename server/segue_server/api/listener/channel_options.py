"""What gRPC itself bounds, for every connection; `connections` has what depends on the files of the process."""

from typing import Final

from segue_server.limits import MAX_MESSAGE_BYTES

STREAMS_PER_CONNECTION: Final = 128
"""Open calls. A client's gRPC lets more of them wait until others have ended; more connections have more."""

_PENDING: Final = 5120
"""Calls that wait for the event loop, where admission refuses them with a retry hint: bursts of thousands pass. Each
takes 15 KiB, but one connection, whatever it resets, has no more than some 800 waiting.
"""
_MOST_PENDING: Final = _PENDING + _PENDING // 10
"""Beyond `_PENDING`, gRPC cancels new calls without a hint, at random, and beyond this, all. Such a flood takes 90 MiB
and delays others by about a second."""
_LONGEST_PENDING_SECONDS: Final = 600
"""After that, gRPC cancels a call that waits for the event loop. Its 30 seconds are short where thousands come at once
that can wait; each call's own deadline bounds it as well."""

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # replies are bounded by the limits of requests
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a few KB could unpack to GB
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
    # gRPC would count calls on until the event loop has forgotten them, and refuse those that a client at its limit
    # makes as soon as it knows that others have ended.
    ("grpc.http.overload_protection", 0),
    # A fixed window: gRPC would widen it on a fast network, and buffer as much of every call that nobody reads.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.server.max_pending_requests", _PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
    ("grpc.server_max_unrequested_time_in_server", _LONGEST_PENDING_SECONDS),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server at the same address
)
