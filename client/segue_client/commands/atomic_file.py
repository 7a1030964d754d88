"""Files that are written whole or not at all."""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PRIVATE: Final = 0o600
READABLE: Final = 0o644


class _NamedFile(io.FileIO):
    """A file whose errors name the one that the user gave."""

    def __init__(self, file: int | Path, shown: Path) -> None:
        super().__init__(file, "wb")
        self._shown = shown

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write, or fail with the name."""
        with naming(self._shown):
            return super().write(data)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the errors of the system name `path`, not a temporary file or nothing."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextmanager
def atomic_file(path: Path, permissions: int = PRIVATE) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends; on any failure `path` is unchanged.

    A special file, such as a pipe, is not replaced but written to. Every OSError of the file names `path`.
    """
    if path.exists() and not path.is_file():
        with naming(path):
            special = io.BufferedWriter(_NamedFile(path, path))
        with special:
            yield special
        return
    with naming(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with io.BufferedWriter(_NamedFile(descriptor, path)) as file:
            yield file
            file.flush()
            with naming(path):
                os.fchmod(descriptor, permissions)
                os.fsync(descriptor)
        with naming(path):
            os.replace(temporary, path)  # noqa: PTH105 - the file's name is a string
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108 - the file's name is a string
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
