"""Building the messages that a client sends: the one place where its arguments become protobuf."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypedDict

from charlm.v1 import generation_pb2, start_pb2

from charlm_client.errors import InvalidRequest

UnknownPolicy = Literal["replace", "refuse"]
"""What becomes of a character outside the vocabulary: read as `<unk>` and counted, or the call is refused."""

_UNKNOWN_POLICIES: Final = {
    "replace": start_pb2.UNKNOWN_POLICY_REPLACE,
    "refuse": start_pb2.UNKNOWN_POLICY_REFUSE,
}


class GenerationOptions(TypedDict, total=False):
    """What `Client.generate` and `Client.generate_samples` can be told, beside the prompt; see there."""

    model: str
    version: int
    ticket: bytes | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    biases: Mapping[str, float] | None
    allowed_characters: str
    forbidden_characters: str
    seed: int | None
    max_characters: int
    stop: str | Sequence[str]
    log_probabilities: bool
    top_alternatives: int
    unknown: UnknownPolicy
    return_ticket: bool


def generate_request(  # noqa: PLR0913 - the fields of the message
    prompt: str,
    *,
    samples: int = 1,
    model: str = "",
    version: int = 0,
    ticket: bytes | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    biases: Mapping[str, float] | None = None,
    allowed_characters: str = "",
    forbidden_characters: str = "",
    seed: int | None = None,
    max_characters: int = 256,
    stop: str | Sequence[str] = (),
    log_probabilities: bool = False,
    top_alternatives: int = 0,
    unknown: UnknownPolicy = "replace",
    return_ticket: bool = False,
) -> generation_pb2.GenerateRequest:
    """Return the request; raise InvalidRequest for what the wire cannot carry or would read as a default."""
    stops = [stop] if isinstance(stop, str) else stop
    if max_characters == 0:
        raise InvalidRequest("max_characters is 0; choose 1 to 1,000,000")
    if samples == 0:
        raise InvalidRequest("samples is 0; choose 1 to 64")
    return generation_pb2.GenerateRequest(
        model=model_reference(model, version),
        start=start_from(ticket),
        prompt=encodable("prompt", prompt),
        sampling=generation_pb2.Sampling(
            temperature=temperature,
            top_k=_unsigned("top_k", top_k, 32),
            top_p=top_p,
            seed=None if seed is None else _unsigned("seed", seed, 64),
            min_p=min_p,
            biases=[
                generation_pb2.CharacterBias(character=encodable("biases", character), bias=bias)
                for character, bias in (biases or {}).items()
            ],
            allowed_characters=encodable("allowed_characters", allowed_characters),
            forbidden_characters=encodable("forbidden_characters", forbidden_characters),
        ),
        max_characters=_unsigned("max_characters", max_characters, 32),
        stop=[encodable("stop", each) for each in stops],
        log_probabilities=log_probabilities,
        unknown_policy=unknown_policy(unknown),
        return_ticket=return_ticket,
        samples=_unsigned("samples", samples, 32),
        top_alternatives=_unsigned("top_alternatives", top_alternatives, 32),
    )


def model_reference(name: str, version: int) -> start_pb2.ModelReference:
    """Name a model; "" and 0 leave the choice to the server."""
    return start_pb2.ModelReference(name=encodable("model", name), version=_unsigned("version", version, 32))


def start_from(ticket: bytes | None) -> start_pb2.Start | None:
    """Start from the ticket, or from the zero state where there is none."""
    return None if ticket is None else start_pb2.Start(ticket=ticket)


def unknown_policy(policy: UnknownPolicy) -> start_pb2.UnknownPolicy.ValueType:
    """Translate the policy; raise InvalidRequest for another word."""
    if policy not in _UNKNOWN_POLICIES:
        raise InvalidRequest(f"unknown is {policy!r}; choose one of {', '.join(_UNKNOWN_POLICIES)}")
    return _UNKNOWN_POLICIES[policy]


def encodable(field: str, text: str) -> str:
    """Return `text`; raise InvalidRequest where it holds a lone surrogate, which UTF-8 has no bytes for."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at = error.start
        raise InvalidRequest(f"{field} holds the lone surrogate {text[at]!r} at position {at}") from error
    return text


def _unsigned(field: str, value: int, bits: int) -> int:
    if not 0 <= value < 2**bits:
        raise InvalidRequest(f"{field} is {value}; choose 0 to {2**bits - 1:,}")
    return value
