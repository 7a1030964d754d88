"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

PRIVATE: Final = 0o600
READABLE: Final = 0o644


@contextmanager
def atomic_file(path: Path, permissions: int = PRIVATE) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends; on any failure `path` is unchanged.

    A special file, such as a pipe, is not replaced but written to.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as special:
            yield special
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield cast("BinaryIO", file)
            file.flush()
            os.fchmod(file.fileno(), permissions)
            os.fsync(file.fileno())
            os.replace(file.name, path)  # noqa: PTH105 - the file's name is a string
        except BaseException:
            os.unlink(file.name)  # noqa: PTH108 - the file's name is a string
            raise
    _sync_folder(path.parent)


def write_ticket(path: Path, ticket: bytes) -> None:
    """Write `ticket` to `path`, readable by its owner alone."""
    with atomic_file(path) as file:
        file.write(ticket)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
