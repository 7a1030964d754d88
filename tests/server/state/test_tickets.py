"""Tickets in process: what they hold survives to the bit, and nothing else is taken for one."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Sampling
from segue_server.engine.sequence import State
from segue_server.errors import InvalidTicket
from segue_server.runtime.registry import Served
from segue_server.state import tickets
from segue_server.state.key_ring import KeyRing, make_key_file
from segue_server.state.snapshot import Snapshot, pack, unpack
from segue_server.state.tickets import _HEADER, TicketCodec, ticket_bytes

LIFETIME = 1000.0
TENANT = "tenant-a"
STATES = 100 if os.environ.get("SEGUE_TESTS") == "long" else 20
"""Thousands."""
TICKETS = 100


class Clock:
    """Stands still until it is told not to."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def served_of(model: Any, host_class: bytes = bytes(16)) -> Served:
    """A model as it is served; tickets need no engine thread."""
    engine_thread: Any = None
    return Served.of(model, engine_thread, Build.of(model, host_class), reproducible=True)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    path = tmp_path_factory.mktemp("tickets") / "keys"
    make_key_file(path)
    return KeyRing(path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def codec(ring: KeyRing, clock: Clock) -> TicketCodec:
    return TicketCodec(ring, LIFETIME, clock)


def some_snapshot(model: Model, seed: int = 0, position: int = 9, **settings: Any) -> Snapshot:
    generator = np.random.default_rng(seed)
    h, c = generator.uniform(-1, 1, (2, *model.state_shape)).astype(np.float32)
    state = State(h, c * position, last=3, position=position, seed=2**64 - 1 - seed)
    return Snapshot(state, Sampling(**settings))


def with_state(snapshot: Snapshot, **changes: Any) -> Snapshot:
    return replace(snapshot, state=replace(snapshot.state, **changes))


def write(codec: TicketCodec, snapshot: Snapshot, served: Served, tenant: str = TENANT) -> bytes:
    return codec.encode(snapshot, served.build, served.model, tenant)


def bits(snapshot: Snapshot) -> tuple[object, ...]:
    state = snapshot.state
    return state.h.tobytes(), state.c.tobytes(), state.last, state.position, state.seed, snapshot.sampling


@given(
    seed=st.integers(0, 2**32),
    position=st.integers(1, 2**40),
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 2**32 - 1),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=100)
def test_a_state_and_its_settings_survive_their_ticket_to_the_bit(
    model: Model, ring: KeyRing, seed: int, position: int, **settings: float
) -> None:
    codec, served = TicketCodec(ring, LIFETIME), served_of(model)
    snapshot = some_snapshot(model, seed, position, **settings)
    ticket = write(codec, snapshot, served)
    again = codec.decode(ticket, served, TENANT)
    assert len(ticket) == ticket_bytes(model)
    assert bits(again.snapshot) == bits(snapshot)
    assert again.build == served.build


def test_states_make_the_round_trip_by_the_thousand(model: Model, codec: TicketCodec) -> None:
    served, digests = served_of(model), [hashlib.blake2b(), hashlib.blake2b()]
    generator = np.random.default_rng(0)
    for _ in range(STATES):
        h, c = generator.uniform(-1, 1, (2, 1000, *model.state_shape)).astype(np.float32)
        for i in range(1000):
            snapshot = Snapshot(State(h[i], c[i], 3, 1 + i, i), Sampling())
            again = codec.decode(write(codec, snapshot, served), served, TENANT).snapshot
            for digest, each in zip(digests, (snapshot, again), strict=True):
                digest.update(pack(each))
    assert digests[0].digest() == digests[1].digest()


def check_refused(
    codec: TicketCodec, hostile: Iterable[bytes], served: Served, tenant: str = TENANT, *, parsed: int = 0
) -> None:
    """Each is refused in the same words; only `parsed` of them are of a seal that opens, and read at all."""
    seen: list[bytes] = []

    def noted(packed: bytes, model: Model) -> Snapshot | None:
        seen.append(packed)
        return unpack(packed, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tickets, "unpack", noted)
        for ticket in hostile:
            refusal = ""
            try:
                codec.decode(ticket, served, tenant)
            except InvalidTicket as error:
                refusal = str(error)
            assert refusal == tickets._REFUSAL, ticket.hex()
    assert len(seen) == parsed


