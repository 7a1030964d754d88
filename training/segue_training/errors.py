"""What goes wrong in training, as one line for the person who can mend it.

    TrainingError
    |-- CorpusError        a corpus that cannot be found, read, verified or used
    |-- ConfigurationError a setting that is unknown or out of its range
    |-- CheckpointError    a checkpoint that is missing, damaged or of another kind
    |-- Diverged           the loss became NaN or infinite
    `-- Interrupted        a signal ended the run, which can be resumed

Each message names the value at fault and the remedy.
"""


class TrainingError(Exception):
    """The base of everything that training raises on purpose."""

    exit_code: int = 1
    """The exit status of a command that ends with this error: 2 where its input is at fault, otherwise 1."""


class CorpusError(TrainingError):
    """A corpus that cannot be found, read, verified or used."""

    exit_code = 2


class ConfigurationError(TrainingError):
    """A setting that is unknown or out of its range."""

    exit_code = 2


class CheckpointError(TrainingError):
    """A checkpoint that is missing, damaged or of another kind."""


class Diverged(TrainingError):  # noqa: N818 - the word of the field
    """The loss became NaN or infinite."""


class Interrupted(TrainingError):  # noqa: N818 - not an error of anybody
    """A signal ended the run, which can be resumed."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal  # as shells report a signal
