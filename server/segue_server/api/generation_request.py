"""From a GenerateRequest to sequences: the only place that reads and checks its fields."""

import math
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from segue.v1 import common_pb2, generation_pb2
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.api.encoding import PART, check_line_feeds, encode, normalize_after, start_text
from segue_server.engine.model import Model
from segue_server.engine.random_numbers import SEEDS
from segue_server.engine.sampling import Ids, Sampling
from segue_server.engine.sequence import NO_IDS, Sequence, State, StopStrings
from segue_server.errors import InvalidRequest
from segue_server.limits import LIMITS
from segue_server.prefix_cache.cache import Prefix
from segue_server.runtime.time_slices import Steps
from segue_server.state.session_record import snapshot_distance
from segue_server.state.start import StartState, rewinding_marks
from segue_server.validation import check_at_most, check_choice

_LISTED_PART: Final = 512
"""Characters of a list that are read in one step."""

_SHORTEST_SNAPSHOT_INTERVAL: Final = 64
"""Symbols between two snapshots of a session that can be rewound, at least."""


@dataclass(frozen=True)
class Generation:
    """A checked GenerateRequest."""

    state: State
    """Before the symbols of `prefill_ids`."""
    prefill_ids: Ids
    session_ids: Ids
    """For a session: the ids from its stored state to the first generated symbol. Otherwise empty."""
    unknown_count: int
    samples: int
    max_characters: int
    """For each sample."""
    sampling: Sampling
    stops: tuple[str, ...]
    """As in the request."""
    stop_ids: tuple[tuple[int, ...], ...]
    written_before: Ids
    """The last ids that were written before the state: a stop string may begin in them."""
    log_probabilities: bool
    alternatives: int
    keep_state: bool
    """Whether the final states are needed."""
    return_ticket: bool
    ticket_interval: int
    """As in the request."""
    state_interval: int
    """Symbols between the states that are needed while generating; 0: none."""
    marks: tuple[int, ...]
    """Positions in the prompt at which the session needs the state."""
    prompt_count: int
    """Symbols of the prompt."""
    prefix: Prefix
    """The cached part of the prompt."""

    @property
    def cached_count(self) -> int:
        """How many symbols of the prompt the cache spares."""
        return self.prompt_count - len(self.prefill_ids) if self.prefix.count else 0

    def kept_bytes(self, model: Model, *, is_session: bool) -> int:
        """Return what the ids take that are kept until the call ends: the prompt's, and for a session the text's."""
        if not is_session:
            return self.prefill_ids.nbytes
        written = self.max_characters * model.symbols.longest * self.session_ids.itemsize
        return self.prefill_ids.nbytes + self.session_ids.nbytes + written

    def after_prefix(self, find_prefix: Callable[[State, Ids, int], Prefix]) -> "Generation":
        """Return the generation without the part of the prompt that is cached.

        `find_prefix` gets the state, the ids that follow it, and how many symbols of the prompt the state covers.
        """
        # Only up to the session's mark: it needs the state there.
        end = self.marks[0] - self.state.position if self.marks else len(self.prefill_ids)
        prefix = find_prefix(self.state, self.prefill_ids[:end], self.prompt_count - len(self.prefill_ids))
        return replace(self, state=prefix.state, prefill_ids=self.prefill_ids[prefix.count :], prefix=prefix)

    def prompt(self) -> Sequence | None:
        """Return the sequence that reads the prompt for all samples; None for a single sample or nothing to read."""
        if self.samples == 1 or not len(self.prefill_ids):
            return None
        return Sequence(self.state, self.prefill_ids, marks=self.prefix.marks)

    def sequences(self, prompt_state: State | None = None) -> list[Sequence]:
        """Return one sequence for each sample, from `prompt_state`, the state after `prefill_ids`, if given."""
        state, ids = (self.state, self.prefill_ids) if prompt_state is None else (prompt_state, NO_IDS)
        return [self._sequence(replace(state, seed=(state.seed + i) % SEEDS), ids) for i in range(self.samples)]

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