def flipped(ticket: bytes) -> Iterator[bytes]:
    """Yield it with each of its bits flipped."""
    for at in range(8 * len(ticket)):
        changed = bytearray(ticket)
        changed[at // 8] ^= 1 << at % 8
        yield bytes(changed)


def test_every_flipped_bit_of_a_hundred_tickets_is_noticed(kinds_loaded: dict[str, Model], codec: TicketCodec) -> None:
    served = served_of(kinds_loaded["characters"])
    for number in range(TICKETS):
        check_refused(codec, flipped(write(codec, some_snapshot(served.model, number), served)), served)


def test_every_cut_and_every_splice_of_two_tickets_is_noticed(model: Model, codec: TicketCodec) -> None:
    served = served_of(model)
    ticket, other = (write(codec, some_snapshot(model, seed), served) for seed in (1, 2))
    check_refused(codec, [*(ticket[:n] for n in range(len(ticket))), ticket + bytes(1), 2 * ticket], served)
    spliced = {ticket[:n] + other[n:] for n in range(len(ticket) + 1)} - {ticket, other}
    check_refused(codec, spliced, served)
    assert len(spliced) > len(ticket) / 2


def test_the_ticket_of_another_tenant_or_key_does_not_open(model: Model, codec: TicketCodec, tmp_path: Path) -> None:
    served = served_of(model)
    ticket = write(codec, some_snapshot(model), served)
    for tenant in ("tenant-b", "", "tenant-", "tenant-aa"):
        check_refused(codec, [ticket], served, tenant)
    keys = tmp_path / "keys"
    make_key_file(keys)
    before = TicketCodec(KeyRing(keys), LIFETIME)
    check_refused(before, [ticket], served)
    old = write(before, some_snapshot(model), served)
    assert before.decode(old, served, TENANT)
    keys.write_text("2 " + "ab" * 32 + "\n")
    check_refused(TicketCodec(KeyRing(keys), LIFETIME), [old], served)


def test_the_ticket_of_another_model_is_refused(
    model: Model, kinds_loaded: dict[str, Model], codec: TicketCodec
) -> None:
    ticket = write(codec, some_snapshot(model), served_of(model))
    check_refused(codec, [ticket], served_of(kinds_loaded["characters"]))  # of another size
    stranger = SimpleNamespace(
        sha256="0" * 64,
        manifest=SimpleNamespace(family="1" * 64),
        state_shape=model.state_shape,
        symbols=model.symbols,
        vocabulary=model.vocabulary,
    )
    check_refused(codec, [ticket], served_of(stranger), parsed=1)


def test_a_ticket_expires_at_its_time_and_no_earlier(model: Model, codec: TicketCodec, clock: Clock) -> None:
    served = served_of(model)
    ticket = write(codec, some_snapshot(model), served)
    clock.now += LIFETIME
    assert codec.decode(ticket, served, TENANT)
    clock.now += 1
    check_refused(codec, [ticket], served, parsed=1)


@pytest.mark.parametrize(
    "change",
    [
        {"h": np.nan},
        {"c": np.nan},
        {"c": np.inf},
        {"h": 1.0001},
        {"c": 9.5},
        {"position": 0},
        {"position": 2**64 - 1},
        {"last": 2**32 - 1},
    ],
    ids=str,
)
def test_a_state_that_no_text_leads_to_is_refused_though_it_is_sealed(
    model: Model, codec: TicketCodec, change: dict[str, Any]
) -> None:
    snapshot, served = some_snapshot(model), served_of(model)
    (name, value), *_ = change.items()
    if name in "hc":
        array = getattr(snapshot.state, name).copy()
        array[0, 0] = value
        value = array
    forged = with_state(snapshot, **{name: value})
    check_refused(codec, [seal_as_ticket(codec, served, pack(forged))], served, parsed=1)


def seal_as_ticket(codec: TicketCodec, served: Served, packed: bytes) -> bytes:
    """What only a server with a bug could seal."""
    build = served.build
    header = _HEADER.pack(build.sha256, build.family, build.host_class, 2**40)
    return codec._ring.seal(header + packed, b"ticket of " + TENANT.encode())


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": np.nan},
        {"temperature": -1.0},
        {"temperature": 101.0},
        {"top_p": 0.0},
        {"top_p": np.nan},
        {"min_p": 1.0},
        {"min_p": np.nan},
    ],
    ids=str,
)
def test_settings_that_no_request_may_have_are_refused(
    model: Model, codec: TicketCodec, settings: dict[str, float]
) -> None:
    served = served_of(model)
    check_refused(codec, [write(codec, some_snapshot(model, **settings), served)], served, parsed=1)


def test_a_sealed_ticket_of_a_wrong_shape_is_refused(model: Model, codec: TicketCodec) -> None:
    served = served_of(model)
    packed = pack(some_snapshot(model))
    for wrong in (b"", packed[:-4], packed + bytes(4), packed[: len(packed) // 2]):
        check_refused(codec, [seal_as_ticket(codec, served, wrong)], served)


def test_a_state_that_rounding_carried_past_one_is_accepted(model: Model, codec: TicketCodec) -> None:
    served, snapshot = served_of(model), some_snapshot(model)
    h = np.nextafter(np.nextafter(np.ones_like(snapshot.state.h), 2), 2)  # what float32 kernels make of tanh(9)
    again = codec.decode(write(codec, with_state(snapshot, h=h), served), served, TENANT)
    assert again.snapshot.state.h.tobytes() == h.tobytes()


def test_a_last_symbol_that_the_vocabulary_does_not_hold_is_refused(model: Model, codec: TicketCodec) -> None:
    served = served_of(model)
    known = with_state(some_snapshot(model), last=len(model.vocabulary) - 1)
    assert codec.decode(write(codec, known, served), served, TENANT)
    unknown = with_state(known, last=len(model.vocabulary))
    check_refused(codec, [seal_as_ticket(codec, served, pack(unknown))], served, parsed=1)


def test_a_ticket_within_a_character_is_neither_read_nor_written(
    kinds_loaded: dict[str, Model], codec: TicketCodec
) -> None:
    model = kinds_loaded["bytes"]
    served = served_of(model)
    for last in (0, *range(1 + 0xC0, 1 + 0x100)):  # `<unk>`, and the bytes that begin a longer character or none
        within = with_state(some_snapshot(model), last=last)
        check_refused(codec, [seal_as_ticket(codec, served, pack(within))], served, parsed=1)
        with pytest.raises(AssertionError, match="within a character"):
            write(codec, within, served)


def test_after_the_end_of_a_document_a_ticket_holds_the_zero_state(
    kinds_loaded: dict[str, Model], codec: TicketCodec
) -> None:
    model = kinds_loaded["lines"]
    served = served_of(model)
    assert model.symbols.end is not None
    ended = with_state(some_snapshot(model), last=model.symbols.end)
    check_refused(codec, [write(codec, ended, served)], served, parsed=1)
    zeros = np.zeros_like(ended.state.h)
    again = codec.decode(write(codec, with_state(ended, h=zeros, c=zeros), served), served, TENANT)
    assert again.snapshot.state.last == model.symbols.end
