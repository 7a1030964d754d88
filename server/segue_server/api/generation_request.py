"""From a GenerateRequest to sequences: the one place where its fields are read and checked."""

import math
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from segue.v1 import common_pb2, generation_pb2
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.api.encoding import begin, check_line_feeds, encode, normalized_behind
from segue_server.engine.model import Model
from segue_server.engine.random_numbers import SEEDS
from segue_server.engine.sampling import Ids, Sampling
from segue_server.engine.sequence import NO_IDS, Sequence, State, StopStrings
from segue_server.errors import InvalidRequest
from segue_server.limits import LIMITS
from segue_server.prefix_cache.cache import Prefix
from segue_server.state.session_record import snapshot_distance
from segue_server.state.start import StartState, rewinding_marks
from segue_server.validation import check_at_most, check_choice

_SHORTEST_SNAPSHOT_INTERVAL: Final = 64
"""Symbols between two states of a session that can be rewound, at least."""


@dataclass(frozen=True)
class Generation:
    """A checked GenerateRequest."""

    state: State
    """Before the symbols of `prefill_ids`."""
    prefill_ids: Ids
    """The ids to read on from there."""
    read: Ids
    """All ids between the origin and where the text begins that is to be written, for a session; otherwise none."""
    unknown_count: int
    samples: int
    max_characters: int
    """How many characters each sample may write."""
    sampling: Sampling
    stops: tuple[str, ...]
    """As the request has them."""
    stop_ids: tuple[tuple[int, ...], ...]
    written_before: Ids
    """What was written before the state, as far as a stop string may begin in it."""
    log_probabilities: bool
    alternatives: int
    keep_state: bool
    """Whether the last states are asked for."""
    state_interval: int
    """How many symbols apart states on the way are asked for; 0: never."""
    marks: tuple[int, ...]
    """Positions at which the origin asks for the states of the prompt."""
    prompt_symbols: int
    """Of the prompt itself."""
    prefix: Prefix
    """What was known of the prompt."""

    @property
    def cached_count(self) -> int:
        """How many symbols of the prompt were not read anew."""
        return self.prompt_symbols - len(self.prefill_ids) if self.prefix.count else 0

    def after_prefix(self, find: Callable[[State, Ids, int], Prefix]) -> "Generation":
        """Return what is left to do behind the prefix of the prompt that `find` knows.

        It is given the state that the prompt is read on from, the ids, and how many symbols are behind that state.
        """
        # Behind the mark of a session nothing is looked for: the session needs the state there.
        end = self.marks[0] - self.state.position if self.marks else len(self.prefill_ids)
        prefix = find(self.state, self.prefill_ids[:end], self.prompt_symbols - len(self.prefill_ids))
        return replace(self, state=prefix.state, prefill_ids=self.prefill_ids[prefix.count :], prefix=prefix)

    def prompt(self) -> Sequence | None:
        """Return the sequence that reads for all samples; None where there is one alone, or nothing to read."""
        if self.samples == 1 or not len(self.prefill_ids):
            return None
        return Sequence(self.state, self.prefill_ids, marks=self.prefix.marks)

    def sequences(self, read: State | None = None) -> list[Sequence]:
        """Return the sequence of each sample; they start from `read`, the state after `prefill_ids`, if given."""
        state, prefill_ids = (self.state, self.prefill_ids) if read is None else (read, self.prefill_ids[:0])
        return [self._sequence(replace(state, seed=(state.seed + i) % SEEDS), prefill_ids) for i in range(self.samples)]

    def _sequence(self, state: State, prefill_ids: Ids) -> Sequence:
        return Sequence(
            state=state,
            prefill_ids=prefill_ids,
            max_characters=self.max_characters,
            sampling=self.sampling,
            stops=StopStrings(self.stop_ids, self.written_before),
            score_decode=self.log_probabilities,
            alternatives=self.alternatives,
            keep_state=self.keep_state,
            state_interval=self.state_interval,
            marks=tuple(sorted({*self.marks, *self.prefix.marks})),
        )


