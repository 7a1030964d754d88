"""Sessions: their requests, and their state."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from segue.v1 import common_pb2, session_pb2

from segue_client.messages.generation_request import (
    SessionReference,
    encodable,
    listed,
    model_reference,
    session_reference,
    start_from,
    unsigned,
)

PAGE_SIZE: Final = 1000
"""How many sessions one call lists: the most that the contract allows."""

_RANDOM_NAME_BYTES: Final = 12
"""Enough that nobody guesses the name."""


@dataclass(frozen=True, kw_only=True)
class SessionState:
    """A session at the last response of the server."""

    name: str
    model: str
    version: int
    position: int
    """The number of symbols read and written; 0: the zero state."""
    rewindable_count: int
    """How many of the last characters can be taken back."""
    expiry: datetime
    """When it expires if it is not used. With a time zone."""
    seed: int
    """The seed of texts that bring none of their own."""


def fork_names(names: int | Sequence[str]) -> list[str]:
    """Return `names` as a list; an int N makes N random names. TypeError for a bare string."""
    if isinstance(names, str):
        raise TypeError("fork takes a number or a sequence of names")
    return [random_name() for _ in range(names)] if isinstance(names, int) else listed("names", names)


def random_name() -> str:
    """Return a name that nobody else has, so that a repeated call recognizes its own session."""
    return secrets.token_hex(_RANDOM_NAME_BYTES)


def state_from(message: session_pb2.Session) -> SessionState:
    """Translate the wire's description."""
    return SessionState(
        name=message.name,
        model=message.model,
        version=message.version,
        position=message.position,
        rewindable_count=message.rewindable_count,
        expiry=message.expiry.ToDatetime(UTC),
        seed=message.seed,
    )


def open_request(  # noqa: PLR0913 - the fields of the message
    name: str,
    *,
    ticket: bytes | None,
    exact: bool,
    seed: int | None,
    idle_seconds: int,
    rewind_characters: int,
    model: str,
    version: int,
) -> session_pb2.OpenSessionRequest:
    """Return the request for a new session."""
    return session_pb2.OpenSessionRequest(
        model=model_reference(model, version),
        start=start_from(ticket, exact=exact),
        name=encodable("name", name),
        seed=None if seed is None else unsigned("seed", seed, 64),
        idle_seconds=unsigned("idle_seconds", idle_seconds, 32),
        rewind_characters=unsigned("rewind_characters", rewind_characters, 32),
    )


def get_request(name: str, model: str, version: int, *, return_ticket: bool = False) -> session_pb2.GetSessionRequest:
    """Return the request for the state of a session."""
    return session_pb2.GetSessionRequest(
        model=model_reference(model, version), name=encodable("name", name), return_ticket=return_ticket
    )


def list_request(model: str, version: int, page_token: str) -> session_pb2.ListSessionsRequest:
    """Return the request for one page of the list."""
    return session_pb2.ListSessionsRequest(
        model=model_reference(model, version), page_size=PAGE_SIZE, page_token=page_token
    )


def fork_request(state: SessionState, names: Sequence[str]) -> session_pb2.ForkSessionRequest:
    """Return the request for forks with these names."""
    return session_pb2.ForkSessionRequest(
        model=model_reference(state.model, state.version),
        session=_unkeyed(state),
        names=[encodable("names", name) for name in names],
    )


def rewind_request(state: SessionState, characters: int, seed: int | None) -> session_pb2.RewindSessionRequest:
    """Return the request that takes back the last `characters`."""
    return session_pb2.RewindSessionRequest(
        model=model_reference(state.model, state.version),
        session=_unkeyed(state),
        characters=unsigned("characters", characters, 32),
        seed=None if seed is None else unsigned("seed", seed, 64),
    )


def close_request(state: SessionState) -> session_pb2.CloseSessionRequest:
    """Return the request that ends the session."""
    return session_pb2.CloseSessionRequest(model=model_reference(state.model, state.version), session=_unkeyed(state))


def _unkeyed(state: SessionState) -> common_pb2.SessionReference:
    """Name the session at its position, for a call that needs no request key."""
    return session_reference(SessionReference(name=state.name, position=state.position, request_key=""))
