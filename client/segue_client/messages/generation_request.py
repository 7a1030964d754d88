"""Requests for texts, and the parts that all requests share."""

import operator
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Real
from typing import Final, Literal, TypedDict, TypeVar

from segue.v1 import common_pb2, generation_pb2

from segue_client.errors import InvalidRequest

UnknownPolicy = Literal["replace", "refuse"]
"""What happens to a character outside the vocabulary: it is read as `<unk>` and counted, or the call is refused."""

_Item = TypeVar("_Item")

WRITTEN_BEFORE: Final = 127
"""The most characters before the start in which a stop string can begin."""

_REQUEST_KEY_BYTES: Final = 16

_UNKNOWN_POLICIES: Final = {
    "replace": common_pb2.UNKNOWN_POLICY_REPLACE,
    "refuse": common_pb2.UNKNOWN_POLICY_REFUSE,
}


@dataclass(frozen=True, kw_only=True)
class SessionReference:
    """A session that a call continues and advances."""

    name: str
    position: int | None = None
    """The position at which the caller expects it, otherwise SessionMoved is raised; None: any."""
    request_key: str = field(default_factory=lambda: secrets.token_hex(_REQUEST_KEY_BYTES))
    """The same for all repetitions of one request, so that they advance the session once."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How texts are generated; see `Client.generate`."""

    model: str = ""
    version: int = 0
    ticket: bytes | None = None
    session: str | SessionReference | None = None
    exact: bool = True
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    biases: Mapping[str, float] | None = None
    allowed_characters: str = ""
    forbidden_characters: str = ""
    seed: int | None = None
    max_characters: int = 256
    stop: str | Sequence[str] = ()
    written_before: str = ""
    log_probabilities: bool = False
    top_alternatives: int = 0
    unknown: UnknownPolicy = "replace"
    verbatim: bool = False
    return_ticket: bool = False
    ticket_interval: int | None = None

    def to_request(self, prompt: str, samples: int = 1) -> generation_pb2.GenerateRequest:
        """Return the request; raise InvalidRequest for what the wire cannot carry or would read as a default."""
        stops = [self.stop] if isinstance(self.stop, str) else listed("stop", self.stop)
        return generation_pb2.GenerateRequest(
            model=model_reference(self.model, self.version),
            start=start_from(self.ticket, self.session, exact=self.exact),
            prompt=encodable("prompt", prompt),
            sampling=generation_pb2.Sampling(
                temperature=_optional_number("temperature", self.temperature),
                top_k=None if self.top_k is None else unsigned("top_k", self.top_k, 32),
                top_p=_optional_number("top_p", self.top_p),
                seed=None if self.seed is None else unsigned("seed", self.seed, 64),
                min_p=_optional_number("min_p", self.min_p),
                biases=_biases(self.biases),
                allowed_characters=encodable("allowed_characters", self.allowed_characters),
                forbidden_characters=encodable("forbidden_characters", self.forbidden_characters),
            ),
            max_characters=_positive("max_characters", self.max_characters, 1_000_000),
            stop=[encodable("stop", each) for each in stops],
            written_before=encodable("written_before", self.written_before)[-WRITTEN_BEFORE:],
            log_probabilities=self.log_probabilities,
            unknown_policy=unknown_policy(self.unknown),
            verbatim=self.verbatim,
            return_ticket=self.return_ticket,
            samples=_positive("samples", samples, 64),
            top_alternatives=unsigned("top_alternatives", self.top_alternatives, 32),
            ticket_interval=unsigned("ticket_interval", self.ticket_interval or 0, 32),
        )


class GenerationKeywords(TypedDict, total=False):
    """The fields of GenerationOptions, as keyword arguments of `Client.generate` and `Client.generate_samples`."""

    model: str
    version: int
    ticket: bytes | None
    session: str | SessionReference | None
    exact: bool
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    biases: Mapping[str, float] | None
    allowed_characters: str
    forbidden_characters: str
    seed: int | None
    max_characters: int
    stop: str | Sequence[str]
    written_before: str
    log_probabilities: bool
    top_alternatives: int
    unknown: UnknownPolicy
    verbatim: bool
    return_ticket: bool
    ticket_interval: int | None


def model_reference(name: str, version: int) -> common_pb2.ModelReference:
    """Name a model; "" and 0 leave the choice to the server."""
    return common_pb2.ModelReference(name=encodable("model", name), version=unsigned("version", version, 32))


