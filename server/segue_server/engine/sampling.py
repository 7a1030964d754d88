"""How symbols are chosen: the settings of one sequence, and of the rows of a batch as inputs of a writing graph."""

# Shape suffixes: B rows, V vocabulary.

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from segue_export.graphs.sampler import GREEDY

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ids = NDArray[np.int64]

_EVERY_RANK: Final = 2**31
_WHOLE: Final = 2.0
"""A top_p that leaves nothing out, however the sums are rounded."""


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
    """(id, what is added to its logit), each id once; minus infinity bars a symbol."""
    allowed: frozenset[int] = frozenset()
    """The only ids that may be chosen; empty: all."""

    @property
    def filtered(self) -> bool:
        """Whether improbable symbols are left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest symbol is chosen; of equals, the first."""
        return self.inverse_temperature == GREEDY

    @cached_property
    def inverse_temperature(self) -> float:
        """The factor of the logits, at most `GREEDY`."""
        return 1 / self.temperature if self.temperature > 1 / GREEDY else GREEDY

    @cached_property
    def logit_bias(self) -> "LogitBias | None":
        """The bias of all symbols; None if there is none."""
        if not (self.bias or self.allowed):
            return None
        ids, values = zip(*self.bias, strict=True) if self.bias else ((), ())
        return LogitBias(
            np.array(ids, dtype=np.int64),
            np.array(values, dtype=np.float32),
            np.array(sorted(self.allowed), dtype=np.int64),
        )


@dataclass(frozen=True, eq=False)
class LogitBias:
    """What is added to logits, by the ids of symbols: a few of a vocabulary that may be large."""

    ids: Ids
    values: Floats32
    allowed: Ids
    """The only ids that may be chosen; empty: all."""

    def over(self, barred_V: Floats32) -> Floats32:
        """Return `barred_V` with this added."""
        if len(self.allowed):
            bias_V = np.full_like(barred_V, -np.inf)
            bias_V[self.allowed] = barred_V[self.allowed]
        else:
            bias_V = barred_V.copy()
        bias_V[self.ids] += self.values
        return bias_V


class SamplingRows:
    """The settings of B rows, as inputs of a writing graph."""

    def __init__(self, rows: Sequence[Sampling], barred_V: Floats32) -> None:
        """`barred_V` is added to the logits of every row: 0, or minus infinity."""
        self._barred_V = barred_V
        self._biases = [row.logit_bias for row in rows]
        self.greedy_B = np.array([row.greedy for row in rows], dtype=np.bool_)
        self.inverse_temperature_B1 = _column([row.inverse_temperature for row in rows])
        self.top_k_B1 = np.array([row.top_k or _EVERY_RANK for row in rows], dtype=np.int64)[:, np.newaxis]
        self.top_p_B1 = _column([row.top_p if row.top_p < 1 else _WHOLE for row in rows])
        self.min_p_B1 = _column([row.min_p for row in rows])

    @cached_property
    def bias(self) -> Floats32:
        """[B, V], or [1, V] for all rows."""
        if not any(self._biases):
            return self._barred_V[np.newaxis]
        return np.stack([added.over(self._barred_V) if added else self._barred_V for added in self._biases])

    def join(self, other: "SamplingRows") -> None:
        """Append the rows of `other`."""
        self._biases = self._biases + other._biases  # noqa: SLF001 - one of its own kind
        for name in _PER_ROW:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        self.__dict__.pop("bias", None)

    def keep(self, rows: Ids) -> None:
        """Drop all rows but these."""
        self._biases = [self._biases[row] for row in rows.tolist()]
        for name in _PER_ROW:
            setattr(self, name, getattr(self, name)[rows])
        self.__dict__.pop("bias", None)


_PER_ROW: Final = ("greedy_B", "inverse_temperature_B1", "top_k_B1", "top_p_B1", "min_p_B1")


def _column(values: Sequence[float]) -> Floats32:
    return np.array(values, dtype=np.float32)[:, np.newaxis]
