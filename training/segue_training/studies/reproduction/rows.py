"""The models of d2l's recurrent chapters and their published figures: zh edition, PyTorch, one GPU ("cuda:0")."""

from dataclasses import dataclass
from typing import Final, Literal

from segue_training.errors import ConfigurationError, did_you_mean

CORPUS: Final = "time-machine"
"""d2l's text."""


@dataclass(frozen=True)
class Row:
    """A model of the chapters."""

    name: str
    recipe: str
    published_perplexity: float | None = None
    published_speed: float | None = None
    """Tokens per second."""
    partition: Literal["sequential", "random"] = "sequential"


ROWS: Final = (
    Row("mlp", "d2l-mlp"),
    Row("rnn-scratch", "d2l-rnn-scratch", 1.0, 67_212.6),
    Row("rnn-scratch-random", "d2l-rnn-scratch", 1.5, 65_222.3, "random"),
    Row("rnn", "d2l-rnn", 1.3, 404_413.8),
    Row("gru-scratch", "d2l-gru-scratch", 1.1, 19_911.5),
    Row("gru", "d2l-gru", 1.0, 109_423.8),
    Row("lstm-scratch", "d2l-lstm-scratch", 1.3, 17_736.0),
    Row("lstm", "d2l-lstm", 1.1, 234_815.0),
    Row("deep-lstm", "d2l-deep-lstm", 1.0, 186_005.7),
)


def rows_named(names: tuple[str, ...]) -> tuple[Row, ...]:
    """Return the rows called `names`, or all rows; "LSTM from scratch" is lstm-scratch. Raises ConfigurationError."""
    known = {row.name: row for row in ROWS}
    plain = {name: "-".join(name.casefold().replace(" from ", " ").split()) for name in names}
    for name, found in plain.items():
        if found not in known:
            suggestion = did_you_mean(found, known)
            raise ConfigurationError(f"--only: no row is called {name!r}{suggestion} (rows: {', '.join(known)})")
    return tuple(known[found] for found in plain.values()) or ROWS
