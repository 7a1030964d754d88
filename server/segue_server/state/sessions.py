"""Sessions: records in a store, opened and changed under their names."""

import asyncio
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

from segue_server.errors import ForeignSession, InvalidRequest, SessionExists, SessionMoved, UnknownSession
from segue_server.runtime.registry import Served
from segue_server.state.key_ring import KeyRing
from segue_server.state.session_record import KEY_BYTES, NO_KEY, Record, pack_record, unpack_record
from segue_server.state.stores.store import Entry, SessionStore

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MADE_UP_BYTES: Final = 12
"""Of a name that nobody can guess."""
_LOOKED_AT_TOGETHER: Final = 32
"""Sessions that are in memory at once while they are listed: each holds states."""


@dataclass(frozen=True)
class StoredSession:
    """A session as it was found in the store."""

    name: str
    record: Record
    revision: int
    """Of what was found: whatever changes the session gives it another one."""
    expiry: float
    """In seconds of Unix time."""


class Sessions:
    """The sessions of all tenants and models of a server."""

    def __init__(self, store: SessionStore, ring: KeyRing) -> None:
        self._store = store
        self._ring = ring

    async def find(self, name: str, served: Served, tenant: str) -> StoredSession:
        """Return a session that is to be used; raises UnknownSession, ForeignSession, StoreUnavailable."""
        _check_name(name)
        space = _space(served, tenant)
        entry = await self._store.read(space, name)
        if entry is None:
            raise UnknownSession(f"there is no session {name!r}: it was never opened, was closed, or has expired")
        held = self._opened(space, name, entry, served)
        if held is None:
            raise ForeignSession(f"session {name!r} was made with another model of this name, or with another key")
        return held

    async def page(self, after: str, limit: int, served: Served, tenant: str) -> tuple[list[StoredSession], str]:
        """Return the tenant's sessions of one model behind the name `after`, in order, and the last of their names.

        The latter is "" where there are no more than `limit`. A session of another model of the same name, or of a key
        that is out of use, is left out. To be listed is no use: it prolongs no session's time.
        """
        space = _space(served, tenant)
        names = await self._store.names(space, after, limit + 1)
        found = list[StoredSession]()
        for at in range(0, min(len(names), limit), _LOOKED_AT_TOGETHER):
            some = names[at : min(at + _LOOKED_AT_TOGETHER, limit)]
            entries = await asyncio.gather(*(self._store.look(space, name) for name in some))
            for name, entry in zip(some, entries, strict=True):
                held = self._opened(space, name, entry, served) if entry else None
                if held:
                    found.append(held)
        return found, names[limit - 1] if len(names) > limit else ""

    async def create(self, names: list[str], records: list[Record], served: Served, tenant: str) -> list[str]:
        """Make new sessions, all or none; "" is given a name. Return the names; raises SessionExists, StoreFull."""
        names = [name or secrets.token_hex(_MADE_UP_BYTES) for name in names]
        for name in names:
            _check_name(name)
        if len(set(names)) < len(names):
            raise InvalidRequest("names: the same name stands there twice; give each session its own")
        space = _space(served, tenant)
        sealed = {name: self._sealed(space, name, record, served) for name, record in zip(names, records, strict=True)}
        taken = await self._store.create(space, sealed, records[0].idle_seconds)
        if taken is not None:
            raise SessionExists(f"there is a session {taken!r} already; choose another name, or close it first")
        return names

    async def replace(self, held: StoredSession, record: Record, served: Served, tenant: str) -> None:
        """Put `record` in the place of what was found; raises SessionMoved where that has changed since."""
        space = _space(served, tenant)
        sealed = self._sealed(space, held.name, record, served)
        if not await self._store.replace(space, held.name, held.revision, sealed):
            raise SessionMoved(f"another call has moved session {held.name!r} meanwhile; ask where it stands now")

    async def delete(self, held: StoredSession, served: Served, tenant: str) -> None:
        """End a session; raises SessionMoved."""
        if not await self._store.delete(_space(served, tenant), held.name, held.revision):
            raise SessionMoved(f"another call has moved session {held.name!r} meanwhile; ask where it stands now")

    def _opened(self, space: str, name: str, entry: Entry, served: Served) -> StoredSession | None:
        """Return what the store has brought; None where that is not of this model, or not under a known key."""
        packed = self._ring.open(entry.record, _bound_to(space, name))
        record = unpack_record(packed, served.model) if packed is not None else None
        if record is None or record.build.family != served.build.family:
            return None
        return StoredSession(name, record, entry.revision, entry.expiry)

    def _sealed(self, space: str, name: str, record: Record, served: Served) -> bytes:
        return self._ring.seal(pack_record(record, served.model), _bound_to(space, name))


def check_position(held: StoredSession, position: int | None) -> None:
    """Raise SessionMoved where the caller takes the session to stand elsewhere."""
    if position is not None and position != held.record.position:
        raise SessionMoved(
            f"session {held.name!r} stands at position {held.record.position:,}, not at {position:,}; "
            "go on from there, or rewind it"
        )


def key_digest(request_key: str) -> bytes:
    """Return what a record keeps of a request's key."""
    if not request_key:
        return NO_KEY
    return hashlib.blake2b(request_key.encode(), digest_size=KEY_BYTES).digest()


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"the session's name is {name!r:.80}; it must be 1 to 64 of A-Z a-z 0-9 . _ -")


def _space(served: Served, tenant: str) -> str:
    return f"{tenant}/{served.model.name}"


def _bound_to(space: str, name: str) -> bytes:
    return f"session {space}/{name}".encode()
