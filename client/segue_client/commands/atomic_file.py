"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

PRIVATE: Final = 0o600
READABLE: Final = 0o644


@contextmanager
def written_atomically(path: Path, permissions: int = PRIVATE) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` at the end of the block; whatever fails, `path` stays as it was.

    What is no regular file, such as a pipe, keeps its place and is written into.
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
