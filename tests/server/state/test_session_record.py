from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids, Sampling
from segue_server.engine.sequence import State
from segue_server.state.session_record import NO_KEY, LatestCall, Record, pack_record, unpack_record
from segue_server.state.snapshot import Snapshot, pack

BUILD = Build(bytes(32), bytes(range(32)), bytes(16))
KEY = bytes(range(16))


def snapshot_at(position: int, model: Model) -> Snapshot:
    """A state that tells by its values where it stands."""
    h = np.full(model.state_shape, 1 / (1 + position), dtype=np.float32)
    return Snapshot(State(h, h * position, 3, position, seed=position), Sampling(temperature=0.5, top_k=position))


def same(one: Snapshot | None, other: Snapshot | None) -> bool:
    return (one and pack(one)) == (other and pack(other))


calls = st.lists(
    st.tuples(
        st.integers(1, 200),  # symbols
        st.lists(st.integers(1, 199), max_size=6),  # where states were seen on the way
        st.booleans(),  # with a key
    ),
    max_size=12,
)


def play(calls: list[tuple[int, list[int], bool]], rewind: int, model: Model) -> tuple[Record, Ids]:
    """A session that went through `calls`, and all ids that they read or wrote."""
    record, ids, generator = Record(BUILD, rewind, 60, seed=5), list[int](), np.random.default_rng(len(calls))
    for count, seen, keyed in calls:
        now = generator.integers(1, len(model.vocabulary), size=count)
        on_the_way = [snapshot_at(len(ids) + at, model) for at in sorted(set(seen)) if at < count]
        ids += now.tolist()
        record = record.advanced(BUILD, snapshot_at(len(ids), model), now, on_the_way, KEY if keyed else NO_KEY)
    return record, np.array(ids, dtype=np.int64)


@given(calls=calls, rewind=st.integers(0, 300))
@settings(max_examples=200)
def test_a_session_can_go_back_as_far_as_it_says_and_keeps_little(
    model: Model, calls: list[tuple[int, list[int], bool]], rewind: int
) -> None:
    record, ids = play(calls, rewind, model)
    assert record.position == len(ids)
    if not rewind:
        assert len(record.tail) == len(record.ring) == 0
        return
    assert len(record.tail) >= min(rewind, len(ids))
    assert len(record.ring) <= 4 + 2
    longest = max((count for count, _, _ in calls), default=0)
    # A snapshot that stands too close behind another is left out, and the next one may be a call further on.
    assert len(record.tail) <= rewind + longest + max(1, rewind // 4)
    for position in range(len(ids) - len(record.tail), len(ids)):
        start, between = record.nearest_snapshot(position)
        at = start.state.position if start else 0
        assert same(start, snapshot_at(at, model) if at else None)
        np.testing.assert_array_equal(between, ids[at:position])


@given(calls=calls, rewind=st.integers(1, 300), back=st.integers(1, 400))
def test_a_rewound_session_is_the_one_that_never_went_on(
    model: Model, calls: list[tuple[int, list[int], bool]], rewind: int, back: int
) -> None:
    record, ids = play(calls, rewind, model)
    if back > len(record.tail):
        return
    position = len(ids) - back
    now = snapshot_at(position, model) if position else None
    rewound = record.rewound(now, seed=9)
    assert (rewound.position, rewound.seed, rewound.latest_call) == (position, 9, None)
    np.testing.assert_array_equal(rewound.tail, ids[position - len(rewound.tail) : position])
    for earlier in range(position - len(rewound.tail), position):
        start, between = rewound.nearest_snapshot(earlier)
        np.testing.assert_array_equal(between, ids[start.state.position if start else 0 : earlier])
    assert unpack_record(pack_record(rewound, model), model) is not None


@given(calls=calls, rewind=st.integers(0, 300))
def test_a_record_survives_its_bytes(model: Model, calls: list[tuple[int, list[int], bool]], rewind: int) -> None:
    record, _ = play(calls, rewind, model)
    packed = pack_record(record, model)
    again = unpack_record(packed, model)
    assert again is not None
    assert pack_record(again, model) == packed
    assert same(again.current, record.current)
    assert (again.build, again.rewind, again.idle_seconds, again.seed) == (BUILD, rewind, 60, 5)
    assert (again.latest_call is None) == (record.latest_call is None)
    assert all(map(same, again.ring, record.ring))
    np.testing.assert_array_equal(again.tail, record.tail)
    assert unpack_record(packed[:-1], model) is None
    assert unpack_record(packed + b"\0", model) is None


def test_the_latest_key_is_known_with_where_its_call_began(model: Model) -> None:
    record = Record(BUILD, 0, 60, seed=5)
    ids = np.ones(3, dtype=np.int64)
    first = record.advanced(BUILD, snapshot_at(3, model), ids, [], KEY)
    assert first.key_matches(KEY)
    assert not first.key_matches(NO_KEY)
    assert first.latest_call == LatestCall(KEY, None, exact=True)
    second = first.advanced(BUILD, snapshot_at(6, model), ids, [], NO_KEY)
    assert not second.key_matches(KEY)
    assert not record.key_matches(NO_KEY)


def test_there_is_no_way_back_behind_a_change_of_build(model: Model) -> None:
    other, ids = replace(BUILD, sha256=bytes(range(1, 33))), np.ones(50, dtype=np.int64)
    record = Record(BUILD, 20, 60, seed=5).advanced(BUILD, snapshot_at(50, model), ids, [], KEY)
    assert record.latest_call == LatestCall(KEY, None, exact=True)
    assert len(record.tail) == 50
    moved = record.advanced(other, snapshot_at(100, model), ids, [], KEY)
    assert moved.latest_call is not None
    assert not moved.latest_call.exact
    assert (moved.ring, len(moved.tail)) == ((), 0)
    again = unpack_record(pack_record(moved, model), model)
    assert again is not None
    assert again.latest_call is not None
    assert not again.latest_call.exact
    moved = record.advanced(other, snapshot_at(100, model), ids, [snapshot_at(70, model)], KEY)
    assert len(moved.tail) == 30
    moved = moved.advanced(other, snapshot_at(150, model), ids, [], KEY)
    assert len(moved.tail) == 50


@pytest.mark.parametrize("at", [0, 1, 40, 120])
def test_bytes_of_another_format_or_model_are_refused(model: Model, kinds_loaded: dict[str, Model], at: int) -> None:
    record, _ = play([(200, [50], True)], 100, model)
    packed = bytearray(pack_record(record, model))
    assert unpack_record(bytes(packed), kinds_loaded["characters"]) is None
    packed[0] ^= 2
    assert unpack_record(bytes(packed[: len(packed) - at]), model) is None
    beyond = replace(record, tail=np.full_like(record.tail, 255))
    assert unpack_record(pack_record(beyond, model), model) is None
