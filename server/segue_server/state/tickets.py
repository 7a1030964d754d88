"""Tickets: a state as sealed bytes that the client holds and any server with the same key continues.

The plain text (see `key_ring`), little-endian, nothing optional:

    build       32 bytes   SHA-256 of the model's graph
    family      32 bytes   SHA-256 of what all builds of the model share
    host class  16 bytes   see `self_check`
    expiry       8 bytes   unsigned, seconds of Unix time
    snapshot               see `snapshot`

The seal is bound to the tenant. The length is checked before anything is parsed, and the seal before anything is
trusted. The state is at the end of a character; at the end of a document it is the zero state of the next one.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.errors import InvalidTicket
from segue_server.runtime.registry import Served
from segue_server.state.clock import CLOCK
from segue_server.state.key_ring import SEAL_BYTES, KeyRing
from segue_server.state.snapshot import Snapshot, pack, packed_bytes, unpack

_HEADER: Final = struct.Struct("<32s32s16sQ")
_REFUSAL: Final = (
    "the ticket is damaged, has expired, or is not for this model, tenant and server; start again from the text"
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The content of a ticket."""

    snapshot: Snapshot
    build: Build


class TicketCodec:
    """Encodes and decodes tickets."""

    def __init__(self, ring: KeyRing, lifetime: float, clock: Callable[[], float] = CLOCK.now) -> None:
        """`lifetime`: seconds until a ticket expires; `clock`: seconds of Unix time."""
        self._ring = ring
        self._lifetime = lifetime
        self._clock = clock

    def encode(self, snapshot: Snapshot, build: Build, model: Model, tenant: str) -> bytes:
        """Return the ticket of `snapshot`, a state of `build` of `model`."""
        assert model.symbols.may_end[snapshot.state.last], "a ticket within a character"
        expiry = int(self._clock() + self._lifetime)
        header = _HEADER.pack(build.sha256, build.family, build.host_class, expiry)
        return self._ring.seal(header + pack(snapshot), _bound_to(tenant))

    def decode(self, ticket: bytes, served: Served, tenant: str) -> Ticket:
        """Return the content of `ticket`; raises InvalidTicket, always with the same text."""
        if len(ticket) != ticket_bytes(served.model):
            raise InvalidTicket(_REFUSAL)
        plain = self._ring.unseal(ticket, _bound_to(tenant))
        if plain is None:
            raise InvalidTicket(_REFUSAL)
        sha256, family, host_class, expiry = _HEADER.unpack_from(plain)
        snapshot = unpack(plain[_HEADER.size :], served.model)
        if snapshot is None or expiry < self._clock() or family != served.build.family:
            raise InvalidTicket(_REFUSAL)
        return Ticket(snapshot, Build(sha256, family, host_class))


def ticket_bytes(model: Model) -> int:
    """Return the size of every ticket of `model`."""
    return SEAL_BYTES + _HEADER.size + packed_bytes(model)


def _bound_to(tenant: str) -> bytes:
    return b"ticket of " + tenant.encode()
