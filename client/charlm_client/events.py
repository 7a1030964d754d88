"""The events of a generation: what its stream brings, in which order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from charlm.v1 import alternatives_pb2, generation_pb2

from charlm_client.errors import ServerFault


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
class Started:
    """What the server resolved the request to."""

    model: str
    version: int
    seed: int
    """The seed in use, that of the first sample: repeat it to get the same text again."""
    unknown_count: int
    """How many prompt characters were read as `<unk>`."""


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


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How the text ended."""

    reason: FinishReason
    stop: str
    """The stop string that ended it; "" for the other reasons."""
    generated_count: int
    ticket: bytes | None
    """The state after the last character, where requested; always when drained."""


Event: TypeAlias = Started | Chunk | Finished

_FINISH_REASONS: Final = {
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_DRAINED: FinishReason.DRAINED,
    generation_pb2.FINISH_REASON_END: FinishReason.END,
}


class Transcript:
    """What a stream has told so far. It holds the server to the order: started; for each sample chunks, finished.

    `first` is the stream's first message, None where there was none. Every disorder raises ServerFault.
    """

    def __init__(self, first: generation_pb2.GenerateResponse | None, samples: int = 1) -> None:
        event = event_from(first) if first else None
        if not isinstance(event, Started):
            raise ServerFault("the server did not begin the stream with `started`")
        self.started = event
        self.finished: list[Finished | None] = [None] * samples

    def take(self, message: generation_pb2.GenerateResponse) -> tuple[int, Chunk] | None:
        """Note the next message; return the sample and its chunk where it brings one."""
        event, sample = event_from(message), message.sample
        if sample >= len(self.finished):
            raise ServerFault(f"the server sent sample {sample}, though {len(self.finished)} were requested")
        if isinstance(event, Started) or self.finished[sample]:
            raise ServerFault(f"the server sent `{type(event).__name__.lower()}` out of order")
        if isinstance(event, Chunk):
            return sample, event
        self.finished[sample] = event
        return None

    def close(self) -> None:
        """Note the end of the stream."""
        if None in self.finished:
            sample = self.finished.index(None)
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
    return Started(model=event.model, version=event.version, seed=event.seed, unknown_count=event.unknown_count)


def _chunk(event: generation_pb2.GeneratedText) -> Chunk:
    for name, values in (("log_probabilities", event.log_probabilities), ("alternatives", event.alternatives)):
        if len(values) not in (0, len(event.text)):
            raise ServerFault(f"the server sent {len(values)} {name} for {len(event.text)} characters")
    return Chunk(
        text=event.text,
        log_probabilities=tuple(event.log_probabilities),
        position=event.position,
        alternatives=_alternatives(event.alternatives),
    )


def _alternatives(places: Sequence[alternatives_pb2.Alternatives]) -> tuple[tuple[Alternative, ...], ...]:
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
    )
