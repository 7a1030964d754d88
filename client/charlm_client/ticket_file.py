"""Tickets in files: a state kept between two commands."""

import os
import tempfile
from pathlib import Path


def write_ticket(path: Path, ticket: bytes) -> None:
    """Put `ticket` at `path`, readable by its owner alone: either whole or, whatever fails, not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(ticket)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)  # noqa: PTH105 - the name of the file is a string
        except BaseException:
            os.unlink(file.name)  # noqa: PTH108 - the name of the file is a string
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
