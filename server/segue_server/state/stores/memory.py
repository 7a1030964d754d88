"""Sessions in the server's own memory: for trying things out. They end with the process."""

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping
from typing import Final

from segue_server.errors import StoreFull
from segue_server.state.stores.expiry_queue import ExpiryQueue
from segue_server.state.stores.store import Entry, new_revision

DEFAULT_MAX_BYTES: Final = 1_000_000_000
ENTRY_BYTES: Final = 700
"""What a session takes beside its record: objects and keys, measured (`benchmarks/sessions.py`)."""

_LOOKED_AT_EACH_TIME: Final = 8
"""Of the sessions that may have expired, with every command."""
_LOOKED_AT_ONCE: Final = 1000
"""The same, where they are in the way."""

_Key = tuple[str, str]


class MemoryStore:
    """A table, the names of each space in order, and when to look at which session.

    A session that is used moves nothing but its own expiry: only when its old one comes is it put down for the new one.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES, clock: Callable[[], float] = time.time) -> None:
        """`max_bytes`: what all sessions may take; `clock`: seconds of Unix time."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: dict[_Key, Entry] = {}
        self._names: dict[str, list[str]] = {}
        self._agenda: ExpiryQueue[_Key] = ExpiryQueue()
        self._bytes = 0

    async def read(self, space: str, name: str) -> Entry | None:
        """Return a session that is to be used, and begin its idle time anew."""
        self._remove_expired(_LOOKED_AT_EACH_TIME)
        entry = self._find(space, name)
        if entry is None:
            return None
        return self._put(space, name, entry.revision, entry.record, entry.idle_seconds)

    async def look(self, space: str, name: str) -> Entry | None:
        """Return a session, and let its idle time run on."""
        return self._find(space, name)

    async def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return a name that is taken, or None."""
        self._remove_expired(_LOOKED_AT_EACH_TIME)
        for name in records:
            if self._find(space, name):
                return name
        self._make_room(sum(len(record) + ENTRY_BYTES for record in records.values()))
        for name, record in records.items():
            if (space, name) in self._entries:  # expired, and not removed yet
                self._remove(space, name)
            entry = self._put(space, name, new_revision(), record, idle_seconds)
            insort(self._names.setdefault(space, []), name)
            self._agenda.set((space, name), entry.expiry)
            self._bytes += len(record) + ENTRY_BYTES
        return None

    async def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Put a new record in the place of one revision; return False where that is not there any more."""
        self._remove_expired(_LOOKED_AT_EACH_TIME)
        entry = self._find(space, name)
        if entry is None or entry.revision != expected_revision:
            return False
        grown = len(record) - len(entry.record)
        self._make_room(grown)
        self._put(space, name, new_revision(), record, entry.idle_seconds)
        self._bytes += grown
        return True

    async def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Remove one revision; return False where that is not there any more."""
        entry = self._find(space, name)
        if entry is None or entry.revision != expected_revision:
            return False
        self._remove(space, name)
        return True

    async def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names behind `after`, in order."""
        self._remove_expired(_LOOKED_AT_ONCE)
        names, found = self._names.get(space, []), list[str]()
        for at in range(bisect_right(names, after), len(names)):
            if len(found) == limit:
                break
            if self._find(space, names[at]):
                found.append(names[at])
        return found

    async def close(self) -> None:
        """Let go of everything."""
        self._entries.clear()

    def _find(self, space: str, name: str) -> Entry | None:
        entry = self._entries.get((space, name))
        return entry if entry and entry.expiry > self._clock() else None

    def _put(self, space: str, name: str, revision: int, record: bytes, idle_seconds: int) -> Entry:
        entry = Entry(revision, record, idle_seconds, self._clock() + idle_seconds)
        self._entries[space, name] = entry
        return entry

    def _remove(self, space: str, name: str) -> None:
        entry = self._entries.pop((space, name))
        self._agenda.remove((space, name))
        self._bytes -= len(entry.record) + ENTRY_BYTES
        names = self._names[space]
        del names[bisect_left(names, name)]
        if not names:
            del self._names[space]

    def _make_room(self, needed: int) -> None:
        """Raise StoreFull where there is no room for so many more bytes."""
        if self._bytes + needed > self._max_bytes:
            self._remove_expired(_LOOKED_AT_ONCE)
        if needed > 0 and self._bytes + needed > self._max_bytes:
            raise StoreFull("the server has no room for more sessions; close some, or retry when some have expired")

    def _remove_expired(self, limit: int) -> None:
        for key in list(self._agenda.take_due(self._clock(), limit)):
            self._agenda.set(key, self._entries[key].expiry)
            if self._find(*key) is None:
                self._remove(*key)
