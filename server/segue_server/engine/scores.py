"""Log-probabilities as they are handed out, and the likeliest symbols."""

# Shape suffixes: N steps, B rows, A alternatives.

from dataclasses import dataclass
from typing import Final

import numpy as np

from segue_server.engine.runners.runner import Likeliest
from segue_server.engine.sampling import Floats, Floats32, Ids

LOG_PROBABILITY_QUANTUM: Final = 2.0**-24
"""Log-probabilities are multiples of this many nats, which is below float32's own rounding of a logit. So sums up to
2^29 nats are exact in float64, and the sums of a text's parts add up to the sum of the whole."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The likeliest symbols, other than `<unk>`, at each of N steps, likeliest first."""

    ids: Ids
    """[N, A]"""
    log_probabilities: Floats
    """[N, A], under the model itself, as those of the chosen symbols."""

    @classmethod
    def of_row(cls, likeliest: Likeliest, row: int, steps: int, most: int) -> "Alternatives":
        """Return up to `most` of the likeliest symbols at the first `steps` steps of a row, as a copy."""
        return cls(
            likeliest.ids_KBA[:steps, row, :most].copy(),
            quantized(likeliest.log_probabilities_KBA[:steps, row, :most]),
        )

    @property
    def nbytes(self) -> int:
        """What the arrays hold, in bytes."""
        return self.ids.nbytes + self.log_probabilities.nbytes


def joined_alternatives(parts: list[Alternatives]) -> Alternatives | None:
    """Return the alternatives of the steps of all parts, None for no parts."""
    if not parts:
        return None
    return Alternatives(
        np.concatenate([part.ids for part in parts]), np.concatenate([part.log_probabilities for part in parts])
    )


def quantized(log_probabilities: Floats32) -> Floats:
    """Return log-probabilities (nats) as they are handed out."""
    steps: Floats = np.rint(log_probabilities.astype(np.float64) / LOG_PROBABILITY_QUANTUM)
    return steps * LOG_PROBABILITY_QUANTUM + 0.0  # no negative zero
