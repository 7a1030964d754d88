"""From logits to characters and log-probabilities, for many sequences at once.

Every function treats each row by itself: what a row gets never depends on the other rows.
"""

# Shape suffixes: B rows (sequences), V characters of the vocabulary.

from dataclasses import dataclass
from typing import Final

import numpy as np
from charlm_training.vocabulary import UNKNOWN_ID
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

LOG_PROBABILITY_QUANTUM: Final = 2.0**-24
"""Log-probabilities are multiples of this many nats (below float32's own rounding of a logit), so that sums up to
2^29 nats are exact in float64 and the sums of a text's parts add up to the sum of the whole."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next character is chosen: temperature, then top_k, then top_p. See charlm.v1.Sampling."""

    temperature: float = 1.0
    """0: greedy."""
    top_k: int = 0
    """0: all."""
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """The settings of B rows as columns."""

    temperature_B: Floats
    top_k_B: Ids
    top_p_B: Floats

    @classmethod
    def of(cls, rows: list[Sampling]) -> "SamplingRows":
        """Stack the settings of each row."""
        return cls(
            np.array([row.temperature for row in rows]),
            np.array([row.top_k for row in rows]),
            np.array([row.top_p for row in rows]),
        )


def choose(logits_BV: NDArray[np.float32], rows: SamplingRows, uniform_B: Floats) -> Ids:
    """Choose one character for each row by inverting its cumulative distribution at `uniform_B` in [0, 1).

    `<unk>` is never chosen; ties go to the earlier in the vocabulary.
    """
    allowed_BV: Floats = logits_BV.astype(np.float64)
    allowed_BV[:, UNKNOWN_ID] = -np.inf
    greedy_B = rows.temperature_B == 0
    if greedy_B.all():
        return _argmax(allowed_BV)
    scaled_BV = allowed_BV - allowed_BV.max(axis=1, keepdims=True)
    scaled_BV /= np.where(greedy_B, 1.0, rows.temperature_B)[:, np.newaxis]
    weight_BV = _filtered(np.exp(scaled_BV), rows)
    cumulative_BV = weight_BV.cumsum(axis=1)
    # Below the total for every uniform below 1, so the character that is found has a weight above 0.
    threshold_B = uniform_B * cumulative_BV[:, -1]
    sampled_B = _argmax(cumulative_BV > threshold_B[:, np.newaxis])
    return np.where(greedy_B, _argmax(allowed_BV), sampled_B) if greedy_B.any() else sampled_B


def _argmax(values_BV: NDArray[np.float64] | NDArray[np.bool_]) -> Ids:
    ids_B: Ids = values_BV.argmax(axis=1)
    return ids_B


def _filtered(weight_BV: Floats, rows: SamplingRows) -> Floats:
    """Zero what top_k and top_p exclude, in the rows that ask for it."""
    asking = np.flatnonzero((rows.top_k_B > 0) | (rows.top_p_B < 1))
    if not len(asking):
        return weight_BV
    weight_RV = weight_BV[asking]
    order_RV = np.argsort(-weight_RV, axis=1, kind="stable")
    sorted_RV = np.take_along_axis(weight_RV, order_RV, axis=1)
    top_k_R, top_p_R = rows.top_k_B[asking, np.newaxis], rows.top_p_B[asking, np.newaxis]
    sorted_RV[(top_k_R > 0) & (np.arange(weight_RV.shape[1]) >= top_k_R)] = 0
    before_RV = sorted_RV.cumsum(axis=1) - sorted_RV
    sorted_RV[before_RV >= top_p_R * sorted_RV.sum(axis=1, keepdims=True)] = 0
    np.put_along_axis(weight_RV, order_RV, sorted_RV, axis=1)
    weight_BV[asking] = weight_RV
    return weight_BV


def log_probabilities(logits_NV: NDArray[np.float32], ids_N: Ids) -> Floats:
    """Return the log-probability (nats, quantized) of each id under its row's softmax."""
    logits_NV = logits_NV.astype(np.float64)
    highest_N = logits_NV.max(axis=1)
    total_N = np.exp(logits_NV - highest_N[:, np.newaxis]).sum(axis=1)
    exact_N = logits_NV[np.arange(len(ids_N)), ids_N] - highest_N - np.log(total_N)
    rounded_N: Floats = np.rint(exact_N / LOG_PROBABILITY_QUANTUM) * LOG_PROBABILITY_QUANTUM
    return rounded_N + 0.0  # no negative zero
