"""The folder that a command writes to: checked before the work, locked while it lasts, not left empty after a failure.

The lock is an flock on the file `.lock` in the folder. The system releases it when its process ends, however that
happens, so it is never stale; the file names the holder. On NFS, Linux keeps such locks on the server, for all hosts.
A file system without locks is used without one.
"""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from segue_training.errors import ConfigurationError, FolderInUse

LOCK: Final = ".lock"
_WITHOUT_LOCKS: Final = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL))
_LONGEST: Final = 4096
"""Bytes of a lock's file."""
_SHOWN: Final = 200
"""Characters of a command line in a message."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    pid: int
    host: str
    since: str
    """Local time of the host."""
    command: str

    @classmethod
    def this_process(cls) -> "Holder":
        """Describe this process."""
        words = (Path(sys.argv[0]).name, *sys.argv[1:])
        command = " ".join(shlex.join(words).split())[:_SHOWN]
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), command)


@contextmanager
def unless_empty(folder: Path) -> Iterator[None]:
    """Remove `folder` after a failure if it is new and empty, and so those above it."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty, or not there
            for path in new:
                path.rmdir()
        raise


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Turn an OSError from changing `folder` into a ConfigurationError."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}; give another --out") from error


def make_writable(folder: Path) -> None:
    """Create `folder` if it is missing. Raises ConfigurationError if no file can be written to it."""
    with changing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if it is missing.

    Raises FolderInUse, which names the holder, and ConfigurationError if no file can be written to it.
    """
    path = folder / LOCK
    with changing(folder):
        lock = _acquired(path)
    try:
        yield
    finally:
        with suppress(OSError):
            if _is_at(path, lock):
                path.unlink()
        lock.close()


def _acquired(path: Path) -> FileIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has failed, and removed the folder
            lock = path.open("a+b", buffering=0)
            _flock(lock, path)
            if _is_at(path, lock):
                lock.truncate(0)
                lock.write(json.dumps(asdict(Holder.this_process())).encode())
                return lock
            lock.close()  # the holder has unlinked the file between the two


def _flock(lock: FileIO, path: Path) -> None:
    """Lock the file. Raises FolderInUse."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise FolderInUse(_in_use(path)) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


def _is_at(path: Path, lock: FileIO) -> bool:
    """Return whether `path` is still the file that is locked."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    return False


def _in_use(path: Path) -> str:
    holder = _holder(path)
    if holder is None:
        return f"{path.parent} is in use by another process: wait for its end, or give a new run another --out"
    return (
        f"{path.parent} is in use by process {holder.pid} on {holder.host}, since {holder.since} ({holder.command}): "
        f"wait for its end, stop it with kill -INT {holder.pid}, or give a new run another --out"
    )


def _holder(path: Path) -> Holder | None:
    """Read who holds the lock; None if the file does not say so within a second."""
    for _ in range(20):
        with suppress(OSError, ValueError, TypeError), path.open("rb") as file:
            return Holder(**json.loads(file.read(_LONGEST)))
        time.sleep(0.05)  # it has the lock, and has not written its name yet
    return None
