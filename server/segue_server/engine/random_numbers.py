"""Random numbers that are a function of (seed, position), so that a stream can stop and resume anywhere.

Philox4x32-10, the counter-based generator of J. K. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
(SC 2011): ten rounds of multiplying and mixing a 128-bit counter under a 64-bit key. Here the key is the seed, and
each block of four words serves four positions: the counter is the position divided by four.
"""

# Shape suffixes: B rows, P positions.

from typing import Final

import numpy as np
from numpy.typing import NDArray
from segue_export.graphs.sampler import UNIFORM_BITS

Words = NDArray[np.uint64]
"""32-bit words as 64-bit integers, so that their products do not overflow."""

WORDS: Final = 4
"""In a block."""

SEEDS: Final = 2**64
"""Seeds wrap around at this number."""

_ROUNDS: Final = 10
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW: Final = np.uint64(0xFFFFFFFF)
_32: Final = np.uint64(32)


def uniforms(seeds: NDArray[np.uint64], starts: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """Return [B, count] numbers in (0, 1): row b holds those of the positions from starts[b] on, under seeds[b].

    `starts` and `count` are multiples of four.
    """
    block: Words = np.arange(count // WORDS, dtype=np.uint64)
    counters: Words = np.add((starts // np.uint64(WORDS))[:, np.newaxis], block, dtype=np.uint64)
    zero: Words = np.zeros_like(counters)
    keys = seeds[:, np.newaxis]
    words = philox((counters & _LOW, counters >> _32, zero, zero), (keys & _LOW, keys >> _32))
    bits = np.stack(words, axis=-1).reshape(len(seeds), count) >> np.uint64(32 - UNIFORM_BITS)
    return ((bits + 0.5) * 2.0**-UNIFORM_BITS).astype(np.float32)


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Return the four words of the block that `counter` names under `key`."""
    a, b, c, d = counter
    left, right = key
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (second >> _32) ^ b ^ left,
            second & _LOW,
            (first >> _32) ^ d ^ right,
            first & _LOW,
        )
        left, right = (left + _KEY_STEPS[0]) & _LOW, (right + _KEY_STEPS[1]) & _LOW
    return a, b, c, d
