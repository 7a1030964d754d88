"""Log-probabilities as they are handed out, and which symbols are likelier than others."""

# Shape suffixes: N steps, V vocabulary, A alternatives.

from dataclasses import dataclass
from typing import Final

import numpy as np
from segue_training.text.vocabulary import UNKNOWN_ID

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


def likeliest(scores_NV: Floats32, most: int) -> Alternatives:
    """Return up to `most` of the likeliest symbols at each step; of equals, the lowest id comes first."""
    known_NV = scores_NV.copy()
    known_NV[:, UNKNOWN_ID] = -np.inf
    order_NV = np.argsort(-known_NV, axis=1, kind="stable")
    ids_NA = order_NV[:, : min(most, known_NV.shape[1] - 1)].copy()  # a view would keep the order of all symbols
    return Alternatives(ids_NA, quantized(np.take_along_axis(known_NV, ids_NA, axis=1)))


def ranks(scores_NV: Floats32, ids_N: Ids) -> Ids:
    """Return how many symbols are likelier than `ids_N` at each step, plus 1."""
    chosen_N1 = np.take_along_axis(scores_NV, ids_N[:, np.newaxis], axis=1)
    likelier_N: Ids = np.count_nonzero(scores_NV > chosen_N1, axis=1)
    return likelier_N + 1
