"""What the server keeps of a session: its state, and what it needs to go back and to repeat a call.

As bytes, little-endian:

    format        1 byte    1
    build        80 bytes   of the newest state: build, family, host class (see `tickets`)
    rewind        4 bytes   how many symbols back must be possible
    idle          4 bytes   seconds that it is kept without being used
    seed          8 bytes   for a text that begins
    key          16 bytes   digest of the latest call's key; zeros for none
    flags         1 byte    1: a state is there; 2: the latest call began from a state; 4: it began from nothing;
                            8: that call was not exact
    ring          1 byte    number of snapshots behind which the tail begins
    from nothing  1 byte    1: the tail begins where nothing was read
    snapshots               the state, the latest call's start, the ring
    tail                    ids of the symbols since the first of the ring: 1, 2 or 4 bytes each, by the vocabulary

The store sees only sealed bytes, bound to tenant, model and name: what comes back for another name does not open.
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
_HAS_STATE, _BEFORE_STATE, _BEFORE_NOTHING, _BEFORE_INEXACT = 1, 2, 4, 8
_SNAPSHOTS_PER_REWIND: Final = 4
"""Snapshots stand at least this part of the rewinding range apart."""


@dataclass(frozen=True, slots=True)
class Before:
    """Where the latest call with a key began."""

    key: bytes
    snapshot: Snapshot | None
    """None: nothing was read."""
    exact: bool
    """Whether that call went on from there in the build that the snapshot is of."""


@dataclass(frozen=True, slots=True)
class Record:
    """A session. Frozen: each change makes a new one."""

    build: Build
    """Of the current state."""
    rewind: int
    """How many symbols back must be possible."""
    idle_seconds: int
    seed: int
    """For a text that begins; a state has its own."""
    current: Snapshot | None = None
    """None: nothing was read."""
    before: Before | None = None
    ring: tuple[Snapshot | None, ...] = ()
    """Snapshots before the current one, by position; None is where nothing was read."""
    tail: Ids = field(default_factory=lambda: NO_IDS)
    """The symbols between the first of the ring and the current one."""

    @property
    def position(self) -> int:
        """How many symbols are behind the state."""
        return _position(self.current)

    def key_matches(self, key: bytes) -> bool:
        """Whether the latest call had this key."""
        return self.before is not None and key != NO_KEY and self.before.key == key

    def advanced(self, build: Build, now: Snapshot, ids: Ids, on_the_way: Iterable[Snapshot], key: bytes) -> "Record":
        """Return the session after a call that read or wrote `ids`, and came through the states `on_the_way`.

        Where `build` is another one than before, there is no way back behind this call: those states are not of it.
        """
        exact = self.current is None or self.build == build
        before = Before(key, self.current, exact) if key != NO_KEY else None
        moved = replace(self, build=build, current=now, before=before)
        if not self.rewind:
            return moved
        known = [*self.ring, self.current] if exact else []
        ring = _thinned([*known, *on_the_way], now.state.position, self.rewind)
        tail = np.concatenate([self.tail, ids])
        behind = now.state.position - _position(ring[0]) if ring else 0
        return replace(moved, ring=ring, tail=tail[len(tail) - behind :])

    def rewound(self, now: Snapshot | None, seed: int) -> "Record":
        """Return the session taken back to `now`, which stands between the first of the ring and the current state."""
        position = _position(now)
        ring = tuple(snapshot for snapshot in self.ring if _position(snapshot) < position)
        tail = self.tail[: position - _position(self.ring[0])] if ring else NO_IDS
        return replace(self, current=now, before=None, ring=ring, tail=tail, seed=seed)

    def start_of_rewinding(self, position: int) -> tuple[Snapshot | None, Ids]:
        """Return the latest snapshot up to `position`, and the symbols from there to `position`."""
        first = _position(self.ring[0])
        start = [snapshot for snapshot in self.ring if _position(snapshot) <= position][-1]
        return start, self.tail[_position(start) - first : position - first]


def snapshot_distance(rewind: int) -> int:
    """Return how many symbols lie between two snapshots, at least, of a session that can go back by `rewind`."""
    return max(1, rewind // _SNAPSHOTS_PER_REWIND)


def _position(snapshot: Snapshot | None) -> int:
    return 0 if snapshot is None else snapshot.state.position


def _thinned(snapshots: list[Snapshot | None], end: int, rewind: int) -> tuple[Snapshot | None, ...]:
    """Return few of the snapshots before `end`: the latest one at least `rewind` before it, and some behind."""
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
    build, before = record.build, record.before
    flags = _HAS_STATE if record.current else 0
    if before is not None:
        flags |= _BEFORE_STATE if before.snapshot else _BEFORE_NOTHING
        flags |= 0 if before.exact else _BEFORE_INEXACT
    from_nothing = bool(record.ring) and record.ring[0] is None
    header = _HEADER.pack(
        *(_FORMAT, build.sha256, build.family, build.host_class, record.rewind, record.idle_seconds, record.seed),
        *(before.key if before else NO_KEY, flags, len(record.ring) - from_nothing, from_nothing),
    )
    snapshots = [record.current, before.snapshot if before else None, *record.ring]
    return b"".join([header, *map(pack, filter(None, snapshots)), record.tail.astype(_id_type(model)).tobytes()])


def unpack_record(packed: bytes, model: Model) -> Record | None:
    """Return what was packed; None for what `pack_record` does not write for `model`."""
    if len(packed) < _HEADER.size:
        return None
    version, sha256, family, host_class, rewind, idle_seconds, seed, key, flags, ring_length, from_nothing = (
        _HEADER.unpack_from(packed)
    )
    size, ids = packed_bytes(model), np.dtype(_id_type(model))
    count = bool(flags & _HAS_STATE) + bool(flags & _BEFORE_STATE) + ring_length
    tail_from = _HEADER.size + count * size
    if version != _FORMAT or len(packed) < tail_from or (len(packed) - tail_from) % ids.itemsize:
        return None
    snapshots = [unpack(packed[at : at + size], model) for at in range(_HEADER.size, tail_from, size)]
    if None in snapshots:
        return None
    stack: Iterator[Snapshot | None] = iter(snapshots)
    current = next(stack) if flags & _HAS_STATE else None
    snapshot = next(stack) if flags & _BEFORE_STATE else None
    before = Before(key, snapshot, exact=not flags & _BEFORE_INEXACT) if key != NO_KEY else None
    ring = (*([None] if from_nothing else []), *stack)
    tail = np.frombuffer(packed, dtype=ids, offset=tail_from).astype(np.int64)
    build = Build(sha256, family, host_class)
    record = Record(build, rewind, idle_seconds, seed, current, before, ring, tail)
    behind = record.position - _position(ring[0]) if ring else 0
    return record if behind == len(tail) and (not len(tail) or tail.max() < len(model.vocabulary)) else None


def _id_type(model: Model) -> str:
    symbols = len(model.vocabulary)
    return "u1" if symbols <= 2**8 else "<u2" if symbols <= 2**16 else "<u4"
