"""The states of earlier prompts, so that the common prefix of a new prompt is not prefilled again.

A state is a function of the model, the start state and the text, so the results are the same, to the bit, wherever a
prompt is continued from. Only (h, c) is stored: the last symbol is the text's, position and seed are those of the call
that uses it.

States are separated by tenant, model and start state: the zero state after the first symbol of a text, or the state of
a ticket or session. So forks of one ticket share prefixes too.

A state is stored at the end of each prompt, and where a prompt diverges from earlier ones: the third prompt with a
common prefix is served from there. The least recently used state is evicted first.
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import State
from segue_server.engine.symbols import Symbols
from segue_server.prefix_cache.trie import Node, Trie

WORTH: Final = 64
"""Symbols that a state must spare to be stored: prefilling fewer costs little more than storing it."""

_SHARE: Final = 8
"""One prompt may take the capacity divided by this."""
_DIGEST_BYTES: Final = 16
_TRIE_BYTES: Final = 512
"""Memory of a trie's own objects, its key, and its table entry."""


@dataclass(slots=True)
class Counts:
    """Statistics of one model, over all tenants."""

    hits: int = 0
    """Prompts of which at least one symbol was cached."""
    misses: int = 0
    """Prompts of which nothing was cached."""
    symbols_saved: int = 0
    """Symbols of prompts that were cached."""
    states: int = 0
    """In the cache now."""
    bytes: int = 0
    """Memory that the states take."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The cached part of a prompt, and the states to store from the rest."""

    state: State
    """After the cached part."""
    count: int = 0
    """How many of the ids it covers."""
    marks: tuple[int, ...] = ()
    """Positions, ascending, at which the cache wants the state."""
    store: Callable[[State], None] | None = None

    def offer(self, state: State) -> None:
        """Store a state of the prompt if it is at one of the `marks`."""
        if self.store is not None and state.position in self.marks:
            self.store(state)


class _Key(NamedTuple):
    model: str
    version: int
    tenant: str
    start: bytes
    """Digest of the start state."""


class PrefixCache:
    """All stored states. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: bytes, everything included; 0: nothing is stored."""
        self._capacity = capacity
        self._tries: dict[_Key, Trie] = {}
        self._used: OrderedDict[Node, _Key] = OrderedDict()
        """Nodes with a state, the most recently used last."""
        self._counts: defaultdict[tuple[str, int], Counts] = defaultdict(Counts)

    @property
    def bytes_taken(self) -> int:
        """Memory that all states take."""
        return sum(counts.bytes for counts in self._counts.values())

    def counts(self, model: Model) -> Counts:
        """Return the statistics of `model`."""
        return self._counts[model.name, model.version]

    def find(self, state: State, ids: Ids, model: Model, tenant: str, covered: int = 0) -> Prefix:
        """Return the longest cached prefix of `ids` after `state`.

        `covered`: how many symbols of the prompt `state` covers; they count as saved along with cached ones.
        """
        is_worth_it = len(ids) >= WORTH and self._capacity
        prefix = self._longest_prefix(state, ids, model, tenant) if is_worth_it else Prefix(state)
        counts = self.counts(model)
        counts.hits += prefix.count > 0
        counts.misses += not prefix.count and len(ids) > 0
        counts.symbols_saved += prefix.count and covered + prefix.count
        return prefix

    def _longest_prefix(self, start: State, ids: Ids, model: Model, tenant: str) -> Prefix:
        key = _Key(model.name, model.version, tenant, _digest(start))
        packed = ids.astype(np.min_scalar_type(len(model.vocabulary) - 1))
        text, width = packed.tobytes(), packed.itemsize
        place = (self._tries.get(key) or Trie()).locate(text)
        state, kept = start, place.kept_depth // width
        if place.kept is not None:
            self._used.move_to_end(place.kept)
            state = _state_at(place.kept, start, ids[:kept])
        divergence = _character_start(ids, (place.depth + place.further) // width, model.symbols)

        def store(state: State) -> None:
            self._store(key, text[: width * (state.position - start.position)], state)

        depths = _worth_storing(kept, divergence, len(ids))
        return Prefix(state, kept, tuple(start.position + depth for depth in depths), store)

    def _store(self, key: _Key, text: bytes, state: State) -> None:
        values = np.array([state.h, state.c])
        values.flags.writeable = False
        if _SHARE * (len(text) + values.nbytes) > self._capacity:
            return
        counts, trie = self._counts[key.model, key.version], self._tries.get(key)
        if trie is None:
            trie = self._tries[key] = Trie()
            counts.bytes += _TRIE_BYTES + trie.bytes
        before = trie.bytes
        node = trie.put(text, values)
        counts.bytes += trie.bytes - before
        counts.states += node not in self._used
        self._used[node] = key
        self._used.move_to_end(node)
        self._evict()

    def _evict(self) -> None:
        while self.bytes_taken > self._capacity:
            node, key = self._used.popitem(last=False)
            counts, trie = self._counts[key.model, key.version], self._tries[key]
            before = trie.bytes
            trie.drop(node)
            counts.bytes += trie.bytes - before
            counts.states -= 1
            if trie.empty:
                del self._tries[key]
                counts.bytes -= _TRIE_BYTES + trie.bytes


def _digest(state: State) -> bytes:
    """Return a digest of what determines the states after `state`: not its position or seed."""
    content = state.last.to_bytes(8, "little") + state.h.tobytes() + state.c.tobytes()
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _state_at(node: Node, start: State, ids: Ids) -> State:
    """Return the state stored at `node`, for a text of `ids` after `start`."""
    assert node.values is not None
    h, c = node.values
    return State(h, c, int(ids[-1]), start.position + len(ids), start.seed)


def _worth_storing(kept: int, *depths: int) -> list[int]:
    """Return which of `depths`, ascending, are worth storing, given a state at `kept`."""
    chosen: list[int] = []
    for depth in depths:
        if depth - max([kept, *chosen]) >= WORTH:
            chosen.append(depth)
    return chosen


def _character_start(ids: Ids, at: int, symbols: Symbols) -> int:
    """Return `at`, or the start of the character that it is within."""
    while 0 < at < len(ids) and not symbols.begins_V[ids[at]]:
        at -= 1
    return at
