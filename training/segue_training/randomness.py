"""Random numbers as a function of their purpose, not of how many were drawn before.

A resumed run, or one on several processes, thus draws the same numbers, and no random state needs to be saved.
"""

import hashlib

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed in 0 .. 2^63 - 1 for a purpose such as ("dropout", step)."""
    key = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for a purpose."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
