import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_training.evaluation.ngram import NgramModel, Parameters

SIZE = 4
TEXTS = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=60)


class BruteForce:
    """Interpolated modified Kneser-Ney of one order, from its definition, with dictionaries."""

    def __init__(self, text: list[int], order: int, size: int) -> None:
        self.order, self.size = order, size
        grams = [{tuple(text[i : i + n]) for i in range(len(text) - n + 1)} for n in range(1, order + 1)]
        self.counts = [Counter(gram[1:] for gram in longer) for longer in grams[1:]]
        self.counts.append(Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1)))
        self.discounts = [self.estimate(counts) for counts in self.counts]

    @staticmethod
    def estimate(counts: Counter[tuple[int, ...]]) -> list[float]:
        n = Counter(counts.values())
        if all(n[j] for j in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            found = [j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)]
            if min(found) > 0:
                return [0, *found]
        return [0, 0.5, 1, 1.5]

    def probability(self, symbol: int, context: tuple[int, ...], order: int) -> float:
        if order == 0:
            return 1 / self.size
        context = context[len(context) - order + 1 :] if order > 1 else ()
        below = self.probability(symbol, context[1:], order - 1)
        counts, discounts = self.counts[order - 1], self.discounts[order - 1]
        following = [counts[(*context, w)] for w in range(self.size)]
        if sum(following) == 0:
            return below
        freed = sum(discounts[min(c, 3)] for c in following)
        own = following[symbol] - discounts[min(following[symbol], 3)]
        return (own + freed * below) / sum(following)


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(1, 4))
def test_it_is_what_the_definition_says(training: list[int], text: list[int], order: int) -> None:
    order = min(order, len(training))
    found = NgramModel.fit(np.array(training), order, SIZE).log_probabilities(np.array(text))
    assert found.shape == (order, len(text) - 1)
    for n in range(1, order + 1):
        oracle = BruteForce(training, n, SIZE)
        for i in range(1, len(text)):
            context = tuple(text[max(0, i - n + 1) : i])
            expected = oracle.probability(text[i], context, min(n, len(context) + 1))  # a lower order at the beginning
            assert math.exp(found[n - 1, i - 1]) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_the_probabilities_of_all_symbols_sum_to_one(training: list[int], context: list[int], order: int) -> None:
    model = NgramModel.fit(np.array(training), min(order, len(training)), SIZE)
    totals: defaultdict[int, float] = defaultdict(float)
    for symbol in range(SIZE):
        scores = model.log_probabilities(np.array([*context, symbol]))[:, -1]
        assert np.isfinite(scores).all()
        for n, score in enumerate(scores):
            totals[n] += math.exp(score)
    assert list(totals.values()) == pytest.approx([1.0] * model.order, rel=1e-12)


def test_lower_orders_count_contexts_and_not_occurrences() -> None:
    """Chen and Goodman's example: "Francisco" is frequent but follows only one word."""
    training = [0, 1] * 50 + [0, 3, 0, 3, 2, 3, 2, 3, 3]  # 1 follows only 0, 3 follows three symbols
    model = NgramModel.fit(np.array(training), 2, 6)
    frequent, varied = (model.log_probabilities(np.array([5, symbol]))[1, 0] for symbol in (1, 3))
    assert varied > frequent  # although it occurs 50 times and the other 5 times


@settings(deadline=None, max_examples=30)
@given(TEXTS, st.integers(1, 9), st.integers(1, 4))
def test_blocks_do_not_change_the_scores(text: list[int], block: int, start: int) -> None:
    model = NgramModel.fit(np.random.default_rng(5).integers(SIZE, size=300), 4, SIZE)  # contains every context
    ids = np.array(text, dtype=np.uint8)
    blocks = list(model.in_blocks(ids, start, block))
    whole = model.log_probabilities(ids)[:, start - 1 :]
    assert np.concatenate([np.zeros((4, 0)), *(scores for scores, _ in blocks)], axis=1) == pytest.approx(whole)
    assert np.concatenate([ids[:0], *(scored for _, scored in blocks)]).tolist() == text[start:]


def test_a_higher_order_predicts_a_regular_text_better() -> None:
    text = np.array([0, 0, 1, 0, 1, 1, 2] * 200)
    means = -NgramModel.fit(text[:1000], 5, 3).log_probabilities(text[1000:]).mean(axis=1)
    assert (np.diff(means) < 0).all()
    assert means[0] > 0.9
    assert means[4] < 0.02


def test_the_text_may_have_symbols_that_training_never_saw_and_any_width() -> None:
    vocabulary = 2**21
    model = NgramModel.fit(np.array([5, 2**20, 5, 2**20, 7], dtype=np.uint32), 3, vocabulary)
    scores = model.log_probabilities(np.array([5, 2**21 - 1, 5, 2**20], dtype=np.uint32))
    assert np.isfinite(scores).all()
    assert scores[0, 0] < -math.log(vocabulary)
    assert scores[2, 2] > math.log(0.5)


def test_a_full_table_would_grow_as_a_power_and_the_stored_one_hardly() -> None:
    model = NgramModel.fit(np.array([1, 2, 1, 2, 1, 3]), 3, 66)
    assert model.parameters() == (
        Parameters(order=1, possible=66, stored=3),
        Parameters(order=2, possible=66**2, stored=3),
        Parameters(order=3, possible=66**3, stored=3),
    )


def test_a_text_shorter_than_the_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order 4 cannot be fitted to a text of 3 symbols"):
        NgramModel.fit(np.array([1, 2, 3]), 4, 5)
