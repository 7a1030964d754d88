"""The server's own files: the key file and the sessions are in its state folder, unless they are named elsewhere."""

import os
import tempfile
from pathlib import Path

from segue_server.errors import StartupError


def locate(state: Path | None, keys: Path | None, sessions: str | None) -> tuple[Path, str]:
    """Return the key file and the URL of the sessions; raises StartupError if the state folder is needed and unusable.

    With both named, there need not be a state folder, nor a home.
    """
    if keys is not None and sessions is not None:
        return keys, sessions
    folder = state or _default()
    if sessions is None:
        _try_writing(folder)
    return keys or folder / "keys", sessions or f"sqlite:{folder / 'sessions.sqlite'}"


def _default() -> Path:
    """Return where the XDG specification puts such files."""
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "segue"
    except RuntimeError as error:
        raise StartupError(
            f"no folder for the server's own files: HOME is not set, and user {os.getuid()} has no home; "
            "name one with --state or SEGUE_STATE"
        ) from error


def _try_writing(folder: Path) -> None:
    """Make the folder if it is missing, for its owner alone, and a file in it that vanishes."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartupError(
            f"user {os.getuid()} cannot write in the state folder {folder}: {error.strerror}; in a container, mount a "
            "volume there that this user may write in; or name another with --state or SEGUE_STATE"
        ) from error
