"""States behind prompts that came before, so that a prompt that begins as one of them is not read anew.

A state is a function of the model, the state that a text begins from, and the text: so what follows is the same, to
the bit, wherever a prompt is read on from. What is kept is only that, (h, c); its last symbol is the text's, and its
position and seed are those of the call that uses it.

States are kept apart by tenant, by model, and by the state that a prompt goes on from: the zero state after the first
symbol of a text, or that of a ticket or session. So forks of one ticket share what they begin with as well.

A state is kept at the end of each prompt, and where a prompt parts from those before it: the third one with a common
beginning is served from there. What was not used for longest makes room.
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
"""A state is kept where it spares at least so many symbols: reading fewer costs little more than keeping it."""

_SHARE: Final = 8
"""What one prompt may take of the cache: this part."""
_DIGEST_BYTES: Final = 16
_TRIE_BYTES: Final = 512
"""A trie's own objects, its key, and its place in a table."""


@dataclass(slots=True)
class Counts:
    """What became of the prompts to one model, of all tenants."""

    hits: int = 0
    """Prompts of which at least one symbol was not read anew."""
    misses: int = 0
    """Prompts that were read whole."""
    symbols_saved: int = 0
    """Symbols that were not read anew."""
    states: int = 0
    """In the cache now."""
    bytes: int = 0
    """How much memory they take."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The part of a prompt that need not be read, and what is to be kept of the rest."""

    state: State
    """To read on from."""
    count: int = 0
    """How many of the ids are behind it."""
    marks: tuple[int, ...] = ()
    """Positions, ascending, at which the cache asks for the state."""
    store: Callable[[State], None] | None = None

    def take(self, state: State) -> None:
        """Keep a state that the prompt came through, if it is one that the cache asks for."""
        if self.store is not None and state.position in self.marks:
            self.store(state)


class _Key(NamedTuple):
    model: str
    version: int
    tenant: str
    begin: bytes
    """Digest of the state that texts go on from."""


class PrefixCache:
    """All states that are kept. For one thread."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: bytes, everything included; 0: nothing is kept."""
        self._capacity = capacity
        self._tries: dict[_Key, Trie] = {}
        self._used: OrderedDict[Node, _Key] = OrderedDict()
        """Where states are, those that were used latest last."""
        self._counts: defaultdict[tuple[str, int], Counts] = defaultdict(Counts)

    @property
    def bytes_taken(self) -> int:
        """How much memory all states take."""
        return sum(counts.bytes for counts in self._counts.values())

    def counts(self, model: Model) -> Counts:
        """Return what became of the prompts to `model`."""
        return self._counts[model.name, model.version]

    def find(self, state: State, ids: Ids, model: Model, tenant: str, behind: int = 0) -> Prefix:
        """Return the state behind as many of `ids`, read on from `state`, as are known.

        `behind`: how many symbols of the prompt are behind `state` already; where others are spared, so are they.
        """
        prefix = self._find(state, ids, model, tenant) if len(ids) >= WORTH and self._capacity else Prefix(state)
        counts = self.counts(model)
        counts.hits += prefix.count > 0
        counts.misses += not prefix.count and len(ids) > 0
        counts.symbols_saved += prefix.count and behind + prefix.count
        return prefix

    def _find(self, begin: State, ids: Ids, model: Model, tenant: str) -> Prefix:
        key = _Key(model.name, model.version, tenant, _digest(begin))
        packed = ids.astype(np.min_scalar_type(len(model.vocabulary) - 1))
        text, width = packed.tobytes(), packed.itemsize
        place = (self._tries.get(key) or Trie()).locate(text)
        state, kept = begin, place.kept_depth // width
        if place.kept is not None:
            self._used.move_to_end(place.kept)
            state = _state_at(place.kept, begin, ids[:kept])
        parting = _character_begin(ids, (place.depth + place.further) // width, model.symbols)

        def store(state: State) -> None:
            self._store(key, text[: width * (state.position - begin.position)], state)

        return Prefix(state, kept, tuple(begin.position + depth for depth in _worthy(kept, parting, len(ids))), store)

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
        self._make_room()

    def _make_room(self) -> None:
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
    """Return what tells `state` from others: neither its position nor its seed changes what a text leads to."""
    told = state.last.to_bytes(8, "little") + state.h.tobytes() + state.c.tobytes()
    return hashlib.blake2b(told, digest_size=_DIGEST_BYTES).digest()


def _state_at(node: Node, begin: State, ids: Ids) -> State:
    """Return the state that is kept at `node`, behind `ids`, for a text that goes on from `begin`."""
    assert node.values is not None
    h, c = node.values
    return State(h, c, int(ids[-1]), begin.position + len(ids), begin.seed)


def _worthy(kept: int, *depths: int) -> list[int]:
    """Return which of `depths`, ascending, are worth a state, where there is one at `kept`."""
    worthy: list[int] = []
    for depth in depths:
        if depth - max([kept, *worthy]) >= WORTH:
            worthy.append(depth)
    return worthy


def _character_begin(ids: Ids, at: int, symbols: Symbols) -> int:
    """Return `at`, or where the character begins that it is within."""
    while 0 < at < len(ids) and not symbols.begins_V[ids[at]]:
        at -= 1
    return at
