"""Symbols and their ids.

A symbol is what a model reads in one step: a character (one Unicode code point) or one byte of the text's UTF-8. Id 0
is `<unk>`, for every character outside the vocabulary. Characters are ordered by falling frequency in the corpus (d2l,
chapter "Text Preprocessing"), ties by code point; bytes by value, all 256 of them, so that none is unknown.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Alphabet = Literal["characters", "bytes"]
Documents = Literal["none", "lines"]
"""Whether a text is read as a whole ("none"), or each line as a separate text enclosed by line feeds."""

Ids = NDArray[np.integer]
"""Ids of any integer type, in memory or mapped from a file."""

UNKNOWN: Final = "<unk>"
UNKNOWN_ID: Final = 0


@dataclass(frozen=True)
class Vocabulary:
    """A fixed bijection between symbols and the ids 0 .. len - 1.

    `characters` holds `<unk>` first, then distinct single code points; anything else raises ValueError. In a
    vocabulary of bytes, U+0000 .. U+00FF represent the bytes 0 .. 255.
    """

    characters: tuple[str, ...]
    alphabet: Alphabet = "characters"

    def __post_init__(self) -> None:
        if not self.characters or self.characters[0] != UNKNOWN:
            raise ValueError(f"a vocabulary begins with {UNKNOWN!r}, not {self.characters[:1]!r}")
        if wrong := [c for c in self.characters[1:] if len(c) != 1]:
            raise ValueError(f"vocabulary entry {wrong[0]!r} is not a single character")
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("a character is in the vocabulary twice")
        if self.alphabet == "bytes" and self.characters[1:] != _BYTES:
            raise ValueError("a vocabulary of bytes must hold all 256, in order")

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """Collect the characters of `text`, most frequent first."""
        return cls.from_counts(count_characters([text]))

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], minimum: int = 1) -> "Vocabulary":
        """Collect the characters that occur at least `minimum` times, most frequent first."""
        kept = [c for c, count in counts.items() if count >= minimum]
        return cls((UNKNOWN, *sorted(kept, key=lambda c: (-counts[c], c))))

    @classmethod
    def of_bytes(cls) -> "Vocabulary":
        """Return the vocabulary of all bytes."""
        return cls((UNKNOWN, *_BYTES), "bytes")

    def __len__(self) -> int:
        return len(self.characters)

    @cached_property
    def line_feed(self) -> int:
        """The id of the line feed, which ends documents; UNKNOWN_ID if it is not in the vocabulary."""
        return int(self.encode("\n")[0])

    @property
    def begin(self) -> str:
        """The character that stands in for an empty prompt: a line feed, or else the most frequent one."""
        return "\n" if "\n" in self.characters else self.characters[1]

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of `text`, [N]: one for each code point, 0 if unknown, or one for each byte of UTF-8."""
        if self.alphabet == "bytes":
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + 1
        return self._ids_by_code_point.take(_code_points(text), mode="clip")

    def decode(self, ids: Sequence[int] | NDArray[np.int64]) -> str:
        """Return the text of `ids`; an id outside 0 .. len - 1 raises IndexError.

        Bytes that are not UTF-8, or an incomplete code point, become U+FFFD.
        """
        ids_N = np.asarray(ids, dtype=np.int64)
        if ids_N.view(np.uint64).max(initial=0) >= len(self):  # a negative id becomes a huge one
            raise IndexError(f"ids from {ids_N.min()} to {ids_N.max()}: this vocabulary has 0 to {len(self) - 1}")
        if self.alphabet == "bytes":
            encoded: bytes = (ids_N[ids_N != UNKNOWN_ID] - 1).astype(np.uint8).tobytes()
            return encoded.decode(errors="replace")
        if not ids_N.all():
            return "".join([self.characters[i] for i in ids_N])
        return self._code_points[ids_N].tobytes().decode("utf-32-le", "surrogatepass")

    @cached_property
    def _code_points(self) -> NDArray[np.uint32]:
        """The code point of every id but 0."""
        return np.array([0, *map(ord, self.characters[1:])], dtype="<u4")

    @cached_property
    def _ids_by_code_point(self) -> NDArray[np.int64]:
        """The id of every code point up to the vocabulary's largest + 1, which represents all larger ones."""
        known = [ord(c) for c in self.characters[1:]]
        ids = np.full(max(known, default=-1) + 2, UNKNOWN_ID, dtype=np.int64)
        ids[known] = np.arange(1, len(self.characters))
        return ids


def count_characters(blocks: Iterable[str]) -> Counter[str]:
    """Count the characters of a text in blocks, in constant memory."""
    counts: Counter[str] = Counter()
    for block in blocks:
        counts_of_code_points = np.bincount(_code_points(block))
        present = np.flatnonzero(counts_of_code_points)
        counts.update(dict(zip(map(chr, present), counts_of_code_points[present].tolist(), strict=True)))
    return counts


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


_BYTES: Final = tuple(map(chr, range(256)))