def check_limits(request: generation_pb2.GenerateRequest) -> Steps[None]:
    """Raise InvalidRequest for a field above its limit."""
    sampling = request.sampling
    for what, value, limit in (
        ("samples", request.samples, LIMITS.max_samples),
        ("top_alternatives", request.top_alternatives, LIMITS.max_alternatives),
        ("number of biases", len(sampling.biases), LIMITS.max_biases),
        ("characters of allowed_characters", len(sampling.allowed_characters), LIMITS.max_listed),
        ("characters of forbidden_characters", len(sampling.forbidden_characters), LIMITS.max_listed),
        ("number of stop strings", len(request.stop), LIMITS.max_stops),
        *(("characters of a stop string", len(stop), LIMITS.max_stop) for stop in request.stop),
        ("max_characters", request.max_characters, LIMITS.max_generated),
    ):
        check_at_most(what, value, limit)
    # The parser's strings become Python's when they are read: some milliseconds for each of these.
    for what, limit in (("prompt", LIMITS.max_prompt), ("written_before", LIMITS.max_generated)):
        count = len(getattr(request, what))
        check_at_most(f"characters of {what}", count, limit)
        if count > PART:
            yield


def read_generation(request: generation_pb2.GenerateRequest, model: Model, start: StartState) -> Steps[Generation]:
    """Check a `request` within the limits against `model`; raises InvalidRequest."""
    samples = request.samples or 1
    if samples > 1 and start.is_session:
        raise InvalidRequest(f"samples is {samples}; a session continues in one way: fork it for more")
    alternatives = _read_alternatives(request.top_alternatives, model)
    sampling = yield from _read_sampling(request.sampling, start.sampling, model)
    stop_ids = _read_stops(list(request.stop), model)
    before = request.written_before
    if len(before) > PART:
        yield
    # Not normalized again: the model wrote it.
    written_before = model.vocabulary.encode(before[-(LIMITS.max_stop - 1) :])
    check_choice("unknown_policy", request.unknown_policy, common_pb2.UnknownPolicy)
    ids, unknown_count = yield from _read_prompt(request, model, start)
    seed = request.sampling.seed if request.sampling.HasField("seed") else None
    state, prefill_ids = _start_prompt(start, ids, seed, model)
    intervals = (request.ticket_interval, _snapshot_interval(start))
    return Generation(
        state=state,
        prefill_ids=prefill_ids,
        session_ids=_ids_for_session(start, state, prefill_ids),
        unknown_count=unknown_count,
        samples=samples,
        max_characters=request.max_characters or LIMITS.default_generated,
        sampling=sampling,
        stops=tuple(request.stop),
        stop_ids=stop_ids,
        log_probabilities=request.log_probabilities,
        alternatives=alternatives,
        written_before=written_before,
        keep_state=request.return_ticket or start.is_session,
        return_ticket=request.return_ticket,
        ticket_interval=request.ticket_interval,
        state_interval=min((interval for interval in intervals if interval), default=0),
        marks=rewinding_marks(state, prefill_ids, start, model),
        prompt_count=len(ids),
        prefix=Prefix(state),
    )


def _read_prompt(request: generation_pb2.GenerateRequest, model: Model, start: StartState) -> Steps[tuple[Ids, int]]:
    """Return the ids of the prompt, and how many of them are `<unk>`."""
    prompt = yield from normalize_after("prompt", start.state, request.prompt, model, verbatim=request.verbatim)
    check_line_feeds("prompt", prompt, model)
    ids, unknown_at = yield from encode("prompt", prompt, model, request.unknown_policy)
    return ids, len(unknown_at)


def _start_prompt(start: StartState, ids: Ids, seed: int | None, model: Model) -> tuple[State, Ids]:
    """Return the state to start from, and the ids to read from there."""
    seed = start.seed if seed is None else seed
    if seed is None:
        seed = secrets.randbits(32)
    if start.state is None:
        state, ids = start_text(ids, seed, model)
        return state, ids[1:]
    return replace(start.state, seed=seed), ids


def _ids_for_session(start: StartState, state: State, prefill_ids: Ids) -> Ids:
    if not start.is_session:
        return NO_IDS
    return prefill_ids if start.state else np.insert(prefill_ids, 0, state.last)