def start_from(
    ticket: bytes | None, session: str | SessionReference | None = None, *, exact: bool = True
) -> common_pb2.Start | None:
    """Start from the ticket or the session; None: from the zero state.

    Each call makes a new request key for a session that is given by its name alone.
    """
    if ticket is not None and session is not None:
        raise InvalidRequest("ticket and session are both given; a text continues one of them")
    if ticket is None and session is None and exact:
        return None
    if ticket is not None and not isinstance(ticket, bytes):
        raise InvalidRequest(f"ticket is {type(ticket).__name__}, not bytes")
    start = common_pb2.Start(ticket=ticket) if ticket is not None else common_pb2.Start()
    if session is not None:
        if not isinstance(session, str | SessionReference):
            raise InvalidRequest(
                f"session is {type(session).__name__}, not the name of one; call the methods of a session, or pass its "
                "name"
            )
        reference = SessionReference(name=session) if isinstance(session, str) else session
        start.session.CopyFrom(session_reference(reference))
    if not exact:
        start.exact = False
    return start


def session_reference(session: SessionReference) -> common_pb2.SessionReference:
    """Name a session."""
    return common_pb2.SessionReference(
        name=encodable("session", session.name),
        position=None if session.position is None else unsigned("position", session.position, 64),
        request_key=encodable("request_key", session.request_key),
    )


def unknown_policy(policy: UnknownPolicy) -> common_pb2.UnknownPolicy.ValueType:
    """Translate the policy; raise InvalidRequest for another word."""
    if policy not in _UNKNOWN_POLICIES:
        raise InvalidRequest(f"unknown is {policy!r}; choose one of {', '.join(_UNKNOWN_POLICIES)}")
    return _UNKNOWN_POLICIES[policy]


def encodable(field: str, text: str) -> str:
    """Return `text`; raise InvalidRequest for what is no text, or holds a lone surrogate, which UTF-8 cannot encode."""
    check_text(field, text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at = error.start
        raise InvalidRequest(f"{field} holds the lone surrogate {text[at]!r} at position {at}") from error
    return text


def check_text(field: str, text: object) -> None:
    """Raise InvalidRequest for what is no text, such as the NaN of a data frame."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{field} is {type(text).__name__}, not str")


def unsigned(field: str, value: int, bits: int) -> int:
    """Return `value`; raise InvalidRequest if it is no integer, negative, or has more than `bits` bits."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidRequest(f"{field} is {value!r}, not a whole number") from None
    if not 0 <= number < 2**bits:
        raise InvalidRequest(f"{field} is {value!r}; choose 0 to {2**bits - 1:,}")
    return number


def _positive(field: str, value: int, most: int) -> int:
    """Return `value`; raise InvalidRequest for what is none or less than 1. The server refuses more than `most`."""
    with suppress(InvalidRequest):
        if number := unsigned(field, value, 32):
            return number
    raise InvalidRequest(f"{field} is {value!r}; choose 1 to {most:,}")


def iterated(field: str, values: Iterable[_Item]) -> Iterator[_Item]:
    """Return an iterator over `values`; raise InvalidRequest if they cannot be iterated over."""
    try:
        return iter(values)
    except TypeError:
        raise InvalidRequest(f"{field} is {values!r}; pass a list of texts, or another iterable of them") from None


def listed(field: str, values: Iterable[_Item]) -> list[_Item]:
    """Return `values` as a list; raise InvalidRequest if they cannot be iterated over."""
    return list(iterated(field, values))


def _biases(biases: Mapping[str, float] | None) -> list[generation_pb2.CharacterBias]:
    if biases is not None and not isinstance(biases, Mapping):
        raise InvalidRequest(f"biases is {type(biases).__name__}, not a dict of characters and their biases")
    return [
        generation_pb2.CharacterBias(character=encodable("biases", character), bias=_number("biases", bias))
        for character, bias in (biases or {}).items()
    ]


def _number(field: str, value: float) -> float:
    """Return `value`; raise InvalidRequest for what is no number. The server knows the range."""
    if not isinstance(value, Real):
        raise InvalidRequest(f"{field} is {value!r}, not a number")
    return value


def _optional_number(field: str, value: float | None) -> float | None:
    return None if value is None else _number(field, value)
