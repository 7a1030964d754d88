"""How symbols are chosen, as the rows of a writing graph want it, and log-probabilities as they are handed out."""

# Shape suffixes: B rows (sequences), V symbols of the vocabulary, N symbols of a text.

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from segue_export.graphs.writing import GREEDY

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ids = NDArray[np.int64]

LOG_PROBABILITY_QUANTUM: Final = 2.0**-24
"""Log-probabilities are multiples of this many nats (below float32's own rounding of a logit), so that sums up to
2^29 nats are exact in float64 and the sums of a text's parts add up to the sum of the whole."""

_EVERY_RANK: Final = 2**31
_WHOLE: Final = 2.0
"""A top_p that rounding cannot fall short of."""


@dataclass(frozen=True)
class Sampling:
    """How the next symbol is chosen: bias, temperature, then top_k, top_p and min_p. See segue.v1.Sampling."""

    temperature: float = 1.0
    """0: greedy."""
    top_k: int = 0
    """0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    """What is added to the logits of some symbols, by id; minus infinity where one may not be chosen."""

    @property
    def filtered(self) -> bool:
        """Whether anything is left out for being improbable."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest symbol is chosen, of equals the first."""
        return self.inverse_temperature == GREEDY

    @cached_property
    def inverse_temperature(self) -> float:
        """What logits are multiplied by, at most `GREEDY`."""
        return 1 / self.temperature if self.temperature > 1 / GREEDY else GREEDY


class SamplingRows:
    """The settings of B rows as inputs of a writing graph."""

    def __init__(self, rows: Sequence[Sampling], barred_V: Floats32) -> None:
        """`barred_V` is added to the logits of every row: 0, or minus infinity."""
        self._barred_V = barred_V
        self.biases = [row.bias for row in rows]
        self.greedy_B = np.array([row.greedy for row in rows], dtype=np.bool_)
        self.inverse_temperature_B1 = _column([row.inverse_temperature for row in rows])
        self.top_k_B1 = np.array([row.top_k or _EVERY_RANK for row in rows], dtype=np.int64)[:, np.newaxis]
        self.top_p_B1 = _column([row.top_p if row.top_p < 1 else _WHOLE for row in rows])
        self.min_p_B1 = _column([row.min_p for row in rows])

    @cached_property
    def bias(self) -> Floats32:
        """[B, V], or [1, V] for all rows."""
        if not any(self.biases):
            return self._barred_V[np.newaxis]
        bias_BV = np.repeat(self._barred_V[np.newaxis], len(self.biases), axis=0)
        for bias_V, added in zip(bias_BV, self.biases, strict=True):
            for symbol, bias in added:
                bias_V[symbol] += bias
        return bias_BV

    def join(self, other: "SamplingRows") -> None:
        """Append the rows of `other`."""
        self.biases = self.biases + other.biases
        for name in _PER_ROW:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        self.__dict__.pop("bias", None)

    def keep(self, rows: Ids) -> None:
        """Drop all rows but these."""
        self.biases = [self.biases[row] for row in rows.tolist()]
        for name in _PER_ROW:
            setattr(self, name, getattr(self, name)[rows])
        self.__dict__.pop("bias", None)


_PER_ROW: Final = ("greedy_B", "inverse_temperature_B1", "top_k_B1", "top_p_B1", "min_p_B1")


def _column(values: Sequence[float]) -> Floats32:
    return np.array(values, dtype=np.float32)[:, np.newaxis]


def quantized(log_probabilities: Floats32) -> Floats:
    """Return log-probabilities (nats) as they are handed out."""
    steps: Floats = np.rint(log_probabilities.astype(np.float64) / LOG_PROBABILITY_QUANTUM)
    return steps * LOG_PROBABILITY_QUANTUM + 0.0  # no negative zero
