"""Random numbers that are a function of what they are for, not of how many were drawn before.

A run that is resumed, or that is spread over several processes, so draws what it would have drawn anyway: nothing
about random numbers needs to be saved.
"""

import hashlib

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed in 0 .. 2^63 - 1 for one purpose, such as ("dropout", step)."""
    key = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a generator (on the CPU) for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
