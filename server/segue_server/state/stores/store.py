"""The interface of session stores, and what they promise.

A store keeps sealed records by (space, name) and does not look inside them. It promises:

- A change is atomic, and applies only to the record that the caller has read: each write gives the record a revision
  that no other write has, not even under the same name after the session was closed, or after the store was restored
  from an old copy.
- Nothing is evicted: a full store refuses new sessions (StoreFull).
- A session that is not used for its idle time expires. Fetching or replacing it restarts that time. It is deleted
  later (see `clock`).
- A store that does not answer fails soon (StoreUnavailable). A write may or may not have been made then: fetch the
  session to find out. A stuck store never delays calls that use no session.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

_REVISION_BITS: Final = 63
"""SQLite's integers are signed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored session."""

    revision: int
    """Unique to the write that stored the record."""
    record: bytes
    """Empty, if somebody else wrote there what is no record."""
    idle_seconds: int
    expiry: float
    """In seconds of Unix time."""


class SessionStore(Protocol):
    """Sealed records by (space, name). Every method raises StoreUnavailable if the store does not answer."""

    async def fetch(self, space: str, name: str) -> Entry | None:
        """Return a session and restart its idle time; None if it does not exist."""

    async def peek(self, space: str, name: str) -> Entry | None:
        """Return a session without restarting its idle time; None if it does not exist."""

    async def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return None, or a name that is taken. Raises StoreFull."""

    async def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Replace the record of `expected_revision`; return False if that revision is gone.

        Raises StoreFull if there is no room for a longer record; the session is unchanged then.
        """

    async def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Delete the session of `expected_revision`; return False if that revision is gone."""

    async def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names after `after`, in order."""

    async def close(self) -> None:
        """Release everything. Call once, with no command in progress."""


def new_revision() -> int:
    """Return a revision for one write."""
    return secrets.randbits(_REVISION_BITS)
