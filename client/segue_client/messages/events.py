"""The events of a generation, and their order in its stream."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from segue.v1 import alternatives_pb2, common_pb2, generation_pb2

from segue_client.errors import ServerFault


class FinishReason(StrEnum):
    """Why a generated text ends."""

    LENGTH = "length"
    """max_characters were generated."""
    STOP = "stop"
    """A stop string was completed."""
    DRAINED = "drained"
    """The server is stopping: continue with the ticket on another."""
    END = "end"
    """The model ended the document; its line feed is the last character of the text."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Which state a call continued, and how exactly."""

    exact: bool
    """Whether the result is bit for bit what the host that made the state would have produced."""
    sha256: str
    """The build of the model: SHA-256 of its `model.onnx`, 64 hexadecimal digits."""
    host_class: str
    """The class of the host, 32 hexadecimal digits. Hosts of one class continue each other's states bit for bit."""
    position: int
    """Symbols read up to the start state; 0 for the zero state."""
    reproducible: bool = False
    """Whether the result is the same whoever else was served, as the server found when it started."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """How the server resolved the request."""

    model: str
    version: int
    seed: int
    """The seed of the first sample; the same seed gives the same text again."""
    unknown_count: int
    """Prompt characters read as `<unk>`."""
    continuation: Continuation
    """The state that the call continued."""
    cached_count: int
    """Symbols of the prompt that the server skipped, because it still had the state after them."""
    repeated: bool
    """Whether the session has already served this request; it is not advanced again."""


class Alternative(NamedTuple):
    """One of the most probable characters in one place."""

    character: str
    log_probability: float
    """In nats, under the model, before any sampling option."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of the text, cut between characters."""

    text: str
    log_probabilities: tuple[float, ...]
    """In nats, one per character, under the model, before any sampling option. Empty unless requested."""
    position: int
    """Symbols read up to the end of this text: characters, or bytes for a model of bytes."""
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    """For each character the most probable ones in its place, best first. Empty unless requested."""
    ticket: bytes | None = field(default=None, repr=False)
    """The state after the last of these characters, if one was due by `ticket_interval`."""

    def without_first(self, count: int) -> "Chunk":
        """Return the chunk without its first `count` characters."""
        return replace(
            self,
            text=self.text[count:],
            log_probabilities=self.log_probabilities[count:],
            alternatives=self.alternatives[count:],
        )


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a text ended."""

    reason: FinishReason
    stop: str
    """The stop string that ended it; "" for other reasons."""
    generated_count: int
    ticket: bytes | None = field(repr=False)
    """The state after the last character, if requested; always if drained."""
    position: int
    """Symbols read up to that state; for a call that advances a session, its new position."""


Event: TypeAlias = Started | Chunk | Finished

_FINISH_REASONS: Final = {
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_DRAINED: FinishReason.DRAINED,
    generation_pb2.FINISH_REASON_END: FinishReason.END,
}


class Order:
    """Checks the order of a call's messages: started; then chunks and finished for each sample.

    Any other order raises ServerFault.
    """

    def __init__(self, samples: int) -> None:
        self._has_started = False
        self._has_finished = [False] * samples

    def check(self, event: Event, sample: int) -> None:
        """Check the next message."""
        if isinstance(event, Started):
            if self._has_started:
                raise ServerFault("the server sent `started` out of order")
            self._has_started = True
            return
        if not self._has_started:
            raise ServerFault("the server did not begin the stream with `started`")
        if sample >= len(self._has_finished):
            raise ServerFault(f"the server sent sample {sample}, though {len(self._has_finished)} were requested")
        if self._has_finished[sample]:
            raise ServerFault(f"the server sent `{type(event).__name__.lower()}` out of order")
        self._has_finished[sample] = isinstance(event, Finished)

    def check_end(self) -> None:
        """Check that the stream may end."""
        if not self._has_started:
            raise ServerFault("the server did not begin the stream with `started`")
        if False in self._has_finished:
            sample = self._has_finished.index(False)
            raise ServerFault(f"the server ended the stream without `finished` for sample {sample}")


def joined(samples: int, chunks: Iterable[tuple[int, Chunk]]) -> list[str]:
    """Join the texts of each sample."""
    texts: list[list[str]] = [[] for _ in range(samples)]
    for sample, chunk in chunks:
        texts[sample].append(chunk.text)
    return ["".join(pieces) for pieces in texts]


def event_from(message: generation_pb2.GenerateResponse) -> Event:
    """Translate one message; raise ServerFault for an unknown one."""
    match message.WhichOneof("event"):
        case "started":
            return _started(message.started)
        case "text":
            return _chunk(message.text)
        case "finished":
            return _finished(message.finished)
        case _:
            raise ServerFault("the server sent an event that this client does not know")


def _started(event: generation_pb2.GenerationStarted) -> Started:
    return Started(
        model=event.model,
        version=event.version,
        seed=event.seed,
        unknown_count=event.unknown_count,
        continuation=continuation_from(event.continuation),
        cached_count=event.cached_count,
        repeated=event.repeated,
    )


def continuation_from(message: common_pb2.Continuation) -> Continuation:
    """Translate the state that a call continued."""
    return Continuation(
        exact=message.exact,
        sha256=message.sha256,
        host_class=message.host_class,
        position=message.position,
        reproducible=message.reproducible,
    )


def _chunk(event: generation_pb2.GeneratedText) -> Chunk:
    for name, values in (("log_probabilities", event.log_probabilities), ("alternatives", event.alternatives)):
        if len(values) not in (0, len(event.text)):
            raise ServerFault(f"the server sent {len(values)} {name} for {len(event.text)} characters")
    return Chunk(
        text=event.text,
        log_probabilities=tuple(event.log_probabilities),
        position=event.position,
        alternatives=alternatives_from(event.alternatives),
        ticket=event.ticket or None,
    )


def alternatives_from(places: Sequence[alternatives_pb2.Alternatives]) -> tuple[tuple[Alternative, ...], ...]:
    """Translate the alternatives of each character."""
    if any(len(place.characters) != len(place.log_probabilities) for place in places):
        raise ServerFault("the server sent alternatives without a log-probability for each")
    return tuple(tuple(map(Alternative, place.characters, place.log_probabilities)) for place in places)


def _finished(event: generation_pb2.GenerationFinished) -> Finished:
    if event.reason not in _FINISH_REASONS:
        raise ServerFault(f"the server finished for a reason that this client does not know: {event.reason}")
    return Finished(
        reason=_FINISH_REASONS[event.reason],
        stop=event.stop,
        generated_count=event.generated_count,
        ticket=event.ticket or None,
        position=event.position,
    )
