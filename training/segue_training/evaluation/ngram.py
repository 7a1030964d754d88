"""n-gram models, in contrast to models with a state (d2l, chapter "Language Models and the Dataset").

    P(x_t | x_<t) = P(x_t | x_{t-n+1} .. x_{t-1})

A model of order n sees the previous n - 1 symbols; a full table would have |V|^n entries, most of which never occur
(`NgramModel.parameters`). Unseen grams must not be impossible: interpolated modified Kneser-Ney smoothing (Chen and
Goodman 1999) discounts every count by D and distributes the discounts by the next lower order:

    P_n(w | h) = (c(hw) - D(c(hw))) / c(h) + P_{n-1}(w | h without its first) sum_w D(c(hw)) / c(h)

below the highest order, c counts the distinct symbols seen before hw; below the first order, all symbols are equally
probable. On English characters it beats Witten-Bell from order 2 on (tinyshakespeare, order 6: 1.523 against 1.698
nats).

A gram is identified by a rank: for order n, that of the pair (its last n - 1 symbols, its first) among those that
occur. This allows any vocabulary size, and a gram without its last symbol, its context, is a gram too.

Shapes: N symbols of a text, G grams of one order, O orders.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from segue_training.text.vocabulary import Ids

BLOCK: Final = 2**18
"""Symbols scored at a time."""

_Floats = NDArray[np.float64]
_Ranks = NDArray[np.int64]

_UNSEEN: Final = -1
_USUAL_DISCOUNTS: Final = (0.0, 0.5, 1.0, 1.5)
"""For the counts 0, 1, 2 and more, if there are too few rare grams for an estimate."""


@dataclass(frozen=True)
class Parameters:
    """The size of a table of one order."""

    order: int
    possible: int
    """|V|^n."""
    stored: int
    """Grams of this order that occur in the training text."""


@dataclass(frozen=True)
class _Smoothed:
    """One order's distributions: its own part, and the weight of the next lower order."""

    own_G: _Floats
    """(c(hw) - D) / c(h) of each gram hw."""
    lower: _Floats
    """sum_w D / c(h) of each context h, by its rank; 1 if nothing follows h."""


@dataclass(frozen=True)
class _Order:
    """The grams of one order, by rank."""

    keys_G: _Ranks
    """Rank of the gram without its first symbol, times |V|, plus that symbol; ascending."""
    highest: _Smoothed
    """As the model's highest order: from the occurrences of each gram."""
    below: _Smoothed
    """As a lower order: from the number of distinct symbols before each gram."""


