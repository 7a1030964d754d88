"""From logits to symbols and log-probabilities, for many sequences at once.

Every function treats each row by itself: what a row gets never depends on the other rows.
"""

# Shape suffixes: B rows (sequences), V symbols of the vocabulary.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
Barred = NDArray[np.float32]
"""What is added to logits: 0, or minus infinity where a symbol may not be chosen."""

LOG_PROBABILITY_QUANTUM: Final = 2.0**-24
"""Log-probabilities are multiples of this many nats (below float32's own rounding of a logit), so that sums up to
2^29 nats are exact in float64 and the sums of a text's parts add up to the sum of the whole."""

_COLDEST: Final = 1e-20
"""The lowest temperature above 0 that float32 can divide by; anything below it chooses alike."""
_NO_LIMIT: Final = 2**32
_NO_IDS: Final = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next symbol is chosen: temperature, then top_k, then top_p. See charlm.v1.Sampling."""

    temperature: float = 1.0
    """0: greedy."""
    top_k: int = 0
    """0: all."""
    top_p: float = 1.0


class SamplingRows:
    """The settings of B rows, prepared once for all the steps of a tick."""

    def __init__(self, rows: Sequence[Sampling]) -> None:
        temperature_B = np.array([row.temperature for row in rows])
        self.greedy_B = temperature_B == 0
        self.any_greedy = bool(self.greedy_B.any())
        self.all_greedy = bool(self.greedy_B.all())
        self.any_tempered = any(row.temperature not in (0, 1) for row in rows)
        temperature_B[self.greedy_B] = 1
        self.temperature_B1 = np.maximum(temperature_B, _COLDEST)[:, np.newaxis].astype(np.float32)
        self.filtered = np.array([i for i, row in enumerate(rows) if row.top_k > 0 or row.top_p < 1], dtype=np.int64)
        self.top_k_R1 = np.array([[rows[i].top_k or _NO_LIMIT] for i in self.filtered])
        self.top_p_R1 = np.array([[rows[i].top_p] for i in self.filtered])


def choose(logits_BV: Logits, barred_BV: Barred, rows: SamplingRows, uniform_B: Floats) -> Ids:
    """Choose one symbol for each row by inverting its cumulative distribution at `uniform_B` in [0, 1).

    `barred_BV`, [B, V] or [1, V], leaves each row one symbol at least. Ties go to the earlier in the vocabulary.
    """
    allowed_BV = logits_BV + barred_BV
    likeliest_B = _argmax(allowed_BV) if rows.any_greedy else _NO_IDS
    if rows.all_greedy:
        return likeliest_B
    allowed_BV -= allowed_BV.max(axis=1, keepdims=True)
    if rows.any_tempered:
        allowed_BV /= rows.temperature_B1  # in a row of temperature 1 this changes no bit
    weight_BV = np.exp(allowed_BV, out=allowed_BV)
    if len(rows.filtered):
        weight_BV[rows.filtered] = _filtered(weight_BV[rows.filtered], rows)
    cumulative_BV = weight_BV.cumsum(axis=1, dtype=np.float64)
    # Below the total for every uniform below 1, so the symbol that is found has a weight above 0.
    threshold_B = uniform_B * cumulative_BV[:, -1]
    sampled_B = _argmax(cumulative_BV > threshold_B[:, np.newaxis])
    return np.where(rows.greedy_B, likeliest_B, sampled_B) if rows.any_greedy else sampled_B


def _filtered(weight_RV: Logits, rows: SamplingRows) -> Logits:
    """Zero what top_k and top_p exclude, in the R rows that ask for it."""
    order_RV = np.argsort(-weight_RV, axis=1, kind="stable")
    sorted_RV = np.take_along_axis(weight_RV, order_RV, axis=1)
    sorted_RV[np.arange(weight_RV.shape[1]) >= rows.top_k_R1] = 0
    cumulative_RV = sorted_RV.cumsum(axis=1, dtype=np.float64)
    sorted_RV[cumulative_RV - sorted_RV >= rows.top_p_R1 * cumulative_RV[:, -1:]] = 0
    np.put_along_axis(weight_RV, order_RV, sorted_RV, axis=1)
    return weight_RV


def _argmax(values_BV: Logits | NDArray[np.bool_]) -> Ids:
    ids_B: Ids = values_BV.argmax(axis=1)
    return ids_B


def finite_rows(logits: Logits) -> NDArray[np.bool_]:
    """Return, for each row [B] of logits [B, V] or [B, K, V], whether all of them are finite numbers."""
    return np.asarray(np.isfinite(logits).reshape(len(logits), -1).all(axis=1))


def log_probabilities(logits_NV: Logits, ids_N: Ids) -> Floats:
    """Return the log-probability (nats, quantized) of each id under its row's softmax."""
    logits_NV = logits_NV.astype(np.float64)
    highest_N = logits_NV.max(axis=1)
    total_N = np.exp(logits_NV - highest_N[:, np.newaxis]).sum(axis=1)
    exact_N = logits_NV[np.arange(len(ids_N)), ids_N] - highest_N - np.log(total_N)
    rounded_N: Floats = np.rint(exact_N / LOG_PROBABILITY_QUANTUM) * LOG_PROBABILITY_QUANTUM
    return rounded_N + 0.0  # no negative zero
