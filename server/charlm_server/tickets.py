"""Tickets: a state as bytes that a client keeps and any server with the same model continues.

Layout, little-endian, nothing optional:

    magic      4 bytes   "CLT1"
    model     32 bytes   SHA-256 of the model's graph
    seed       8 bytes   unsigned
    position   8 bytes   unsigned
    last       4 bytes   unsigned, id of the last symbol
    h          4 LH bytes float32 [layers, hidden]
    c          4 LH bytes float32 [layers, hidden]
    checksum  16 bytes   BLAKE2b of all before

The length is compared with the loaded model's before anything is read. A ticket stands at the end of a character;
at the end of a document it holds the zero state, in which the next one begins. The checksum finds damage; it is
no seal: whoever can compute BLAKE2b can write a ticket, but only one with values that the model itself could have
reached.
"""

import hashlib
import struct
from typing import Final

import numpy as np

from charlm_server.errors import InvalidTicket
from charlm_server.model import Model
from charlm_server.sampling import Floats32
from charlm_server.sequence import State

_MAGIC: Final = b"CLT1"
_HEADER: Final = struct.Struct("<4s32sQQI")
_CHECKSUM_BYTES: Final = 16
_LAST_POSITION: Final = 2**62
"""No text comes near, and no sum of positions overflows 64 bits."""
_ROUNDED_ONE: Final = 1 + 1e-6
"""The largest tanh that float32 kernels return: some overshoot 1 by two units in the last place."""
_REFUSAL: Final = "the ticket is damaged or belongs to another model; start again from the text"


def write_ticket(state: State, model: Model) -> bytes:
    """Return `state` of `model` as a ticket."""
    assert model.symbols.may_end[state.last], "a ticket within a character"
    header = _HEADER.pack(_MAGIC, bytes.fromhex(model.sha256), state.seed, state.position, state.last)
    body = header + state.h.astype("<f4").tobytes() + state.c.astype("<f4").tobytes()
    return body + _checksum(body)


def read_ticket(ticket: bytes, model: Model) -> State:
    """Return the state that `ticket` denotes; raises InvalidTicket, always with the same text."""
    if len(ticket) != ticket_bytes(model):
        raise InvalidTicket(_REFUSAL)
    body, checksum = ticket[:-_CHECKSUM_BYTES], ticket[-_CHECKSUM_BYTES:]
    magic, sha256, seed, position, last = _HEADER.unpack_from(body)
    h, c = np.frombuffer(body, dtype="<f4", offset=_HEADER.size).reshape(2, *model.state_shape)
    reachable = bool(np.all(np.abs(h) <= _ROUNDED_ONE) and np.all(np.abs(c) <= position * _ROUNDED_ONE))  # no NaN
    intact = checksum == _checksum(body) and magic == _MAGIC and sha256.hex() == model.sha256
    if not (intact and reachable and 1 <= position <= _LAST_POSITION and _may_stand_after(last, h, c, model)):
        raise InvalidTicket(_REFUSAL)
    return State(h.astype(np.float32), c.astype(np.float32), last, position, seed)


def _may_stand_after(last: int, h: Floats32, c: Floats32, model: Model) -> bool:
    """Whether `last` is a symbol that ends a character, and a document only before the zero state."""
    if last >= len(model.vocabulary) or not model.symbols.may_end[last]:
        return False
    return last != model.symbols.end or not (h.any() or c.any())


def ticket_bytes(model: Model) -> int:
    """Return the size of every ticket of `model`."""
    layers, hidden = model.state_shape
    return _HEADER.size + 2 * 4 * layers * hidden + _CHECKSUM_BYTES


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES).digest()
