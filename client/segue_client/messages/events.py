"""The events of a generation: what its stream brings, in which order."""

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
    """The server is stopping: continue with the ticket on another one."""
    END = "end"
    """The model ended the document, with the line feed that is the text's last character."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Which state a call went on from, and how exactly."""

    exact: bool
    """Whether what follows is, to the bit, what the host that the state is from would have brought."""
    sha256: str
    """The build of the model: SHA-256 of its `model.onnx`, 64 hexadecimal digits."""
    host_class: str
    """The class of the host, 32 hexadecimal digits: hosts of one class continue each other's states to the bit."""
    position: int
    """The number of symbols behind the start state; 0 for the zero state."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """What the server resolved the request to."""

    model: str
    version: int
    seed: int
    """The seed in use, that of the first sample: repeat it to get the same text again."""
    unknown_count: int
    """How many prompt characters were read as `<unk>`."""
    continuation: Continuation
    """What the call went on from."""
    cached_count: int
    """How many symbols of the prompt the server did not read anew, because it still had the state behind them."""
    repeated: bool
    """Whether the session had seen this request before: the call does not advance it again."""


class Alternative(NamedTuple):
    """One of the likeliest characters in a place."""

    character: str
    log_probability: float
    """In nats, under the model itself."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of the text, cut between characters."""

    text: str
    log_probabilities: tuple[float, ...]
    """In nats, one for each character, under the model itself, whatever the settings. Empty unless requested."""
    position: int
    """The number of symbols behind the state after this text: characters, or bytes for a model of bytes."""
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    """For each character the likeliest ones in its place, likeliest first. Empty unless requested."""
    ticket: bytes | None = field(default=None, repr=False)
    """The state after the last of these characters, where `ticket_interval` asked for one and it was due."""

    def without_first(self, count: int) -> "Chunk":
        """Return what is behind the first `count` characters."""
        return replace(
            self,
            text=self.text[count:],
            log_probabilities=self.log_probabilities[count:],
            alternatives=self.alternatives[count:],
        )


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How the text ended."""

    reason: FinishReason
    stop: str
    """The stop string that ended it; "" for the other reasons."""
    generated_count: int
    ticket: bytes | None = field(repr=False)
    """The state after the last character, where requested; always when drained."""
    position: int
    """The number of symbols behind that state; of a call that advances a session, where it stands now."""


Event: TypeAlias = Started | Chunk | Finished

_FINISH_REASONS: Final = {
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_DRAINED: FinishReason.DRAINED,
    generation_pb2.FINISH_REASON_END: FinishReason.END,
}


class Order:
    """Holds one call to the order of its messages: started; then for each sample chunks, finished.

    Every disorder raises ServerFault.
    """

    def __init__(self, samples: int) -> None:
        self._has_started = False
        self._has_finished = [False] * samples

    def check(self, event: Event, sample: int) -> None:
        """Note the next message."""
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
        """Note the end of the stream."""
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
    """Translate one message; raise ServerFault for one that the contract does not have."""
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
    """Translate what a call went on from."""
    return Continuation(
        exact=message.exact, sha256=message.sha256, host_class=message.host_class, position=message.position
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
    """Translate those of each character."""
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
