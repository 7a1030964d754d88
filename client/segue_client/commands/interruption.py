"""What is kept of a generation that was interrupted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from segue_client._sync.generation import Generation
from segue_client.commands.atomic_file import write_ticket
from segue_client.errors import SegueError
from segue_client.messages.events import Chunk

_TICKET_SECONDS: Final = 5.0
"""How long a user who pressed Ctrl-C waits for the server's last ticket."""


def keep_interrupted(generation: Generation, chunks: Sequence[Chunk], path: Path) -> str:
    """Write a ticket for the state after the received `chunks`, or the nearest earlier one; return what was kept."""
    text = "".join(chunk.text for chunk in chunks)
    try:
        ticket = generation.rewind(0, timeout=_TICKET_SECONDS)
    except SegueError:
        return _keep_latest(generation.latest_ticket, text, path)
    write_ticket(path, ticket)
    return f"after {len(text):,} characters; continue with --ticket-in {path}"


def _keep_latest(latest: tuple[int, bytes] | None, text: str, path: Path) -> str:
    """Write the last ticket that the stream delivered; some characters may be newer."""
    if latest is None:
        return f"after {len(text):,} characters; no ticket has arrived for --ticket-out"
    count, ticket = latest
    write_ticket(path, ticket)
    return (
        f"after {len(text):,} characters; {path} keeps the state after {count:,} of them, "
        f"before the last {len(text) - count:,}: {text[count:]!r}"
    )
