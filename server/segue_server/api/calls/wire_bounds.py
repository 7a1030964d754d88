"""What a request may hold, checked on its bytes, before the parser makes far larger objects of them.

A legitimate request has at most some thousand fields: its texts or candidates. The check counts the fields of a
message and of those inside it, with the limits of `limits`, and bounds the size of those that hold no text.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from segue.v1 import common_pb2, generation_pb2, scoring_pb2, session_pb2

from segue_server.errors import InvalidRequest
from segue_server.limits import LIMITS, MAX_MESSAGE_BYTES
from segue_server.runtime.time_slices import Steps

M = TypeVar("M", bound=Message)

SMALL_MESSAGE_BYTES: Final = 64 * 1024
"""Parsing takes a millisecond at most, whatever is in it."""

MAX_OTHER_FIELDS: Final = 1_024
"""Fields of a request that are not in `_MAX_COUNTS`, unknown ones included."""
MAX_OTHER_BYTES: Final = 64 * 1024
"""Of a field that holds no text: a name, a list of characters, an unknown one."""

_MAX_CHARACTER_BYTES: Final = 4
_FIELDS_OF_A_STEP: Final = 512
_PART_BYTES: Final = 2**20
"""Of a message that is parsed in one step, unless a single field has more."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types; all others are groups, which proto3 does not have, or undefined."""
_MORE: Final = 0x80
"""Set in every byte of a varint but the last."""
_MAX_VARINT_BYTES: Final = 10

_NOT_A_MESSAGE: Final = "the request is not a message of this method"

_MAX_COUNTS: Final[Mapping[Descriptor, Mapping[str, tuple[str, int]]]] = {
    generation_pb2.GenerateRequest.DESCRIPTOR: {"stop": ("number of stop strings", LIMITS.max_stops)},
    generation_pb2.Sampling.DESCRIPTOR: {"biases": ("number of biases", LIMITS.max_biases)},
    scoring_pb2.ScoreRequest.DESCRIPTOR: {"texts": ("number of texts", LIMITS.max_texts)},
    scoring_pb2.ScoreCandidatesRequest.DESCRIPTOR: {"candidates": ("number of candidates", LIMITS.max_candidates)},
    session_pb2.ForkSessionRequest.DESCRIPTOR: {"names": ("number of names", LIMITS.max_forks)},
}
"""How often a field may be in a request, and what it is called where it is more often."""

_MAX_BYTES: Final[Mapping[Descriptor, Mapping[str, int]]] = {
    common_pb2.Start.DESCRIPTOR: {"ticket": MAX_MESSAGE_BYTES},  # models are of any size
    generation_pb2.GenerateRequest.DESCRIPTOR: {
        "prompt": _MAX_CHARACTER_BYTES * LIMITS.max_prompt,
        "written_before": _MAX_CHARACTER_BYTES * LIMITS.max_generated,
    },
    scoring_pb2.ScoreRequest.DESCRIPTOR: {"texts": _MAX_CHARACTER_BYTES * LIMITS.max_scored},
    scoring_pb2.ScoreCandidatesRequest.DESCRIPTOR: {
        "context": _MAX_CHARACTER_BYTES * LIMITS.max_prompt,
        "candidates": _MAX_CHARACTER_BYTES * LIMITS.max_scored,
    },
    scoring_pb2.ScoreStreamRequest.DESCRIPTOR: {"text": _MAX_CHARACTER_BYTES * LIMITS.max_scored},
}
"""The size of a field, where it may be above MAX_OTHER_BYTES."""


def parse(data: bytes, message: type[M]) -> Steps[M]:
    """Check and parse a request; raises InvalidRequest."""
    try:
        if len(data) <= SMALL_MESSAGE_BYTES:
            return message.FromString(data)
        yield from check_wire(data, message)
        parsed = message()
        view: Any = memoryview(data)  # which the type stubs do not know of
        for begin, end in _parts(data):
            yield
            parsed.MergeFromString(view[begin:end])  # messages merge as their bytes do, end to end
    except DecodeError:
        raise InvalidRequest(_NOT_A_MESSAGE) from None
    yield  # that took some milliseconds
    return parsed


