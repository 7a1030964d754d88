"""The errors of training. Each message is one line that names the value at fault and the remedy.

TrainingError
|-- CorpusError        a corpus that cannot be found, read, verified or used
|   `-- BadRow         one line of it, which could be left out
|-- ConfigurationError a setting that is unknown or out of range
|-- CheckpointError    a checkpoint that is missing, damaged or of another kind
|-- FolderInUse        another process trains into the same folder
|-- Diverged           the loss became NaN or infinite
`-- Interrupted        a signal ended the run, which can be resumed
"""

import difflib
from collections.abc import Iterable


class TrainingError(Exception):
    """The base of all errors that training raises on purpose."""

    exit_code: int = 1
    """The command's exit status: 2 if its input is at fault, otherwise 1."""


class CorpusError(TrainingError):
    """A corpus that cannot be found, read, verified or used."""

    exit_code = 2


class BadRow(CorpusError):  # noqa: N818 - says what it is
    """One line of a text cannot be read, and could be left out; the message names it."""


class ConfigurationError(TrainingError):
    """A setting that is unknown or out of range."""

    exit_code = 2


class CheckpointError(TrainingError):
    """A checkpoint that is missing, damaged or of another kind."""


class FolderInUse(TrainingError):  # noqa: N818 - says what it is
    """Another process trains into the same folder."""


class Diverged(TrainingError):  # noqa: N818 - the field's term
    """The loss became NaN or infinite."""


class Interrupted(TrainingError):  # noqa: N818 - nobody's error
    """A signal ended the run, which can be resumed."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal  # as shells report a signal


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name closest to `name`, or "" if none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
