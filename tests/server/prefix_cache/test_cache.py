"""What is kept of prompts: the right states, each for its own, in bounded memory."""

import tracemalloc
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_server.engine.model import Model
from segue_server.engine.sequence import State
from segue_server.prefix_cache import cache as prefix_cache
from segue_server.prefix_cache.cache import Prefix, PrefixCache
from segue_server.prefix_cache.trie import Node, Trie, _bytes_of

SHAPE = (1, 4)

Text = tuple[int, ...]
Place = tuple[str, str, int, Text]
"""Model, tenant, number of the state that a text goes on from, and the text."""


def some_model(name: str, size: int) -> Any:
    symbols = SimpleNamespace(begins_V=np.ones(size, dtype=bool))
    return SimpleNamespace(name=name, version=1, vocabulary=range(size), symbols=symbols)


MODELS = {"m": some_model("m", 9), "n": some_model("n", 600)}


def values_at(place: Place) -> Any:
    return np.random.default_rng(abs(hash(place)) % 2**32).uniform(size=(2, *SHAPE)).astype(np.float32)


def begin_of(number: int, seed: int = 0) -> State:
    h, c = np.full((2, *SHAPE), number, dtype=np.float32)
    return State(h, c, last=number, position=1 + number, seed=seed)


class Oracle:
    """All that is kept, as a plain table in the order of use; what was forced out, it learns from the count alone."""

    def __init__(self, capacity: int, worth: int) -> None:
        self.cache = PrefixCache(capacity)
        self.capacity = capacity
        self.worth = worth
        self.kept: OrderedDict[Place, None] = OrderedDict()
        self.counts = dict.fromkeys(("hits", "misses", "symbols_saved"), 0)

    def find(self, model: str, tenant: str, number: int, text: Text, seed: int) -> Prefix:
        begin = begin_of(number, seed)
        prefix = self.cache.find(begin, np.array(text), MODELS[model], tenant)
        near = [each for *where, each in self.kept if where == [model, tenant, number]]
        depth = max((len(each) for each in near if text[: len(each)] == each), default=0)
        if len(text) < self.worth:
            assert (prefix.state, prefix.count, prefix.marks) == (begin, 0, ())
            depth = 0
        else:
            assert prefix.count == depth
            assert prefix.marks == self.marks(depth, near, text, begin)
        if depth:
            place = (model, tenant, number, text[:depth])
            self.kept.move_to_end(place)
            found = prefix.state
            assert np.array_equal([found.h, found.c], values_at(place))
            assert (found.last, found.position, found.seed) == (text[depth - 1], begin.position + depth, seed)
        else:
            assert prefix.state == begin
        self.counts["hits"] += depth > 0
        self.counts["misses"] += depth == 0
        self.counts["symbols_saved"] += depth
        return prefix

    def marks(self, depth: int, near: list[Text], text: Text, begin: State) -> tuple[int, ...]:
        parting = max((common(text, each) for each in near), default=0)
        marks = [parting] if parting - depth >= self.worth else []
        if len(text) - max([depth, *marks]) >= self.worth:
            marks.append(len(text))
        return tuple(begin.position + mark for mark in marks)

    def take(self, prefix: Prefix, model: str, tenant: str, number: int, text: Text) -> None:
        """Hand over every state that there is, those that nobody asked for as well."""
        begin = begin_of(number)
        for depth in range(prefix.count + 1, len(text) + 1):
            place = (model, tenant, number, text[:depth])
            h, c = values_at(place)
            prefix.offer(State(h, c, text[depth - 1], begin.position + depth, seed=99))
            if begin.position + depth in prefix.marks:
                self.kept[place] = None
                self.kept.move_to_end(place)
            self.check()

    def check(self) -> None:
        cache = self.cache
        assert cache.bytes_taken <= self.capacity
        counts = [cache.counts(model) for model in MODELS.values()]
        while len(self.kept) > sum(each.states for each in counts):
            self.kept.popitem(last=False)
        for name, each in zip(MODELS, counts, strict=True):
            assert each.states == sum(model == name for model, *_ in self.kept)
            tries = [trie for key, trie in cache._tries.items() if key.model == name]
            assert each.bytes == sum(prefix_cache._TRIE_BYTES + recounted(trie) for trie in tries)
        for name, expected in self.counts.items():
            assert sum(getattr(each, name) for each in counts) == expected


def recounted(trie: Trie) -> int:
    """The bytes of all nodes; each keeps a state or parts texts."""
    nodes, total = [trie._root], 0
    while nodes:
        node: Node = nodes.pop()
        assert node is trie._root or node.values is not None or len(node.children) > 1
        assert all(child.parent is node and child.label[0] == first for first, child in node.children.items())
        total += _bytes_of(node)
        nodes.extend(node.children.values())
    assert total == trie.bytes
    assert not trie.empty
    return total


