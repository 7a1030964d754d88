"""Tickets in files: a state kept between two commands."""

from pathlib import Path

from segue_client.commands.atomic_file import written_atomically


def write_ticket(path: Path, ticket: bytes) -> None:
    """Put `ticket` at `path`, readable by its owner alone: either whole or, whatever fails, not at all."""
    with written_atomically(path) as file:
        file.write(ticket)