def _parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the parts of a checked message begin and end: some fields each, and larger ones alone."""
    if len(data) <= _PART_BYTES:
        yield 0, len(data)
        return
    begin = last = 0
    for _, _, end in _fields(data, 0, len(data), {}):
        if end - begin > _PART_BYTES and last > begin:
            yield begin, last
            begin = last
        last = end
    yield begin, last


def check_wire(data: bytes, message: type[Message]) -> Steps[None]:
    """Refuse a message of the wire with more, or larger, fields than a request has; raises InvalidRequest."""
    counts = Counter[str]()
    try:
        for number, (field, size, _) in enumerate(_fields(data, 0, len(data), _known(message.DESCRIPTOR))):
            counts[field.what] += 1
            if counts[field.what] > field.max_count:
                raise InvalidRequest(f"{field.what}: more than the {field.max_count:,} that are allowed: send fewer")
            if size > field.max_bytes:
                raise InvalidRequest(f"{field.name} is {size:,} bytes long; at most {field.max_bytes:,} are allowed")
            if number % _FIELDS_OF_A_STEP == 0:
                yield
    except IndexError:  # it ends within a field
        raise InvalidRequest(_NOT_A_MESSAGE) from None


@dataclass(frozen=True)
class _Field:
    """A field, as it is checked."""

    name: str
    what: str
    """What is counted with it."""
    max_count: int
    max_bytes: int
    fields: "Mapping[int, _Field] | None" = None
    """Of the message that it holds, by key."""


_UNKNOWN: Final = _Field("an unknown field", "number of fields", MAX_OTHER_FIELDS, MAX_OTHER_BYTES)


@cache
def _known(descriptor: Any) -> Mapping[int, _Field]:
    """Return the fields of a message by the key that stands before each on the wire, if they hold bytes."""
    fields = [field for field in descriptor.fields if field.type in _BYTES_TYPES]
    return {field.number << 3 | _LENGTH: _checked(field) for field in fields}


_BYTES_TYPES: Final = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)


def _checked(field: FieldDescriptor) -> _Field:
    message = field.containing_type
    assert message is not None
    what, max_count = _MAX_COUNTS.get(message, {}).get(field.name, (_UNKNOWN.what, MAX_OTHER_FIELDS))
    if field.message_type is not None:  # the size of its fields counts
        return _Field(field.name, what, max_count, MAX_MESSAGE_BYTES, _known(field.message_type))
    return _Field(field.name, what, max_count, _MAX_BYTES.get(message, {}).get(field.name, MAX_OTHER_BYTES))


def _fields(data: bytes, at: int, end: int, known: Mapping[int, _Field]) -> Iterator[tuple[_Field, int, int]]:
    """Yield each field from `at` to `end`, its size, and where it ends, and the same of those inside it.

    Raises InvalidRequest and IndexError.
    """
    while at < end:
        key, at = _varint(data, at)
        field, wire_type, size = known.get(key, _UNKNOWN), key & 7, 0
        if wire_type == _LENGTH:
            size, at = _varint(data, at)
        elif wire_type == _VARINT:
            _, at = _varint(data, at)
        elif wire_type == _EIGHT_BYTES:
            size = 8
        elif wire_type == _FOUR_BYTES:
            size = 4
        else:
            raise InvalidRequest(_NOT_A_MESSAGE)
        yield field, size, at + size
        if field.fields is not None:
            yield from _fields(data, at, min(at + size, end), field.fields)
        at += size
    if at > end:
        raise InvalidRequest(_NOT_A_MESSAGE)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at`, and where it ends; raises InvalidRequest and IndexError."""
    byte = data[at]
    if byte < _MORE:  # nearly always
        return byte, at + 1
    number = byte % _MORE
    for place in range(1, _MAX_VARINT_BYTES):
        byte = data[at + place]
        number |= (byte % _MORE) << 7 * place
        if byte < _MORE:
            return number, at + place + 1
    raise InvalidRequest(_NOT_A_MESSAGE)
