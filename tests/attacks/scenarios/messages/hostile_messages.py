"""Requests of the largest size that must be refused, and requests framed wrongly, on every method."""

import gzip
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from segue.v1 import generation_pb2, model_pb2, scoring_pb2, session_pb2

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import Connection, framed
from attacks.harness.finding import Finding
from attacks.harness.messages import LARGEST, METHODS, TOO_LARGE
from attacks.harness.options import arrival_timeout
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

_UNUSED_FIELD: Final = 2_000
_ANSWER_SECONDS: Final = 20.0
_FAULTS: Final = ("INTERNAL", "UNKNOWN")
_GZIP: Final = (("grpc-encoding", "gzip"),)


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    rounds: int
    """Over all methods; a round sends three messages to each."""
    at_once: int = 1
    framing_rounds: int = 1
    bytes: int = LARGEST
    """Of a message, about."""


def hostile_messages(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Send large messages of empty fields, of noise, and of one field; then messages whose frames lie."""
    attack = (
        f"{3 * sizes.rounds * len(METHODS)} messages of {sizes.bytes / 1e6:.1f} MB to {len(METHODS)} methods, "
        f"{sizes.at_once} at once"
    )
    with serve(*arrival_timeout(2)) as server, bystander(server) as other:
        quiet = other.quiet(1)
        growth = Growth(server.process)
        with ThreadPoolExecutor(sizes.at_once) as threads:
            jobs = [
                (method, message)
                for _ in range(sizes.rounds)
                for method in METHODS
                for message in _messages(method, sizes.bytes - 16)
            ]
            statuses = Counter(threads.map(lambda job: _status(server, *job), jobs))
        seen, peak = other.settled(), growth.peak
        growth = Growth(server.process)
        unanswered = _frame_wrongly(server, sizes.framing_rounds)
        return [
            Finding(f"{attack}: memory", peak, "MiB", 64),
            Finding(f"{attack}: kept afterwards", growth.now, "MiB", 64),
            Finding(
                f"{attack}: INTERNAL or UNKNOWN",
                sum(statuses[name] for name in _FAULTS),
                "calls",
                0,
                notes=str(dict(statuses)),
            ),
            *undisturbed(attack, quiet, seen),
            Finding("messages framed wrongly: memory", growth.peak, "MiB", 64),
            Finding("messages framed wrongly: without an answer", unanswered, "calls", 0),
            *undisturbed("messages framed wrongly", quiet, other.settled()),
        ]


def _messages(method: str, length: int) -> list[bytes]:
    """Return many empty fields, noise, and one string that fills the message."""
    many, one = _request_fields(method)
    varint = bytes([length & 0x7F | 0x80, (length >> 7) & 0x7F | 0x80, (length >> 14) & 0x7F | 0x80, length >> 21])
    return [
        many * (length // len(many)),
        b"\xff" * length,
        one[:-1] + varint + b"a" * length,
    ]


def _request_fields(method: str) -> tuple[bytes, bytes]:
    """Return an empty field that may repeat, and one of a string; unknown ones where the request has none."""
    _, service, name = method.replace("/segue.v1.", "/").split("/")
    files = (generation_pb2, scoring_pb2, session_pb2, model_pb2)
    file = next(file for file in files if service in file.DESCRIPTOR.services_by_name)
    request: Descriptor = file.DESCRIPTOR.services_by_name[service].methods_by_name[name].input_type
    lengths = [
        field for field in request.fields if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    ]
    many = next((field.number for field in lengths if field.is_repeated), _UNUSED_FIELD)
    one = next((field.number for field in lengths if not field.is_repeated), _UNUSED_FIELD)
    return _empty(many), _empty(one)


def _empty(number: int) -> bytes:
    tag = number << 3 | 2
    encoded = bytes([tag]) if tag < 128 else bytes([tag & 0x7F | 0x80, tag >> 7])
    return encoded + b"\0"


def _status(server: Server, method: str, message: bytes) -> str:
    """Send one message as it is; return the status."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        call: Any = channel.unary_stream(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            for _ in call(message, timeout=120):
                pass
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def _frame_wrongly(server: Server, rounds: int) -> int:
    """Send each method messages whose frames lie; return how many calls the server left without an answer."""
    bomb = gzip.compress(b"\0" * 2**28)
    small = b"\x12\x00"
    bodies = [
        (framed(small, compressed=True), ()),
        (framed(small, compressed=True), _GZIP),
        (framed(bomb, compressed=True), _GZIP),
        (framed(small, length=2**32 - 1), ()),
        (framed(small, length=100), ()),
        (framed(small * 100, length=1), ()),
        (framed(small) + framed(small), ()),
        (b"\x07" + framed(small)[1:], ()),
        (b"", ()),
    ]
    connections = [Connection(server.port) for _ in METHODS]
    for _ in range(rounds):
        for method, connection in zip(METHODS, connections, strict=True):
            for body, metadata in bodies:
                if connection.room > 0:
                    connection.send(connection.open(method, metadata), body, end=True)
    deadline = time.monotonic() + _ANSWER_SECONDS
    while (unanswered := sum(each.unanswered for each in connections)) and time.monotonic() < deadline:
        for connection in connections:
            connection.receive(0.02)
    for connection in connections:
        connection.close()
    return unanswered


SMALL: Final = (Sizes(1),)
FULL: Final = (Sizes(3, framing_rounds=3), Sizes(3, at_once=4), Sizes(3, at_once=4, bytes=TOO_LARGE))
