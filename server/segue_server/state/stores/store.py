"""What a session store does, and what it promises.

A store keeps sealed records under (space, name) and knows nothing of what is in them. It promises:

- A change is made at once or not at all, and only to the very record that the caller has read: each write gives the
  record a revision that no other write has, not even one under the same name after the session was closed, or after
  the store went back to an old copy of itself.
- What is kept is never dropped for want of room: a full store takes no new session (StoreFull).
- A session that nobody uses for its idle time is gone. Reading it for use begins that time anew, as does replacing it.
- A store that does not answer says so soon (StoreUnavailable). Then a write may have been made or not: reading the
  session tells. Its callers stand in nobody's way who needs no session.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

_REVISION_BITS: Final = 63
"""SQLite's integers have a sign."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One session as it is stored."""

    revision: int
    """Of this record: no other write has the same."""
    record: bytes
    idle_seconds: int
    expiry: float
    """In seconds of Unix time."""


class SessionStore(Protocol):
    """Sealed records under (space, name). Every method raises StoreUnavailable where the store does not answer."""

    async def read(self, space: str, name: str) -> Entry | None:
        """Return a session that is to be used, and begin its idle time anew; None where there is none."""

    async def look(self, space: str, name: str) -> Entry | None:
        """Return a session, and let its idle time run on; None where there is none."""

    async def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return a name that is taken, or None. Raises StoreFull."""

    async def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Put a new record in the place of one revision; return False where that is not there any more.

        Raises StoreFull where a longer record finds no room; then the session stays as it is.
        """

    async def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Remove one revision; return False where that is not there any more."""

    async def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names behind `after`, in order."""

    async def close(self) -> None:
        """Let go of everything; to be called once, when no command is under way."""


def new_revision() -> int:
    """Return a revision for one write."""
    return secrets.randbits(_REVISION_BITS)
