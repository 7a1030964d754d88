import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from charlm_server.errors import InvalidTicket
from charlm_server.model import Model
from charlm_server.sequence import State
from charlm_server.tickets import read_ticket, ticket_bytes, write_ticket
from hypothesis import given
from hypothesis import strategies as st


def some_state(model: Model, seed: int = 0, position: int = 9) -> State:
    generator = np.random.default_rng(seed)
    h, c = generator.uniform(-1, 1, (2, *model.state_shape)).astype(np.float32)
    return State(h, c * position, last=3, position=position, seed=2**64 - 1 - seed)


@given(seed=st.integers(0, 2**32), position=st.integers(1, 2**40))
def test_a_state_survives_its_ticket_to_the_bit(model: Model, seed: int, position: int) -> None:
    state = some_state(model, seed, position)
    ticket = write_ticket(state, model)
    again = read_ticket(ticket, model)
    assert len(ticket) == ticket_bytes(model)
    assert (again.h.tobytes(), again.c.tobytes()) == (state.h.tobytes(), state.c.tobytes())
    assert (again.last, again.position, again.seed) == (state.last, state.position, state.seed)


def test_every_flipped_bit_and_every_truncation_is_refused_alike(model: Model) -> None:
    ticket = write_ticket(some_state(model), model)
    texts = set()
    damaged = [ticket[:n] for n in range(len(ticket))] + [ticket + b"\0", b""]
    for bit in range(8 * len(ticket)):
        flipped = bytearray(ticket)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for wrong in damaged:
        with pytest.raises(InvalidTicket) as refusal:
            read_ticket(wrong, model)
        texts.add(str(refusal.value))
    assert len(texts) == 1


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
    ],
    ids=str,
)
def test_a_state_that_no_text_leads_to_is_refused(model: Model, change: dict[str, float]) -> None:
    state = some_state(model)
    (name, value), *_ = change.items()
    if name in "hc":
        array = getattr(state, name).copy()
        array[0, 0] = value
        state = replace(state, **{name: array})
    else:
        state = replace(state, **{name: value})
    with pytest.raises(InvalidTicket):
        read_ticket(write_ticket(state, model), model)


def test_a_state_that_rounding_carried_past_one_is_accepted(model: Model) -> None:
    state = some_state(model)
    h = np.nextafter(np.nextafter(np.ones_like(state.h), 2), 2)  # what float32 kernels make of tanh(9)
    assert read_ticket(write_ticket(replace(state, h=h), model), model).h.tobytes() == h.tobytes()


def test_a_ticket_of_another_model_of_the_same_shape_is_refused(model: Model) -> None:
    other = SimpleNamespace(sha256="0" * 64, state_shape=model.state_shape, symbols=model.symbols)
    with pytest.raises(InvalidTicket):
        read_ticket(write_ticket(some_state(model), other), model)


def with_last(ticket: bytes, last: int) -> bytes:
    """The ticket with another last symbol and the checksum that belongs to it."""
    body = ticket[:52] + last.to_bytes(4, "little") + ticket[56:-16]
    return body + hashlib.blake2b(body, digest_size=16).digest()


def test_a_last_symbol_that_the_vocabulary_does_not_hold_is_refused(model: Model) -> None:
    ticket = write_ticket(some_state(model), model)
    assert read_ticket(with_last(ticket, len(model.vocabulary) - 1), model)
    for last in (len(model.vocabulary), 2**32 - 1):
        with pytest.raises(InvalidTicket):
            read_ticket(with_last(ticket, last), model)


def test_a_ticket_within_a_character_is_neither_read_nor_written(kinds_loaded: dict[str, Model]) -> None:
    model = kinds_loaded["bytes"]
    ticket = write_ticket(replace(some_state(model), last=1 + ord("e")), model)
    for last in (0, *range(1 + 0xC0, 1 + 0x100)):  # `<unk>`, and the bytes that begin a longer character or none
        with pytest.raises(InvalidTicket):
            read_ticket(with_last(ticket, last), model)
    with pytest.raises(AssertionError, match="within a character"):
        write_ticket(replace(some_state(model), last=1 + 0xC3), model)


def test_after_the_end_of_a_document_a_ticket_holds_the_zero_state(kinds_loaded: dict[str, Model]) -> None:
    model = kinds_loaded["lines"]
    assert model.symbols.end is not None
    state = replace(some_state(model), last=model.symbols.end)
    with pytest.raises(InvalidTicket):
        read_ticket(write_ticket(state, model), model)
    zeros = np.zeros_like(state.h)
    assert read_ticket(write_ticket(replace(state, h=zeros, c=zeros), model), model).last == model.symbols.end
