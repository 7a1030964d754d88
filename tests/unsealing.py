"""The key that the servers of the tests share, and what is in their tickets: no seal of one state is like another."""

import os
import tempfile
from functools import cache
from pathlib import Path

from segue_server.state.key_ring import KeyRing


def write_keys(path: Path) -> Path:
    """Write the file of that key."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(f"1 {'5a' * 32}\n")
    return path


@cache
def _ring() -> KeyRing:
    with tempfile.TemporaryDirectory() as folder:
        return KeyRing(write_keys(Path(folder) / "keys"))


def unsealed(ticket: bytes) -> bytes:
    """Return the build and the state in a ticket of the default tenant; of none, nothing.

    Without when it expires, and how its text is being written.
    """
    if not ticket:
        return b""
    plain = _ring().unseal(ticket, b"ticket of ")
    assert plain is not None, "a ticket of another key"
    return plain[:80] + plain[88:108] + plain[136:]