def common(one: Text, other: Text) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


texts = st.lists(st.integers(1, 2), min_size=1, max_size=9).map(tuple)
calls = st.tuples(
    st.sampled_from("mmmn"), st.sampled_from(["a", "a", "a", ""]), st.sampled_from([0, 0, 1]), texts, st.booleans()
)


@given(calls=st.lists(calls, min_size=1, max_size=60), capacity=st.integers(1500, 60_000), worth=st.integers(1, 3))
@settings(max_examples=300)
def test_lookups_return_the_deepest_state_of_their_own_and_the_bound_holds(
    calls: list[tuple[str, str, int, Text, bool]], capacity: int, worth: int
) -> None:
    oracle, late = Oracle(capacity, worth), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_cache, "WORTH", worth)
        for seed, (model, tenant, number, symbols, is_late) in enumerate(calls):
            # Of the wide model two bytes each, of which the first are alike.
            text = symbols if model == "m" else tuple(1 + 256 * symbol for symbol in symbols)
            prefix = oracle.find(model, tenant, number, text, seed)
            if is_late:
                late.append((prefix, model, tenant, number, text))
            else:
                oracle.take(prefix, model, tenant, number, text)
        for call in late:
            oracle.take(*call)


def test_an_entry_that_is_large_for_the_cache_drives_nothing_out() -> None:
    cache, model = PrefixCache(20_000), MODELS["m"]
    for length in (100, 3000):
        prefix = cache.find(begin_of(0), np.ones(length, dtype=np.int64), model, "")
        assert prefix.marks[-1] == 1 + length
        prefix.offer(State(*np.zeros((2, *SHAPE), dtype=np.float32), last=1, position=1 + length, seed=0))
    assert cache.counts(model).states == 1
    assert cache.find(begin_of(0), np.ones(100, dtype=np.int64), model, "").count == 100


def test_without_capacity_nothing_is_kept_and_prompts_are_counted() -> None:
    cache, model = PrefixCache(0), MODELS["m"]
    for _ in range(2):
        prefix = cache.find(begin_of(0), np.ones(1000, dtype=np.int64), model, "")
        assert (prefix.count, prefix.marks) == (0, ())
    cache.find(begin_of(0), np.ones(0, dtype=np.int64), model, "")
    counts = cache.counts(model)
    assert (counts.hits, counts.misses, counts.states, counts.bytes) == (0, 2, 0, 0)


@pytest.mark.parametrize(("shape", "length"), [((1, 32), 200), ((1, 256), 1000), ((2, 512), 5000)])
def test_the_bytes_are_those_that_the_interpreter_takes(shape: tuple[int, int], length: int) -> None:
    model, generator = MODELS["m"], np.random.default_rng(0)
    common_part = generator.integers(1, 9, size=length)
    begins = [State(*np.full((2, *shape), i, np.float32), last=1, position=1, seed=0) for i in range(40)]
    tracemalloc.start()
    cache = PrefixCache(20_000_000)
    for number in range(400):
        rest = generator.integers(1, 9, size=length)
        begin = begins[number % 40 if number % 2 else 0]
        prompt = np.concatenate([common_part[: number * length // 400], rest])
        prefix = cache.find(begin, prompt, model, f"tenant {number % 7}")
        for mark in prefix.marks:
            prefix.offer(State(*np.zeros((2, *shape), np.float32), last=1, position=mark, seed=0))
    del prefix, prompt, rest
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.9 * cache.bytes_taken < taken < 1.1 * cache.bytes_taken


def test_states_stand_between_characters_and_never_within(kinds_loaded: dict[str, Model]) -> None:
    model, generator = kinds_loaded["bytes"], np.random.default_rng(0)
    cache, ends, parted = PrefixCache(10_000_000), model.symbols.begins_V, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_cache, "WORTH", 1)
        for _ in range(300):
            ids = model.vocabulary.encode("".join(generator.choice(list("aéè你佡𝄞𝄟"), size=12)))
            begin = State.after_first(int(ids[0]), model.state_shape, 0)
            prefix = cache.find(begin, ids[1:], model, "")
            assert all(mark == len(ids) or ends[ids[mark]] for mark in prefix.marks)
            assert prefix.state is begin or ends[np.append(ids, 1 + ord("a"))[prefix.state.position]]
            parted += prefix.marks[:1] < (len(ids),)
            for mark in prefix.marks:
                prefix.offer(State(begin.h, begin.c, int(ids[mark - 1]), mark, seed=0))
    assert parted > 100
