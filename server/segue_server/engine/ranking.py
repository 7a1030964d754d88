"""Which symbols are likelier than others, by the scores of all of them."""

# Shape suffixes: N steps, V vocabulary.

import numpy as np
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.engine.sampling import Floats32, Ids, quantized
from segue_server.engine.sequence import Alternatives


def likeliest(scores_NV: Floats32, most: int) -> Alternatives:
    """Return up to `most` of the likeliest symbols at each step; of equals the first."""
    known_NV = scores_NV.copy()
    known_NV[:, UNKNOWN_ID] = -np.inf
    ids = np.argsort(-known_NV, axis=1, kind="stable")[:, : min(most, known_NV.shape[1] - 1)]
    return Alternatives(ids, quantized(np.take_along_axis(known_NV, ids, axis=1)))


def ranks(scores_NV: Floats32, ids_N: Ids) -> Ids:
    """Return how many symbols are likelier than `ids_N` at each step, plus 1."""
    chosen_N1 = np.take_along_axis(scores_NV, ids_N[:, np.newaxis], axis=1)
    likelier_N: Ids = np.count_nonzero(scores_NV > chosen_N1, axis=1)
    return likelier_N + 1
