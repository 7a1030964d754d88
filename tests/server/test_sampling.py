import math

import numpy as np
import pytest
import torch
from charlm_server.random_numbers import uniforms
from charlm_server.sampling import LOG_PROBABILITY_QUANTUM, Sampling, SamplingRows, choose, log_probabilities
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5, 100.0]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 1.0]),
)
BARRED = st.sets(st.integers(0, 8), max_size=8)
SEEDS = st.integers(0, 2**32 - 1)


def some_logits(seed: int, rows: int, size: int = 9) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=4, size=(rows, size)).astype(np.float32)


def bars(size: int, *barred: set[int]) -> NDArray[np.float32]:
    """What bars a set of symbols in each row."""
    added = np.zeros((len(barred), size), dtype=np.float32)
    for row, ids in enumerate(barred):
        added[row, list(ids)] = -np.inf
    return added


def by_hand(logits: NDArray[np.float32], barred: set[int], sampling: Sampling, uniform: float) -> int:
    """One row, in the plainest words: the outside oracle."""
    allowed = sorted({*range(len(logits))} - barred)
    best = max(allowed, key=lambda i: (logits[i], -i))
    if sampling.temperature == 0:
        return best
    # Rounded to float32 as in `choose`, so that a uniform on a boundary falls on the same side.
    temperature = np.float32(sampling.temperature)
    weights = {i: float(np.exp((logits[i] - logits[best]) / temperature)) for i in allowed}
    ranked = sorted(weights, key=lambda i: (-weights[i], i))
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    total, before, kept = sum(weights[i] for i in ranked), 0.0, set()
    for i in ranked:
        if before < sampling.top_p * total:
            kept.add(i)
        before += weights[i]
    threshold, running = uniform * sum(weights[i] for i in sorted(kept)), 0.0
    for i in sorted(kept):
        running += weights[i]
        if running > threshold:
            return i
    raise AssertionError


@given(SEEDS, BARRED, SETTINGS, st.floats(0, 1, exclude_max=True))
def test_choice_is_the_one_computed_by_hand(seed: int, barred: set[int], sampling: Sampling, uniform: float) -> None:
    logits = some_logits(seed, rows=1)
    chosen = choose(logits, bars(9, barred), SamplingRows([sampling]), np.array([uniform]))
    assert chosen[0] == by_hand(logits[0], barred, sampling, uniform)


@given(SEEDS, st.lists(st.tuples(BARRED, SETTINGS), min_size=1, max_size=20))
def test_a_row_does_not_depend_on_the_others(seed: int, rows: list[tuple[set[int], Sampling]]) -> None:
    barred, settings = zip(*rows, strict=True)
    logits, added = some_logits(seed, len(settings), size=67), bars(67, *barred)
    uniform = np.random.default_rng(seed).random(len(settings))
    together = choose(logits, added, SamplingRows(settings), uniform)
    for row, sampling in enumerate(settings):
        one = slice(row, row + 1)
        assert choose(logits[one], added[one], SamplingRows([sampling]), uniform[one])[0] == together[row]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.5), Sampling(1.5, top_k=4), Sampling(1.0, top_p=0.8), Sampling(2.0, 6, 0.9)]
)
def test_frequencies_are_those_of_the_distribution(sampling: Sampling) -> None:
    logits, count = some_logits(seed=5, rows=1) / 2, 40_000
    numbers = uniforms(np.array([1], dtype=np.uint64), np.arange(count, dtype=np.uint64))
    logits_again = np.repeat(logits, count, axis=0)
    chosen = choose(logits_again, bars(9, {0}), SamplingRows([sampling] * count), numbers)
    found = np.bincount(chosen, minlength=logits.size)
    # The exact probabilities: the share of a fine grid of uniforms, taken by hand.
    by_grid = [by_hand(logits[0], {0}, sampling, (i + 0.5) / 20_000) for i in range(20_000)]
    grid = np.bincount(by_grid, minlength=logits.size)
    expected = grid / 20_000 * count
    assert found[grid == 0].sum() == 0
    likely = expected > 5
    chi_square = float(((found - expected)[likely] ** 2 / expected[likely]).sum())
    assert chi_square < 30  # at most 7 degrees of freedom: chance of more is below 1e-4, and the seed is fixed


def test_the_largest_uniform_stays_within_the_vocabulary() -> None:
    logits = np.zeros((1, 1000), dtype=np.float32)
    logits[0, -3:] = -np.inf
    largest = np.array([1 - 2.0**-53])
    assert choose(logits, bars(1000, {0}), SamplingRows([Sampling()]), largest)[0] == 996


def test_log_probabilities_are_torch_s() -> None:
    logits, ids = some_logits(seed=7, rows=500, size=80), np.random.default_rng(8).integers(80, size=500)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=1).numpy()[np.arange(500), ids]
    found = log_probabilities(logits, ids)
    assert np.max(np.abs(found - expected)) <= LOG_PROBABILITY_QUANTUM / 2 + 1e-12
    assert np.all(found <= 0)


@given(SEEDS, st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_sums_of_parts_are_exact_in_any_order(seed: int, lengths: list[int]) -> None:
    count = sum(lengths)
    scores = log_probabilities(some_logits(seed, count), np.random.default_rng(seed).integers(9, size=count))
    parts = np.split(scores, np.cumsum(lengths)[:-1])
    total = float(scores.sum())
    assert sum(float(part.sum()) for part in parts) == total == math.fsum(scores) == float(scores[::-1].sum())
