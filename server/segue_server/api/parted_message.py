"""A message that is serialized part by part, while it is filled.

protobuf serializes a message in one go; where it holds tens of thousands of messages, the event loop waits for that.
But the bytes of a message are those of its fields in a row, in any order, and a field that is a message is its tag, its
length and its bytes (Protocol Buffers, "Encoding").
"""

from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

Parts = list[bytes]
"""The bytes of a message are those of its parts in a row."""

_LENGTH_DELIMITED: Final = 2
_SEVEN_BITS: Final = 0x7F
_MORE_FOLLOWS: Final = 0x80


class PartedMessage(Generic[M]):
    """The parts of a message so far, and the message that holds what follows them."""

    def __init__(self, message: M) -> None:
        """Begin with what `message` holds."""
        self.message = message
        """To be filled; another one after each `cut`."""
        self._kind = type(message)
        self._parts: Parts = []

    def cut(self) -> None:
        """Serialize what has been filled, and go on with an empty message."""
        self._parts.append(self.message.SerializeToString())
        self.message = self._kind()

    def put(self, field: str, parts: Parts) -> None:
        """Set `field` to a message given in parts, or add that to it, where `field` is repeated."""
        tag = self._kind.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED
        self._parts += [_varint(tag) + _varint(sum(map(len, parts))), *parts]

    def take(self) -> Parts:
        """Return all parts."""
        self.cut()
        return self._parts


def _varint(value: int) -> bytes:
    """Return `value` in groups of seven bits, the lowest first; all but the last have the eighth bit."""
    encoded = bytearray()
    while value > _SEVEN_BITS:
        encoded.append(value & _SEVEN_BITS | _MORE_FOLLOWS)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
