"""Sessions: sealed records in a store, by name."""

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from segue_server.errors import ForeignSession, InvalidRequest, SessionExists, SessionMoved, UnknownSession
from segue_server.runtime.registry import Served
from segue_server.runtime.time_slices import Steps, in_slices
from segue_server.state.key_ring import KeyRing, is_sealed
from segue_server.state.session_record import KEY_BYTES, NO_KEY, Record, pack_record, unpack_record
from segue_server.state.stores.store import Entry, SessionStore
from segue_server.telemetry.rate_limited_log import RateLimitedLog

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RANDOM_NAME_BYTES: Final = 12
"""Of a name that nobody can guess."""
_LISTED_AT_ONCE: Final = 32
"""Sessions in memory at once during a listing: each holds states."""
_LOG_SECONDS: Final = 60.0
"""Least time between two lines about damaged records."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredSession:
    """A session as loaded from the store."""

    name: str
    record: Record
    revision: int
    """Every change to the session gives it another one."""
    expiry: float
    """In seconds of Unix time."""


class Sessions:
    """The sessions of all tenants and models of a server."""

    def __init__(self, store: SessionStore, ring: KeyRing) -> None:
        self._store = store
        self._ring = ring
        self._damages = RateLimitedLog(_log, _LOG_SECONDS)

    async def load(self, name: str, served: Served, tenant: str) -> StoredSession:
        """Return a session and restart its idle time; raises UnknownSession, ForeignSession, StoreUnavailable."""
        _check_name(name)
        space = _space(served, tenant)
        entry = await self._store.fetch(space, name)
        if entry is None:
            raise UnknownSession(
                f"there is no session {name!r}: it was never opened, was closed, or has expired; "
                "open it, or name another"
            )
        stored = self._unsealed(space, name, entry, served)
        if stored is None:
            raise ForeignSession(
                f"session {name!r} was made with another model of this name, or with another key, or is damaged; "
                "open another one"
            )
        return stored

    async def page(self, after: str, limit: int, served: Served, tenant: str) -> tuple[list[StoredSession], str]:
        """Return up to `limit` of the tenant's sessions of one model after the name `after`, and their last name.

        The last name is "" on the last page. Sessions of another model of the same name, or of a key that was removed,
        are left out, as are damaged ones. Listing a session does not restart its idle time.
        """
        space = _space(served, tenant)
        names = await self._store.names(space, after, limit + 1)
        page = list[StoredSession]()
        for at in range(0, min(len(names), limit), _LISTED_AT_ONCE):
            some = names[at : min(at + _LISTED_AT_ONCE, limit)]
            entries = await asyncio.gather(*(self._store.peek(space, name) for name in some))
            page += await in_slices(self._all_unsealed(space, some, entries, served))
        return page, names[limit - 1] if len(names) > limit else ""

    async def create(self, names: Collection[str], records: list[Record], served: Served, tenant: str) -> list[str]:
        """Create sessions, all or none; "" gets a random name. Return the names; raises SessionExists, StoreFull."""
        names = [name or secrets.token_hex(_RANDOM_NAME_BYTES) for name in names]
        for name in names:
            _check_name(name)
        if len(set(names)) < len(names):
            raise InvalidRequest("names: the same name appears twice; give each session its own")
        space = _space(served, tenant)
        sealed = await in_slices(self._all_sealed(space, names, records, served))
        taken = await self._store.create(space, sealed, records[0].idle_seconds)
        if taken is not None:
            raise SessionExists(f"there is a session {taken!r} already; choose another name, or close it first")
        return names

    async def replace(self, stored: StoredSession, record: Record, served: Served, tenant: str) -> None:
        """Replace a stored session by `record`; raises SessionMoved if it has changed since."""
        space = _space(served, tenant)
        sealed = self._sealed(space, stored.name, record, served)
        if not await self._store.replace(space, stored.name, stored.revision, sealed):
            raise SessionMoved(
                f"another call has moved session {stored.name!r} meanwhile; ask where it is, and go on from there"
            )

    async def delete(self, stored: StoredSession, served: Served, tenant: str) -> None:
        """Delete a session; raises SessionMoved."""
        if not await self._store.delete(_space(served, tenant), stored.name, stored.revision):
            raise SessionMoved(
                f"another call has moved session {stored.name!r} meanwhile; ask where it is, and go on from there"
            )

    def _all_unsealed(
        self, space: str, names: list[str], entries: list[Entry | None], served: Served
    ) -> Steps[list[StoredSession]]:
        """Return the sessions of those entries that have one; each record may have some 100 KB."""
        found = []
        for name, entry in zip(names, entries, strict=True):
            stored = self._unsealed(space, name, entry, served) if entry else None
            if stored:
                found.append(stored)
                yield
        return found

    def _all_sealed(
        self, space: str, names: list[str], records: list[Record], served: Served
    ) -> Steps[dict[str, bytes]]:
        """Return the sealed record of each name."""
        sealed = dict[str, bytes]()
        for name, record in zip(names, records, strict=True):
            if sealed:
                yield
            sealed[name] = self._sealed(space, name, record, served)
        return sealed

    def _unsealed(self, space: str, name: str, entry: Entry, served: Served) -> StoredSession | None:
        """Return the session of an entry; None if it is of another model, its key is unknown, or it is damaged."""
        if not is_sealed(entry.record):
            self._damages.warn(
                "damaged",
                "session %r of %r is damaged: its %d bytes are no sealed record; remove it from the store",
                *(name, space, len(entry.record)),
            )
            return None
        packed = self._ring.unseal(entry.record, _bound_to(space, name))
        record = unpack_record(packed, served.model) if packed is not None else None
        if record is None or record.build.family != served.build.family:
            return None
        return StoredSession(name, record, entry.revision, entry.expiry)

    def _sealed(self, space: str, name: str, record: Record, served: Served) -> bytes:
        return self._ring.seal(pack_record(record, served.model), _bound_to(space, name))


def check_position(stored: StoredSession, position: int | None) -> None:
    """Raise SessionMoved if the caller expects the session elsewhere."""
    if position is not None and position != stored.record.position:
        raise SessionMoved(
            f"session {stored.name!r} is at position {stored.record.position:,}, not at {position:,}; "
            "continue from there, or rewind it"
        )


def key_digest(request_key: str) -> bytes:
    """Return the digest of a request's key."""
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
