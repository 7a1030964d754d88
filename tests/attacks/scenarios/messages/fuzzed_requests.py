"""Requests that nobody thought of: made from the descriptors of the messages, with values at the edges, and damaged."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.finding import Finding
from attacks.harness.messages import METHODS
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

PREFIX_CACHE: Final = 64
"""MiB that the server may fill with the states of prompts."""

_THREADS: Final = 8
_FAULTS: Final = ("INTERNAL", "UNKNOWN", "UNIMPLEMENTED", "DATA_LOSS")
_INTEGERS: Final = (0, 1, 2, 3, 20, 21, 64, 65, 255, 4096, 1_000_001, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))
_LARGEST: Final = {FieldDescriptor.TYPE_UINT32: 2**32 - 1, FieldDescriptor.TYPE_UINT64: 2**64 - 1}
_STRINGS: Final = (
    "",
    "a",
    "The cat",
    "\n",
    "é你𝄞",
    "\0",
    "\r\n",
    "a" * 5000,
    "attacked",
    "́" * 300,
    "../..",
    "s1",
    "%n",
)


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    requests: int
    seed: int = 1


def fuzzed_requests(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Send made-up requests to every method; a fault of the server's own is the only wrong answer."""
    attack = f"{sizes.requests:,} made-up requests"
    with serve() as server, bystander(server) as other:
        quiet = other.quiet(1)
        _send_all(server, sizes.requests // 10, sizes.seed + 1)
        growth = Growth(server.process)
        statuses = _send_all(server, sizes.requests, sizes.seed)
        faults = sum(statuses[name] for name in _FAULTS)
        return [
            Finding(f"{attack}: answered as a fault of the server", faults, "calls", 0, notes=str(dict(statuses))),
            Finding(f"{attack}: kinds of answers", len(statuses), "kinds", 3, at_least=True),
            Finding(f"{attack}: memory", growth.peak, "MiB", 64 + PREFIX_CACHE),
            *undisturbed(attack, quiet, other.settled()),
        ]


def _send_all(server: Server, count: int, seed: int) -> Counter[str]:
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(_THREADS) as threads:
        return Counter(threads.map(lambda number: _send(channel, random.Random(f"{seed} {number}")), range(count)))


def _send(channel: grpc.Channel, source: random.Random) -> str:
    """Make one call, with one request or several; return its status."""
    method = source.choice(METHODS)
    service, name = method.strip("/").split("/")
    described = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    count = source.randint(0, 4) if described.client_streaming else 1
    requests = [_damaged(_message(described.input_type, source, 0), source) for _ in range(count)]
    if requests and described.client_streaming and source.random() < 0.7:
        requests[0] = b"\x0a\x00"  # a `start` that is right, so that what follows it counts
    make: Any = channel.stream_stream(method, request_serializer=bytes, response_deserializer=bytes)
    try:
        for number, _ in enumerate(make(iter(requests), timeout=60)):
            if number >= 20:
                return "read in part"
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def _message(descriptor: Descriptor, source: random.Random, depth: int) -> Message:
    """Return a message with some of its fields set."""
    message: Any = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if source.random() < 0.35 - 0.05 * depth:
            _set(message, field, source, depth)
    if hasattr(message, "max_characters") and source.random() < 0.97:
        message.max_characters = source.randint(1, 100)
    return message


def _set(message: Any, field: FieldDescriptor, source: random.Random, depth: int) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        made = _message(field.message_type, source, depth + 1)
        if field.is_repeated:
            getattr(message, field.name).extend([made] * source.randint(1, 3))
        else:
            getattr(message, field.name).CopyFrom(made)
    elif field.is_repeated:
        getattr(message, field.name).extend(_value(field, source) for _ in range(source.choice((1, 2, 5, 70, 300))))
    else:
        setattr(message, field.name, _value(field, source))


def _value(field: FieldDescriptor, source: random.Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            value: Any = source.choice(_STRINGS)
        case FieldDescriptor.TYPE_BYTES:
            value = source.randbytes(source.choice((0, 1, 16, 200, 3000)))
        case FieldDescriptor.TYPE_BOOL:
            value = source.random() < 0.5
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            value = source.choice(_FLOATS)
        case FieldDescriptor.TYPE_ENUM:
            value = source.choice((0, 1, 2, 3, 100))
        case _:
            value = min(source.choice(_INTEGERS), _LARGEST.get(field.type, 2**31 - 1))
    return value


def _damaged(message: Message, source: random.Random) -> bytes:
    """Return the message's bytes; one in three is changed, cut or doubled."""
    data = bytearray(message.SerializeToString())
    match source.randrange(9):
        case 0 if data:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        case 1:
            del data[source.randrange(len(data) + 1) :]
        case 2:
            data += data + source.randbytes(source.randrange(8))
    return bytes(data)


SMALL: Final = (Sizes(400),)
FULL: Final = (Sizes(20_000), Sizes(20_000, seed=77))
