import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from charlm_server.build import Build
from charlm_server.errors import InvalidTicket
from charlm_server.key_ring import KeyRing, make_key_file
from charlm_server.model import Model
from charlm_server.registry import Served
from charlm_server.sampling import Sampling
from charlm_server.sequence import State
from charlm_server.state_bytes import Snapshot, pack
from charlm_server.tickets import _HEADER, TicketOffice, ticket_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

LIFETIME = 1000.0
TENANT = "tenant-a"


class Clock:
    """Stands still until it is told not to."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def served_of(model: Any, host_class: bytes = bytes(16)) -> Served:
    """A model as it is served; no worker is needed for tickets."""
    worker: Any = None
    return Served(model, worker, reproducible=True, build=Build.of(model, host_class))


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    path = tmp_path_factory.mktemp("tickets") / "keys"
    make_key_file(path)
    return KeyRing(path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def office(ring: KeyRing, clock: Clock) -> TicketOffice:
    return TicketOffice(ring, LIFETIME, clock)


def some_snapshot(model: Model, seed: int = 0, position: int = 9, **settings: Any) -> Snapshot:
    generator = np.random.default_rng(seed)
    h, c = generator.uniform(-1, 1, (2, *model.state_shape)).astype(np.float32)
    state = State(h, c * position, last=3, position=position, seed=2**64 - 1 - seed)
    return Snapshot(state, Sampling(**settings))


def with_state(snapshot: Snapshot, **changes: Any) -> Snapshot:
    return replace(snapshot, state=replace(snapshot.state, **changes))


def write(office: TicketOffice, snapshot: Snapshot, served: Served, tenant: str = TENANT) -> bytes:
    return office.write(snapshot, served.build, served.model, tenant)


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
    office, served = TicketOffice(ring, LIFETIME), served_of(model)
    snapshot = some_snapshot(model, seed, position, **settings)
    ticket = write(office, snapshot, served)
    again = office.read(ticket, served, TENANT)
    assert len(ticket) == ticket_bytes(model)
    assert bits(again.snapshot) == bits(snapshot)
    assert again.build == served.build


def test_a_hundred_thousand_states_make_the_round_trip(model: Model, office: TicketOffice) -> None:
    served, digests = served_of(model), [hashlib.blake2b(), hashlib.blake2b()]
    generator = np.random.default_rng(0)
    for _ in range(100):
        h, c = generator.uniform(-1, 1, (2, 1000, *model.state_shape)).astype(np.float32)
        for i in range(1000):
            snapshot = Snapshot(State(h[i], c[i], 3, 1 + i, i), Sampling())
            again = office.read(write(office, snapshot, served), served, TENANT).snapshot
            for digest, each in zip(digests, (snapshot, again), strict=True):
                digest.update(pack(each))
    assert digests[0].digest() == digests[1].digest()


def refusals(office: TicketOffice, tickets: list[bytes], served: Served, tenant: str = TENANT) -> set[str]:
    """The texts with which `tickets` are refused, each of which is."""
    texts = set()
    for ticket in tickets:
        with pytest.raises(InvalidTicket) as refusal:
            office.read(ticket, served, tenant)
        texts.add(str(refusal.value))
    return texts


def test_every_hostile_ticket_is_refused_alike(
    model: Model, office: TicketOffice, clock: Clock, tmp_path: Path
) -> None:
    served = served_of(model)
    ticket, other = (write(office, some_snapshot(model, seed), served) for seed in (1, 2))
    flipped = [
        bytes([*ticket[:at], ticket[at] ^ 1 << bit, *ticket[at + 1 :]]) for at in range(len(ticket)) for bit in range(8)
    ]
    cut = [ticket[:n] for n in range(len(ticket))] + [ticket + b"\0", 2 * ticket]
    spliced = list({ticket[:n] + other[n:] for n in range(len(ticket) + 1)} - {ticket, other})
    texts = refusals(office, [*flipped, *cut, *spliced], served)

    texts |= refusals(office, [ticket], served, tenant="tenant-b") | refusals(office, [ticket], served, tenant="")

    make_key_file(tmp_path / "keys")
    texts |= refusals(TicketOffice(KeyRing(tmp_path / "keys"), LIFETIME, clock), [ticket], served)

    stranger = SimpleNamespace(
        sha256="0" * 64,
        manifest=SimpleNamespace(family="1" * 64),
        state_shape=model.state_shape,
        symbols=model.symbols,
        vocabulary=model.vocabulary,
    )
    texts |= refusals(office, [ticket], served_of(stranger))

    clock.now += LIFETIME + 1
    texts |= refusals(office, [ticket], served)
    assert len(texts) == 1


def test_a_ticket_expires_at_its_time_and_no_earlier(model: Model, office: TicketOffice, clock: Clock) -> None:
    served = served_of(model)
    ticket = write(office, some_snapshot(model), served)
    clock.now += LIFETIME
    assert office.read(ticket, served, TENANT)
    clock.now += 1
    with pytest.raises(InvalidTicket):
        office.read(ticket, served, TENANT)


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
    model: Model, office: TicketOffice, change: dict[str, Any]
) -> None:
    snapshot, served = some_snapshot(model), served_of(model)
    (name, value), *_ = change.items()
    if name in "hc":
        array = getattr(snapshot.state, name).copy()
        array[0, 0] = value
        value = array
    forged = with_state(snapshot, **{name: value})
    with pytest.raises(InvalidTicket):
        office.read(seal_as_ticket(office, served, pack(forged)), served, TENANT)


def seal_as_ticket(office: TicketOffice, served: Served, packed: bytes) -> bytes:
    """What only a server with a bug could seal."""
    build = served.build
    header = _HEADER.pack(build.sha256, build.family, build.host_class, 2**40)
    return office._ring.seal(header + packed, b"ticket of " + TENANT.encode())


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
    model: Model, office: TicketOffice, settings: dict[str, float]
) -> None:
    served = served_of(model)
    with pytest.raises(InvalidTicket):
        office.read(write(office, some_snapshot(model, **settings), served), served, TENANT)


def test_a_sealed_ticket_of_a_wrong_shape_is_refused(model: Model, office: TicketOffice) -> None:
    served = served_of(model)
    packed = pack(some_snapshot(model))
    for wrong in (b"", packed[:-4], packed + bytes(4), packed[: len(packed) // 2]):
        with pytest.raises(InvalidTicket):
            office.read(seal_as_ticket(office, served, wrong), served, TENANT)


def test_a_state_that_rounding_carried_past_one_is_accepted(model: Model, office: TicketOffice) -> None:
    served, snapshot = served_of(model), some_snapshot(model)
    h = np.nextafter(np.nextafter(np.ones_like(snapshot.state.h), 2), 2)  # what float32 kernels make of tanh(9)
    again = office.read(write(office, with_state(snapshot, h=h), served), served, TENANT)
    assert again.snapshot.state.h.tobytes() == h.tobytes()


def test_a_last_symbol_that_the_vocabulary_does_not_hold_is_refused(model: Model, office: TicketOffice) -> None:
    served = served_of(model)
    known = with_state(some_snapshot(model), last=len(model.vocabulary) - 1)
    assert office.read(write(office, known, served), served, TENANT)
    unknown = with_state(known, last=len(model.vocabulary))
    with pytest.raises(InvalidTicket):
        office.read(seal_as_ticket(office, served, pack(unknown)), served, TENANT)


def test_a_ticket_within_a_character_is_neither_read_nor_written(
    kinds_loaded: dict[str, Model], office: TicketOffice
) -> None:
    model = kinds_loaded["bytes"]
    served = served_of(model)
    for last in (0, *range(1 + 0xC0, 1 + 0x100)):  # `<unk>`, and the bytes that begin a longer character or none
        within = with_state(some_snapshot(model), last=last)
        with pytest.raises(InvalidTicket):
            office.read(seal_as_ticket(office, served, pack(within)), served, TENANT)
        with pytest.raises(AssertionError, match="within a character"):
            write(office, within, served)


def test_after_the_end_of_a_document_a_ticket_holds_the_zero_state(
    kinds_loaded: dict[str, Model], office: TicketOffice
) -> None:
    model = kinds_loaded["lines"]
    served = served_of(model)
    assert model.symbols.end is not None
    ended = with_state(some_snapshot(model), last=model.symbols.end)
    with pytest.raises(InvalidTicket):
        office.read(write(office, ended, served), served, TENANT)
    zeros = np.zeros_like(ended.state.h)
    again = office.read(write(office, with_state(ended, h=zeros, c=zeros), served), served, TENANT)
    assert again.snapshot.state.last == model.symbols.end
