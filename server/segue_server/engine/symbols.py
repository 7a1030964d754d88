"""How symbols make up characters, as a finite automaton.

A symbol is what the model reads at one step, a character one code point. In most vocabularies they are the same. In
a vocabulary of bytes a character is one to four symbols, and a model could write invalid UTF-8. The automaton says
which symbols may come next, which prevents that, and where characters end, so that no output splits one.

State 0 is the end of a character. Characters of one symbol need no other state.
"""

# Shape suffixes: S states of the automaton, V vocabulary, B rows, K steps, N symbols of a text.

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from segue_training.text.vocabulary import UNKNOWN_ID, Vocabulary

from segue_server.engine.sampling import Floats, Floats32, Ids

_END: Final = 0
_NEVER: Final = -1

_UTF8: Final = (
    # state, first and last byte allowed, next state
    (0, 0x00, 0x7F, 0),
    (0, 0xC2, 0xDF, 1),
    (0, 0xE0, 0xE0, 4),
    (0, 0xE1, 0xEC, 2),
    (0, 0xED, 0xED, 5),
    (0, 0xEE, 0xEF, 2),
    (0, 0xF0, 0xF0, 6),
    (0, 0xF1, 0xF3, 3),
    (0, 0xF4, 0xF4, 7),
    (1, 0x80, 0xBF, 0),
    (2, 0x80, 0xBF, 1),
    (3, 0x80, 0xBF, 2),
    (4, 0xA0, 0xBF, 1),  # no overlong encoding
    (5, 0x80, 0x9F, 1),  # no surrogate
    (6, 0x90, 0xBF, 2),  # no overlong encoding
    (7, 0x80, 0x8F, 2),  # nothing above U+10FFFF
)
"""Well-formed UTF-8 (The Unicode Standard, section 3.9, table 3-7)."""

_UTF8_MISSING: Final = (0, 1, 2, 3, 2, 2, 3, 3)
"""How many bytes a character still lacks in each of these states."""


@dataclass(frozen=True, eq=False)
class Symbols:
    """Which symbols of a model, by id, may follow which, and where characters and documents end."""

    next_SV: Ids
    """The state that a symbol leads to; -1 if it is not allowed."""
    missing_S: Ids
    """How many symbols a character still lacks."""
    begins_V: NDArray[np.bool_]
    """Whether a symbol begins a character."""
    end: int | None
    """The symbol that ends a document, after which the next one begins from the zero state; None without documents."""

    @classmethod
    def of(cls, vocabulary: Vocabulary, end: int | None = None) -> "Symbols":
        """Return the symbols of `vocabulary`."""
        if vocabulary.alphabet == "bytes":
            next_SV = _utf8_automaton()
            continues_V = next_SV[1] == _END
            return cls(next_SV, np.array(_UTF8_MISSING), ~continues_V, end)
        next_SV = np.full((1, len(vocabulary)), _END)
        next_SV[:, UNKNOWN_ID] = _NEVER
        return cls(next_SV, np.array([0]), np.full(len(vocabulary), fill_value=True), end)

    @cached_property
    def single(self) -> bool:
        """Whether each character is one symbol."""
        return len(self.next_SV) == 1

    @cached_property
    def longest(self) -> int:
        """How many symbols the longest character has."""
        return 1 + int(self.missing_S.max())

    @property
    def automaton(self) -> Ids | None:
        """`next_SV`; None if there is only one state."""
        return None if self.single else self.next_SV

    @cached_property
    def barred(self) -> Floats32:
        """[V], added to the logits at every step: 0, or minus infinity for a symbol that is never allowed."""
        return np.where((self.next_SV == _NEVER).all(axis=0), -np.inf, 0).astype(np.float32)

    @cached_property
    def may_end(self) -> NDArray[np.bool_]:
        """Whether a symbol [V] can be the last of a character."""
        return np.asarray(self.single | (self.next_SV == _END).any(axis=0))

    def ends(self, ids_KB: Ids, spelling_B: Ids) -> NDArray[np.bool_]:
        """Return whether each of `ids_KB` is the last symbol of a character.

        `spelling_B` is the state after the last step.
        """
        begins_KB = self.begins_V[ids_KB]
        return np.concatenate([begins_KB[1:], (spelling_B == _END)[np.newaxis]])

    def whole(self, ids_N: Ids, least: int) -> int:
        """Return how many symbols to take from the front, at least `least`, without splitting a character."""
        taken = least
        while taken < len(ids_N) and not self.begins_V[ids_N[taken]]:
            taken += 1
        return taken

    def by_character(self, values_N: Floats, ids_N: Ids) -> Floats:
        """Return the sum of the values of the symbols of each character that begins in `ids_N`.

        The rest of an earlier character is left out: its first symbol has no value, so the character has none.
        """
        return values_N if self.single else np.add.reduceat(values_N, np.flatnonzero(self.begins_V[ids_N]))


def _utf8_automaton() -> Ids:
    """Return the next state by state and id; the id of a byte is the byte plus 1."""
    next_SV = np.full((len(_UTF8_MISSING), 257), _NEVER)
    for state, first, last, following in _UTF8:
        next_SV[state, first + 1 : last + 2] = following
    return next_SV