class NgramModel:
    """Models of all orders from 1 to `order`, fitted to a text."""

    def __init__(self, orders: tuple[_Order, ...], vocabulary_size: int) -> None:
        self._orders = orders
        self.vocabulary_size = vocabulary_size

    @classmethod
    def fit(cls, ids_N: Ids, order: int, vocabulary_size: int) -> Self:
        """Count the grams of `ids_N`. Raises ValueError for a text shorter than `order`."""
        if not 1 <= order <= len(ids_N):
            raise ValueError(f"order {order} cannot be fitted to a text of {len(ids_N)} symbols")
        counted = list(_count(ids_N.astype(np.int64), order, vocabulary_size))
        orders = []
        for n, grams in enumerate(counted):
            contexts = len(counted[n - 1].keys_G) if n > 0 else 1
            longer = counted[n + 1].keys_G if n + 1 < order else np.zeros(0, dtype=np.int64)
            befores_G = np.bincount(longer // vocabulary_size, minlength=len(grams.keys_G))
            smoothed = (_smooth(counts_G, grams.contexts_G, contexts) for counts_G in (grams.counts_G, befores_G))
            orders.append(_Order(grams.keys_G, *smoothed))
        return cls(tuple(orders), vocabulary_size)

    @property
    def order(self) -> int:
        """The highest order."""
        return len(self._orders)

    def parameters(self) -> tuple[Parameters, ...]:
        """Return the size of a full table and of this one, order by order."""
        return tuple(
            Parameters(n, self.vocabulary_size**n, len(order.keys_G)) for n, order in enumerate(self._orders, start=1)
        )

    def log_probabilities(self, ids_N: Ids) -> _Floats:
        """Return ln P of each of ids_N[1:] under every order, [O, N - 1]; row n - 1 is a model of order n.

        The beginning of the text is scored with the context there is.
        """
        symbols_N = ids_N.astype(np.int64)
        below_N = np.full(len(ids_N) - 1, 1 / self.vocabulary_size)
        scores_ON = np.empty((self.order, len(ids_N) - 1))
        contexts_N = np.zeros(len(ids_N), dtype=np.int64)  # the rank of the gram that ends at each symbol
        for n, order in enumerate(self._orders):
            grams_N = self._extend(contexts_N, symbols_N, n)
            scores_ON[n] = np.log(_interpolate(order.highest, contexts_N[:-1], grams_N[1:], below_N))
            below_N = _interpolate(order.below, contexts_N[:-1], grams_N[1:], below_N)
            contexts_N = grams_N
        return scores_ON

    def in_blocks(self, ids_N: Ids, start: int = 1, block: int = BLOCK) -> Iterator[tuple[_Floats, Ids]]:
        """Yield `log_probabilities` of ids_N[start:], start > 0, and those symbols, part by part in constant memory."""
        for first in range(start, len(ids_N), block):
            scored_N = ids_N[first : first + block]
            before = max(0, first - max(1, self.order - 1))
            scores_ON = self.log_probabilities(ids_N[before : first + len(scored_N)])
            yield scores_ON[:, -len(scored_N) :], scored_N

    def _extend(self, suffixes_N: _Ranks, symbols_N: _Ranks, n: int) -> _Ranks:
        """Return the rank of the gram of n + 1 symbols ending at each symbol, from the ranks of those of n symbols."""
        keys_G = self._orders[n].keys_G
        grams_N = np.full(len(symbols_N), _UNSEEN)
        keys_N = suffixes_N[n:] * self.vocabulary_size + symbols_N[: max(0, len(symbols_N) - n)]
        at_N = np.searchsorted(keys_G, keys_N).clip(max=len(keys_G) - 1)
        grams_N[n:] = np.where(keys_G[at_N] == keys_N, at_N, _UNSEEN)  # an unseen suffix has a negative key
        return grams_N


@dataclass(frozen=True)
class _Counted:
    keys_G: _Ranks
    counts_G: NDArray[np.int64]
    contexts_G: _Ranks
    """The rank of each gram without its last symbol."""


def _count(ids_N: _Ranks, order: int, vocabulary_size: int) -> Iterator[_Counted]:
    """Yield the grams of order 1, 2, ... `order`."""
    contexts_N = np.zeros(len(ids_N) + 1, dtype=np.int64)  # the rank of the context that begins at each symbol
    for n in range(order):
        keys_N = contexts_N[1:] * vocabulary_size + ids_N[: len(ids_N) - n]
        keys_G, first_G, grams_N, counts_G = np.unique(
            keys_N, return_index=True, return_inverse=True, return_counts=True
        )
        yield _Counted(keys_G, counts_G, contexts_N[first_G])
        contexts_N = grams_N


def _smooth(counts_G: NDArray[np.int64], contexts_G: _Ranks, contexts: int) -> _Smoothed:
    discounts_G = _discounts(counts_G)[np.minimum(counts_G, 3)]
    totals = np.bincount(contexts_G, counts_G, contexts)
    freed = np.bincount(contexts_G, discounts_G, contexts)
    own_G = (counts_G - discounts_G) / np.maximum(totals, 1)[contexts_G]
    return _Smoothed(own_G, np.where(totals > 0, freed / np.maximum(totals, 1), 1.0))


def _discounts(counts_G: NDArray[np.int64]) -> _Floats:
    """Return D of the counts 0, 1, 2 and more (Chen and Goodman 1999, equation 26)."""
    n1, n2, n3, n4 = (np.count_nonzero(counts_G == count) for count in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return np.array(_USUAL_DISCOUNTS)
    Y = n1 / (n1 + 2 * n2)
    discounts = np.array([0, 1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3])
    return discounts if (discounts[1:] > 0).all() else np.array(_USUAL_DISCOUNTS)


def _interpolate(smoothed: _Smoothed, contexts_N: _Ranks, grams_N: _Ranks, below_N: _Floats) -> _Floats:
    """Return P of each symbol under one order, from `below_N`, that under the next lower order."""
    lower_N = np.where(contexts_N == _UNSEEN, 1.0, smoothed.lower[contexts_N])
    own_N = np.where(grams_N == _UNSEEN, 0.0, smoothed.own_G[grams_N])
    return own_N + lower_N * below_N