def read_generation(request: generation_pb2.GenerateRequest, model: Model, origin: StartState) -> Generation:
    """Check `request` against the limits and against `model`; raises InvalidRequest."""
    samples = read_samples(request)
    if samples > 1 and origin.session:
        raise InvalidRequest(f"samples is {samples}; a session goes on in one way: fork it for more")
    alternatives = _read_alternatives(request.top_alternatives, model)
    sampling = _read_sampling(request.sampling, origin.sampling, model)
    stop_ids = _read_stops(list(request.stop), model)
    max_characters = request.max_characters or LIMITS.default_generated
    check_at_most("max_characters", max_characters, LIMITS.max_generated)
    check_at_most("characters of prompt", len(request.prompt), LIMITS.max_prompt)
    check_choice("unknown_policy", request.unknown_policy, common_pb2.UnknownPolicy)
    prompt = normalized_behind(origin.state, request.prompt, model)
    check_line_feeds("prompt", prompt, model)
    ids, unknown_count = encode("prompt", prompt, model, request.unknown_policy)
    seed = request.sampling.seed if request.sampling.HasField("seed") else None
    state, prefill_ids = _prime(origin, ids, seed, model)
    return Generation(
        state=state,
        prefill_ids=prefill_ids,
        read=_ids_for_session(origin, state, prefill_ids),
        unknown_count=unknown_count,
        samples=samples,
        max_characters=max_characters,
        sampling=sampling,
        stops=tuple(request.stop),
        stop_ids=stop_ids,
        log_probabilities=request.log_probabilities,
        alternatives=alternatives,
        written_before=_read_written_before(request.written_before, model),
        keep_state=request.return_ticket or origin.session,
        state_interval=min(
            (interval for interval in (request.ticket_interval, _snapshot_interval(origin)) if interval), default=0
        ),
        marks=rewinding_marks(state, prefill_ids, origin, model),
        prompt_symbols=len(ids),
        prefix=Prefix(state),
    )


def read_samples(request: generation_pb2.GenerateRequest) -> int:
    """Return how many samples `request` asks for; raises InvalidRequest."""
    check_at_most("samples", request.samples, LIMITS.max_samples)
    return request.samples or 1


def _prime(origin: StartState, ids: Ids, seed: int | None, model: Model) -> tuple[State, Ids]:
    """Return the state to start from and the ids still to be read."""
    seed = origin.seed if seed is None else seed
    if seed is None:
        seed = secrets.randbits(32)
    if origin.state is None:
        return begin(ids, seed, model)
    return replace(origin.state, seed=seed), ids


def _ids_for_session(origin: StartState, state: State, prefill_ids: Ids) -> Ids:
    if not origin.session:
        return NO_IDS
    return prefill_ids if origin.state else np.append(state.last, prefill_ids)


def _snapshot_interval(origin: StartState) -> int:
    """Return how far apart the states of a session that can be rewound are to be."""
    return max(_SHORTEST_SNAPSHOT_INTERVAL, snapshot_distance(origin.rewind)) if origin.rewind else 0


def _read_written_before(text: str, model: Model) -> Ids:
    """Return the ids of the end of `text`, which the model wrote: it is not normalized again."""
    check_at_most("characters of written_before", len(text), LIMITS.max_generated)
    return model.vocabulary.encode(text[-(LIMITS.max_stop - 1) :])


def _read_alternatives(count: int, model: Model) -> int:
    check_at_most("top_alternatives", count, LIMITS.max_alternatives)
    if count and model.vocabulary.alphabet == "bytes":
        raise InvalidRequest(
            f"top_alternatives is {count}; this model's symbols are bytes, and alternatives to a byte are no "
            "characters: it must be 0"
        )
    return count


def _read_sampling(sampling: generation_pb2.Sampling, before: Sampling, model: Model) -> Sampling:
    """Return the settings; those that are unset are what they were `before`."""
    temperature = sampling.temperature if sampling.HasField("temperature") else before.temperature
    if not 0 <= temperature <= LIMITS.max_temperature:  # NaN fails every comparison
        raise InvalidRequest(f"temperature is {temperature:g}; it must be from 0 to {LIMITS.max_temperature:g}")
    top_p = sampling.top_p if sampling.HasField("top_p") else before.top_p
    if not 0 < top_p <= 1:
        raise InvalidRequest(f"top_p is {top_p:g}; it must be above 0 and at most 1")
    min_p = sampling.min_p if sampling.HasField("min_p") else before.min_p
    if not 0 <= min_p < 1:
        raise InvalidRequest(f"min_p is {min_p:g}; it must be at least 0 and below 1")
    top_k = sampling.top_k if sampling.HasField("top_k") else before.top_k
    return Sampling(temperature, top_k, top_p, min_p, _read_bias(sampling, model))


