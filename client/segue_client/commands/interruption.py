"""What is kept of a text that did not come to its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from segue_client._sync.generation import Generation
from segue_client.commands.ticket_file import write_ticket
from segue_client.errors import SegueError
from segue_client.messages.events import Chunk

_PATIENCE: Final = 5.0
"""Seconds that a user who has pressed Ctrl-C waits for the server to bring the state."""


def keep_interrupted(generation: Generation, chunks: Sequence[Chunk], path: Path) -> str:
    """Write a ticket to the state after all that has come, or the nearest before it; say what was done.

    `chunks` is what has come.
    """
    text = "".join(chunk.text for chunk in chunks)
    try:
        ticket = generation.rewind(0, timeout=_PATIENCE)
    except SegueError:
        return _keep_latest(generation.latest_ticket, text, path)
    write_ticket(path, ticket)
    return f"after {len(text):,} characters; continue with --ticket-in {path}"


def _keep_latest(latest: tuple[int, bytes] | None, text: str, path: Path) -> str:
    """Write the last ticket that came on the way, which some characters came after."""
    if latest is None:
        return f"after {len(text):,} characters; no ticket has come that --ticket-out could keep"
    count, ticket = latest
    write_ticket(path, ticket)
    return (
        f"after {len(text):,} characters; {path} keeps the state after {count:,} of them, "
        f"before the last {len(text) - count:,}: {text[count:]!r}"
    )
