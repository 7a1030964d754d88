"""Random numbers that are a function of (seed, position), so that a stream can stop and resume anywhere.

Philox4x32-10, the counter-based generator of J. K. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
(SC 2011): ten rounds of multiplying and mixing a 128-bit counter under a 64-bit key. Here the key is the seed and
the counter is the position of the symbol that is being chosen.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
"""32-bit words in 64-bit integers, so that their products do not overflow."""

_ROUNDS: Final = 10
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW: Final = np.uint64(0xFFFFFFFF)
_32: Final = np.uint64(32)


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return one number in [0, 1) with 53 random bits for each pair; the two arrays broadcast."""
    zero = np.zeros_like(positions)
    counter = (positions & _LOW, positions >> _32, zero, zero)
    high, low, _, _ = philox(counter, (seeds & _LOW, seeds >> _32))
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    return bits.astype(np.float64) * 2.0**-53


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
