"""What the server stores for a session: its state, and what it needs to rewind and to repeat a call.

As bytes, little-endian:

    format        1 byte    1
    build        80 bytes   of the newest state: build, family, host class (see `tickets`)
    rewind        4 bytes   how many symbols back must be possible
    idle          4 bytes   seconds that it is kept while unused
    seed          8 bytes   for a text that begins
    key          16 bytes   digest of the latest call's key; zeros for none
    flags         1 byte    1: there is a state; 2: the latest call started from a state; 4: it started from nothing;
                            8: it was not exact
    ring          1 byte    number of snapshots in the ring
    from nothing  1 byte    1: the ring starts where nothing was read
    snapshots               the state, the latest call's start, the ring
    tail                    ids of the symbols since the start of the ring: 1, 2 or 4 bytes each, by the vocabulary

The store sees only sealed bytes, bound to tenant, model and name: a record under another name does not unseal.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import NO_IDS
from segue_server.state.snapshot import Snapshot, pack, packed_bytes, unpack

KEY_BYTES: Final = 16
NO_KEY: Final = bytes(KEY_BYTES)
_FORMAT: Final = 1
_HEADER: Final = struct.Struct("<B32s32s16sIIQ16sBBB")
_HAS_STATE, _CALL_FROM_STATE, _CALL_FROM_NOTHING, _CALL_INEXACT = 1, 2, 4, 8
_SNAPSHOTS_PER_REWIND: Final = 4
"""The distance between snapshots is at least the rewinding range divided by this."""


@dataclass(frozen=True, slots=True)
class LatestCall:
    """The start of the latest call, if it had a key."""

    key: bytes
    snapshot: Snapshot | None
    """None: nothing was read."""
    exact: bool
    """Whether the call ran in the build that the snapshot is of."""


@dataclass(frozen=True, slots=True)
class Record:
    """A session. Frozen: each change makes a new record."""

    build: Build
    """Of the current state."""
    rewind: int
    """How many symbols back must be possible."""
    idle_seconds: int
    seed: int
    """For a text that begins; a state has its own seed."""
    current: Snapshot | None = None
    """None: nothing was read."""
    latest_call: LatestCall | None = None
    ring: tuple[Snapshot | None, ...] = ()
    """Snapshots before the current one, by position; None: nothing was read."""
    tail: Ids = field(default_factory=lambda: NO_IDS)
    """The symbols from the start of the ring to the current state."""

    @property
    def position(self) -> int:
        """How many symbols precede the state."""
        return _position(self.current)

    def key_matches(self, key: bytes) -> bool:
        """Whether the latest call had this key."""
        return self.latest_call is not None and key != NO_KEY and self.latest_call.key == key

    def advanced(self, build: Build, end: Snapshot, ids: Ids, passed: Iterable[Snapshot], key: bytes) -> "Record":
        """Return the session after a call that read or wrote `ids`, passed the states `passed`, and ended at `end`.

        If `build` has changed, the session cannot go back beyond this call: the older states are of another build.
        """
        exact = self.current is None or self.build == build
        latest_call = LatestCall(key, self.current, exact) if key != NO_KEY else None
        moved = replace(self, build=build, current=end, latest_call=latest_call)
        if not self.rewind:
            return moved
        known = [*self.ring, self.current] if exact else []
        ring = _thinned([*known, *passed], end.state.position, self.rewind)
        tail = np.concatenate([self.tail, ids])
        length = end.state.position - _position(ring[0]) if ring else 0
        return replace(moved, ring=ring, tail=tail[len(tail) - length :])

    def rewound(self, target: Snapshot | None, seed: int) -> "Record":
        """Return the session rewound to `target`, which lies between the start of the ring and the current state."""
        position = _position(target)
        ring = tuple(snapshot for snapshot in self.ring if _position(snapshot) < position)
        tail = self.tail[: position - _position(self.ring[0])] if ring else NO_IDS
        return replace(self, current=target, latest_call=None, ring=ring, tail=tail, seed=seed)

    def nearest_snapshot(self, position: int) -> tuple[Snapshot | None, Ids]:
        """Return the last snapshot up to `position`, and the symbols from there to `position`."""
        first = _position(self.ring[0])
        nearest = [snapshot for snapshot in self.ring if _position(snapshot) <= position][-1]
        return nearest, self.tail[_position(nearest) - first : position - first]


def snapshot_distance(rewind: int) -> int:
    """Return the least distance in symbols between snapshots of a session that can go back by `rewind`."""
    return max(1, rewind // _SNAPSHOTS_PER_REWIND)


def _position(snapshot: Snapshot | None) -> int:
    return 0 if snapshot is None else snapshot.state.position


def _thinned(snapshots: list[Snapshot | None], end: int, rewind: int) -> tuple[Snapshot | None, ...]:
    """Return few of the snapshots before `end`: the last one at least `rewind` before it, and some after that."""
    kept: list[Snapshot | None] = []
    for snapshot in snapshots:
        position = _position(snapshot)
        if kept and position <= end - rewind:
            kept = [snapshot]
        elif not kept or position >= _position(kept[-1]) + snapshot_distance(rewind):
            kept.append(snapshot)
    return tuple(snapshot for snapshot in kept if _position(snapshot) < end) or tuple(snapshots[:1])


def pack_record(record: Record, model: Model) -> bytes:
    """Return the bytes of `record`."""
    build, latest_call = record.build, record.latest_call
    flags = _HAS_STATE if record.current else 0
    if latest_call is not None:
        flags |= _CALL_FROM_STATE if latest_call.snapshot else _CALL_FROM_NOTHING
        flags |= 0 if latest_call.exact else _CALL_INEXACT
    from_nothing = bool(record.ring) and record.ring[0] is None
    header = _HEADER.pack(
        *(_FORMAT, build.sha256, build.family, build.host_class, record.rewind, record.idle_seconds, record.seed),
        *(latest_call.key if latest_call else NO_KEY, flags, len(record.ring) - from_nothing, from_nothing),
    )
    snapshots = [record.current, latest_call.snapshot if latest_call else None, *record.ring]
    return b"".join([header, *map(pack, filter(None, snapshots)), record.tail.astype(_id_type(model)).tobytes()])


def unpack_record(packed: bytes, model: Model) -> Record | None:
    """Return the packed record; None for bytes that `pack_record` does not write for `model`."""
    if len(packed) < _HEADER.size:
        return None
    version, sha256, family, host_class, rewind, idle_seconds, seed, key, flags, ring_length, from_nothing = (
        _HEADER.unpack_from(packed)
    )
    size, ids = packed_bytes(model), np.dtype(_id_type(model))
    count = bool(flags & _HAS_STATE) + bool(flags & _CALL_FROM_STATE) + ring_length
    tail_from = _HEADER.size + count * size
    if version != _FORMAT or len(packed) < tail_from or (len(packed) - tail_from) % ids.itemsize:
        return None
    snapshots = [unpack(packed[at : at + size], model) for at in range(_HEADER.size, tail_from, size)]
    if None in snapshots:
        return None
    stack: Iterator[Snapshot | None] = iter(snapshots)
    current = next(stack) if flags & _HAS_STATE else None
    snapshot = next(stack) if flags & _CALL_FROM_STATE else None
    latest_call = LatestCall(key, snapshot, exact=not flags & _CALL_INEXACT) if key != NO_KEY else None
    ring = (*([None] if from_nothing else []), *stack)
    tail = np.frombuffer(packed, dtype=ids, offset=tail_from).astype(np.int64)
    build = Build(sha256, family, host_class)
    record = Record(build, rewind, idle_seconds, seed, current, latest_call, ring, tail)
    length = record.position - _position(ring[0]) if ring else 0
    return record if length == len(tail) and (not len(tail) or tail.max() < len(model.vocabulary)) else None


def _id_type(model: Model) -> str:
    symbols = len(model.vocabulary)
    return "u1" if symbols <= 2**8 else "<u2" if symbols <= 2**16 else "<u4"
