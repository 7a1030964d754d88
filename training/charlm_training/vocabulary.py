"""Characters and their ids.

A character is one Unicode code point. Id 0 is `<unk>`, which stands for every character outside the
vocabulary; the others follow by falling frequency in the corpus (d2l, chapter "Text Preprocessing"), ties
by code point.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = "<unk>"
UNKNOWN_ID: Final = 0


@dataclass(frozen=True)
class Vocabulary:
    """A fixed bijection between characters and the ids 0 .. len - 1.

    `characters` holds `<unk>` first, then single code points, each once; anything else raises ValueError.
    """

    characters: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.characters or self.characters[0] != UNKNOWN:
            raise ValueError(f"a vocabulary begins with {UNKNOWN!r}, not {self.characters[:1]!r}")
        if wrong := [c for c in self.characters[1:] if len(c) != 1]:
            raise ValueError(f"vocabulary entry {wrong[0]!r} is not a single character")
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("a character stands in the vocabulary twice")

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """Collect the characters of `text`, most frequent first."""
        counts = Counter(text)
        return cls((UNKNOWN, *sorted(counts, key=lambda c: (-counts[c], c))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of `text`, one for each code point; 0 for those outside the vocabulary."""
        code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        known, ids = self._sorted_code_points
        at = np.searchsorted(known, code_points).clip(max=len(known) - 1)
        return np.where(known[at] == code_points, ids[at], UNKNOWN_ID).astype(np.int64)

    def decode(self, ids: Sequence[int] | NDArray[np.int64]) -> str:
        """Return the characters of `ids`; an id outside 0 .. len - 1 raises IndexError."""
        if min(ids, default=0) < 0:
            raise IndexError(f"id {min(ids)} is negative")
        return "".join([self.characters[i] for i in ids])

    @cached_property
    def _sorted_code_points(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The known code points in order, beside their ids. `<unk>` is 2^32 - 1, which no text holds."""
        code_points = np.array([0xFFFFFFFF, *map(ord, self.characters[1:])], dtype=np.uint32)
        ids = np.argsort(code_points)
        return code_points[ids], ids.astype(np.int64)
