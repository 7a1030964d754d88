"""The folder that a command writes to: checked before the work, and not left empty after a failure."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segue_training.errors import ConfigurationError


@contextmanager
def unless_empty(folder: Path) -> Iterator[None]:
    """Remove `folder` after a failure if it is new and empty."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
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