def _snapshot_interval(start: StartState) -> int:
    """Return the symbols between two snapshots of a session that can be rewound; 0: none are needed."""
    return max(_SHORTEST_SNAPSHOT_INTERVAL, snapshot_distance(start.rewind)) if start.rewind else 0


def _read_alternatives(count: int, model: Model) -> int:
    if count and model.vocabulary.alphabet == "bytes":
        raise InvalidRequest(
            f"top_alternatives is {count}; this model's symbols are bytes, and alternatives to a byte are not "
            "characters: it must be 0"
        )
    return count


def _read_sampling(sampling: generation_pb2.Sampling, before: Sampling, model: Model) -> Steps[Sampling]:
    """Return the settings; unset ones are taken from `before`."""
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
    bias, allowed = yield from _read_bias(sampling, model)
    return Sampling(temperature, top_k, top_p, min_p, bias, allowed)


def _read_bias(
    sampling: generation_pb2.Sampling, model: Model
) -> Steps[tuple[tuple[tuple[int, float], ...], frozenset[int]]]:
    """Return what is added to the logits, minus infinity for forbidden characters, and the allowed ids (none: all)."""
    biases = yield from _read_biases(sampling.biases, model)
    allowed = yield from _read_set("allowed_characters", sampling.allowed_characters, model)
    forbidden = yield from _read_set("forbidden_characters", sampling.forbidden_characters, model)
    if len(allowed) + len(forbidden) > _LISTED_PART:
        yield
    writable = len(allowed - forbidden) if allowed else len(model.vocabulary) - 1 - len(forbidden)
    if not writable:
        raise InvalidRequest(
            "allowed_characters and forbidden_characters leave no character to write; allow another one, or forbid less"
        )
    barred = dict.fromkeys(forbidden, -math.inf)
    return tuple(sorted((biases | barred).items())), frozenset(allowed)


def _read_biases(biases: Collection[generation_pb2.CharacterBias], model: Model) -> Steps[dict[int, float]]:
    symbols = yield from _read_characters("biases", [entry.character for entry in biases], model)
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


def _read_set(field: str, characters: str, model: Model) -> Steps[set[int]]:
    return set((yield from _read_characters(field, list(dict.fromkeys(characters)), model)))


def _read_characters(field: str, characters: list[str], model: Model) -> Steps[list[int]]:
    """Return the symbol of each of `characters`, normalized like the model's text."""
    if not characters:  # nearly always
        return []
    normalized = []
    for at in range(0, len(characters), _LISTED_PART):
        if at:
            yield
        normalized += _normalized_characters(field, characters[at : at + _LISTED_PART], model)
    ids = model.vocabulary.encode("".join(normalized))
    unknown = np.flatnonzero(ids == UNKNOWN_ID)
    if len(unknown):
        raise InvalidRequest(
            f"{field}: character {characters[int(unknown[0])]!r:.80} is not in the model's vocabulary; leave it out"
        )
    symbols: list[int] = ids.tolist()
    return symbols


def _normalized_characters(field: str, characters: list[str], model: Model) -> list[str]:
    """Return each of `characters`, normalized like the model's text."""
    # One may be several before it is normalized, but not many.
    normalized = [model.manifest.normalize(c) if len(c) <= LIMITS.max_stop else c for c in characters]
    for character, after in zip(characters, normalized, strict=True):
        if len(after) != 1:
            raise InvalidRequest(
                f"{field}: {character!r:.80} is {len(after)} characters once normalized; give exactly one"
            )
        if model.vocabulary.alphabet == "bytes" and not after.isascii():
            raise InvalidRequest(
                f"{field}: character {character!r:.80} takes {len(after.encode())} bytes; this model's symbols are "
                "bytes, so only characters of one byte (ASCII) can be named"
            )
    return normalized


def _read_stops(stops: list[str], model: Model) -> tuple[tuple[int, ...], ...]:
    """Return the ids of each stop string, normalized like the model's text."""
    normalized = [model.manifest.normalize(stop) for stop in stops]
    if "" in normalized:
        raise InvalidRequest(
            f"stop string {stops[normalized.index('')]!r} is empty once normalized; "
            "leave it out, or give it at least one character"
        )
    return tuple(tuple(model.vocabulary.encode(stop).tolist()) for stop in normalized)
