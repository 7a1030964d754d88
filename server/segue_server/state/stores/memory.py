"""Sessions in the server's own memory, to try things out. They end with the process.

SQLite in memory would do the same in less code, and serves 0.6 times as many sessions a second: each of its statements
drops the interpreter's lock, which an engine's thread then takes.
"""

import heapq
from collections.abc import Mapping
from typing import Final

from segue_server.errors import StoreFull
from segue_server.state.clock import CLOCK, Clock
from segue_server.state.stores.store import Entry, new_revision

DEFAULT_MAX_BYTES: Final = 1_000_000_000
"""Default limit."""
ENTRY_BYTES: Final = 700
"""Of a session beside its record: objects and keys, measured (`benchmarks/sessions.py`)."""

_REMOVED_EACH_TIME: Final = 8
"""Expired sessions, with every command."""
_REMOVED_AT_ONCE: Final = 1000
"""The same, when listing or full."""
_SPARE: Final = 64


class MemoryStore:
    """The sessions of each space by name, and a heap of when each of them may have expired."""

    def __init__(self, max_bytes: int | None = None, clock: Clock = CLOCK) -> None:
        """`max_bytes`: for all sessions; None: the default."""
        self._max_bytes = max_bytes or DEFAULT_MAX_BYTES
        self._clock = clock
        self._spaces: dict[str, dict[str, Entry]] = {}
        self._due: list[tuple[float, str, str]] = []
        """May be too early for a session that was used, and may name sessions that were closed."""
        self._count = 0
        self._bytes = 0

    async def fetch(self, space: str, name: str) -> Entry | None:
        """Return a session and restart its idle time."""
        now = self._clock.now()
        self._remove_expired(now, _REMOVED_EACH_TIME)
        entry = self._find(space, name, now)
        return entry and self._put(space, name, entry.revision, entry.record, entry.idle_seconds, now)

    async def peek(self, space: str, name: str) -> Entry | None:
        """Return a session without restarting its idle time."""
        return self._find(space, name, self._clock.now())

    async def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return None, or a name that is taken."""
        now = self._clock.now()
        self._remove_expired(now, _REMOVED_EACH_TIME)
        for name in records:
            if self._find(space, name, now):
                return name
        self._make_room(sum(len(record) + ENTRY_BYTES for record in records.values()), now)
        for name, record in records.items():
            self._remove(space, name)  # it may have expired
            entry = self._put(space, name, new_revision(), record, idle_seconds, now)
            self._count += 1
            self._bytes += len(record) + ENTRY_BYTES
            heapq.heappush(self._due, (entry.expiry, space, name))
        self._forget_closed()
        return None

    async def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Replace the record of `expected_revision`; return False if that revision is gone."""
        now = self._clock.now()
        self._remove_expired(now, _REMOVED_EACH_TIME)
        entry = self._find(space, name, now)
        if entry is None or entry.revision != expected_revision:
            return False
        grown = len(record) - len(entry.record)
        self._make_room(grown, now)
        self._put(space, name, new_revision(), record, entry.idle_seconds, now)
        self._bytes += grown
        return True

    async def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Delete the session of `expected_revision`; return False if that revision is gone."""
        entry = self._find(space, name, self._clock.now())
        if entry is None or entry.revision != expected_revision:
            return False
        self._remove(space, name)
        self._forget_closed()
        return True

    async def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names after `after`, in order."""
        now, entries = self._clock.now(), self._spaces.get(space, {})
        self._remove_expired(now, _REMOVED_AT_ONCE)
        return heapq.nsmallest(limit, (name for name, e in entries.items() if name > after and e.expiry > now))

    async def close(self) -> None:
        """Release everything."""
        self._spaces.clear()

    def _find(self, space: str, name: str, now: float) -> Entry | None:
        entry = self._spaces.get(space, {}).get(name)
        return entry if entry and entry.expiry > now else None

    def _put(  # noqa: PLR0913, PLR0917 - a session
        self, space: str, name: str, revision: int, record: bytes, idle_seconds: int, now: float
    ) -> Entry:
        entry = Entry(revision, record, idle_seconds, now + idle_seconds)
        self._spaces.setdefault(space, {})[name] = entry
        return entry

    def _remove(self, space: str, name: str) -> None:
        """Remove a session, if it exists."""
        entries = self._spaces.get(space, {})
        if entry := entries.pop(name, None):
            self._count -= 1
            self._bytes -= len(entry.record) + ENTRY_BYTES
            if not entries:
                del self._spaces[space]

    def _make_room(self, needed: int, now: float) -> None:
        """Make room for `needed` more bytes; raises StoreFull."""
        if self._bytes + needed > self._max_bytes:
            self._remove_expired(now, _REMOVED_AT_ONCE)
        if needed > 0 and self._bytes + needed > self._max_bytes:
            raise StoreFull("the server has no room for more sessions; close some, or retry after some have expired")

    def _remove_expired(self, now: float, limit: int) -> None:
        if not self._due or self._due[0][0] > now:
            return
        past = self._clock.surely_past()
        while limit and self._due and self._due[0][0] <= past:
            _, space, name = heapq.heappop(self._due)
            entry = self._spaces.get(space, {}).get(name)
            if entry and entry.expiry > past:
                heapq.heappush(self._due, (entry.expiry, space, name))
            else:
                self._remove(space, name)
            limit -= 1

    def _forget_closed(self) -> None:
        """Rebuild the heap once most of it names sessions that were closed, or replaced after they had expired."""
        if len(self._due) > 2 * self._count + _SPARE:
            self._due = [(e.expiry, space, name) for space, each in self._spaces.items() for name, e in each.items()]
            heapq.heapify(self._due)