def _read_bias(sampling: generation_pb2.Sampling, model: Model) -> tuple[tuple[int, float], ...]:
    """Return what is added to the logits: the biases, and minus infinity for what may not be written."""
    biases = _read_biases(sampling.biases, model)
    allowed = _read_listed("allowed_characters", sampling.allowed_characters, model)
    barred = _read_listed("forbidden_characters", sampling.forbidden_characters, model)
    known = range(UNKNOWN_ID + 1, len(model.vocabulary))
    if allowed:
        barred |= set(known) - allowed
    if len(barred) == len(known):
        raise InvalidRequest(
            "allowed_characters and forbidden_characters leave no character to write; allow another one, or forbid less"
        )
    return tuple(sorted((biases | dict.fromkeys(barred, -math.inf)).items()))


def _read_biases(biases: Collection[generation_pb2.CharacterBias], model: Model) -> dict[int, float]:
    check_at_most("number of biases", len(biases), LIMITS.max_biases)
    symbols = _read_characters("biases", [entry.character for entry in biases], model)
    by_symbol: dict[int, float] = {}
    for symbol, entry in zip(symbols, biases, strict=True):
        if symbol in by_symbol:
            raise InvalidRequest(f"biases: character {entry.character!r:.80} has a bias already; give each only one")
        if not abs(entry.bias) <= LIMITS.max_bias:
            raise InvalidRequest(
                f"bias of {entry.character!r:.80} is {entry.bias}; "
                f"it must be from {-LIMITS.max_bias:g} to {LIMITS.max_bias:g}"
            )
        by_symbol[symbol] = entry.bias
    return by_symbol


def _read_listed(field: str, characters: str, model: Model) -> set[int]:
    check_at_most(f"characters of {field}", len(characters), LIMITS.max_listed)
    return set(_read_characters(field, list(dict.fromkeys(characters)), model))


def _read_characters(field: str, characters: list[str], model: Model) -> list[int]:
    """Return the symbol that each of `characters` is, once it is normalized as the model's text is."""
    normalized = [model.manifest.normalize(character) for character in characters]
    for character, after in zip(characters, normalized, strict=True):
        if len(after) != 1:
            raise InvalidRequest(
                f"{field}: {character!r:.80} is {len(after)} characters once normalized; give exactly one"
            )
        if model.vocabulary.alphabet == "bytes" and not after.isascii():
            raise InvalidRequest(
                f"{field}: character {character!r:.80} takes {len(after.encode())} bytes; this model's symbols are "
                "bytes, so that only characters of one byte (ASCII) can be named"
            )
    ids = model.vocabulary.encode("".join(normalized))
    unknown = np.flatnonzero(ids == UNKNOWN_ID)
    if len(unknown):
        raise InvalidRequest(
            f"{field}: character {characters[int(unknown[0])]!r:.80} is not in the model's vocabulary; leave it out"
        )
    symbols: list[int] = ids.tolist()
    return symbols


def _read_stops(stops: list[str], model: Model) -> tuple[tuple[int, ...], ...]:
    """Return the ids of each stop string, normalized as the model's text is."""
    check_at_most("number of stop strings", len(stops), LIMITS.max_stops)
    for stop in stops:
        check_at_most("characters of a stop string", len(stop), LIMITS.max_stop)
    normalized = [model.manifest.normalize(stop) for stop in stops]
    if "" in normalized:
        raise InvalidRequest(
            f"stop string {stops[normalized.index('')]!r} is empty once normalized; "
            "leave it out, or give it at least one character"
        )
    return tuple(tuple(model.vocabulary.encode(stop).tolist()) for stop in normalized)
