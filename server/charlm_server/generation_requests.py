"""From a GenerateRequest to sequences: the one place where its fields are read and checked."""

import math
import secrets
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from charlm.v1 import generation_pb2, start_pb2
from charlm_training.vocabulary import UNKNOWN_ID

from charlm_server.errors import InvalidRequest
from charlm_server.limits import LIMITS
from charlm_server.model import Model
from charlm_server.sampling import Ids, Sampling
from charlm_server.sequence import Sequence, State, StopStrings
from charlm_server.texts import begin, check_at_most, check_line_feeds, encode
from charlm_server.tickets import read_ticket

SEEDS: Final = 2**64
"""Behind the last seed comes the first."""


@dataclass(frozen=True)
class Generation:
    """A checked GenerateRequest."""

    state: State
    """Before the symbols of `forced`."""
    forced: Ids
    """The ids to read on from there."""
    unknown_count: int
    samples: int
    budget: int
    """How many characters each sample may write."""
    sampling: Sampling
    stops: tuple[str, ...]
    """As the request has them."""
    stop_ids: tuple[tuple[int, ...], ...]
    log_probabilities: bool
    alternatives: int
    return_ticket: bool

    def prompt(self) -> Sequence | None:
        """Return the sequence that reads for all samples; None where there is one alone, or nothing to read."""
        return Sequence(self.state, self.forced) if self.samples > 1 and len(self.forced) else None

    def sequences(self, read: State | None = None) -> list[Sequence]:
        """Return the sequence of each sample; they write on from `read`, the state behind `forced`, where given."""
        state, forced = (self.state, self.forced) if read is None else (read, self.forced[:0])
        return [self._sequence(replace(state, seed=(state.seed + i) % SEEDS), forced) for i in range(self.samples)]

    def _sequence(self, state: State, forced: Ids) -> Sequence:
        return Sequence(
            state=state,
            forced=forced,
            budget=self.budget,
            sampling=self.sampling,
            stops=StopStrings(self.stop_ids),
            score_free=self.log_probabilities,
            alternatives=self.alternatives,
            keep_state=self.return_ticket,
        )


def read_generation(request: generation_pb2.GenerateRequest, model: Model) -> Generation:
    """Check `request` against the limits and against `model`; raises InvalidRequest, InvalidTicket."""
    samples = read_samples(request)
    alternatives = _read_alternatives(request.top_alternatives, model)
    sampling = _read_sampling(request.sampling, model)
    stop_ids = _read_stops(request.stop, model)
    budget = request.max_characters or LIMITS.default_generated
    check_at_most("max_characters", budget, LIMITS.max_generated)
    check_at_most("characters of prompt", len(request.prompt), LIMITS.max_prompt)
    prompt = model.manifest.normalize(request.prompt)
    check_line_feeds("prompt", prompt, model)
    ids, unknown_count = encode("prompt", prompt, model, request.unknown_policy)
    seed = request.sampling.seed if request.sampling.HasField("seed") else None
    state, forced = _prime(request.start, ids, seed, model)
    return Generation(
        state=state,
        forced=forced,
        unknown_count=unknown_count,
        samples=samples,
        budget=budget,
        sampling=sampling,
        stops=tuple(request.stop),
        stop_ids=stop_ids,
        log_probabilities=request.log_probabilities,
        alternatives=alternatives,
        return_ticket=request.return_ticket,
    )


def read_samples(request: generation_pb2.GenerateRequest) -> int:
    """Return how many samples `request` asks for; raises InvalidRequest."""
    check_at_most("samples", request.samples, LIMITS.max_samples)
    return request.samples or 1


def _prime(start: start_pb2.Start, ids: Ids, seed: int | None, model: Model) -> tuple[State, Ids]:
    """Return the state to start from and the ids still to be read."""
    if start.HasField("ticket"):
        state = read_ticket(start.ticket, model)
        return (state if seed is None else replace(state, seed=seed)), ids
    return begin(ids, secrets.randbits(32) if seed is None else seed, model)


def _read_alternatives(count: int, model: Model) -> int:
    check_at_most("top_alternatives", count, LIMITS.max_alternatives)
    if count and model.vocabulary.alphabet == "bytes":
        raise InvalidRequest(
            f"top_alternatives is {count}; this model's symbols are bytes, and alternatives to a byte are no "
            "characters: it must be 0"
        )
    return count


def _read_sampling(sampling: generation_pb2.Sampling, model: Model) -> Sampling:
    temperature = sampling.temperature if sampling.HasField("temperature") else 1.0
    if not 0 <= temperature <= LIMITS.max_temperature:  # NaN fails every comparison
        raise InvalidRequest(f"temperature is {temperature:g}; it must be from 0 to {LIMITS.max_temperature:g}")
    top_p = sampling.top_p if sampling.HasField("top_p") else 1.0
    if not 0 < top_p <= 1:
        raise InvalidRequest(f"top_p is {top_p:g}; it must be above 0 and at most 1")
    min_p = sampling.min_p
    if not 0 <= min_p < 1:
        raise InvalidRequest(f"min_p is {min_p:g}; it must be at least 0 and below 1")
    return Sampling(temperature, sampling.top_k, top_p, min_p, _read_bias(sampling, model))


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


def _read_biases(biases: Items[generation_pb2.CharacterBias], model: Model) -> dict[int, float]:
    check_at_most("number of biases", len(biases), LIMITS.max_biases)
    symbols = _read_characters("biases", [entry.character for entry in biases], model)
    by_symbol: dict[int, float] = {}
    for symbol, entry in zip(symbols, biases, strict=True):
        if symbol in by_symbol:
            raise InvalidRequest(f"biases: character {entry.character!r} has a bias already; give each only one")
        if not abs(entry.bias) <= LIMITS.max_bias:
            raise InvalidRequest(
                f"bias of {entry.character!r} is {entry.bias}; "
                f"it must be from {-LIMITS.max_bias:g} to {LIMITS.max_bias:g}"
            )
        by_symbol[symbol] = entry.bias
    return by_symbol


def _read_listed(field: str, characters: str, model: Model) -> set[int]:
    check_at_most(f"characters of {field}", len(characters), LIMITS.max_listed)
    return set(_read_characters(field, list(dict.fromkeys(characters)), model))


def _read_characters(field: str, characters: Items[str], model: Model) -> list[int]:
    """Return the symbol that each of `characters` is, once it is normalized as the model's text is."""
    normalized = [model.manifest.normalize(character) for character in characters]
    for character, after in zip(characters, normalized, strict=True):
        if len(after) != 1:
            raise InvalidRequest(
                f"{field}: {character!r:.80} is {len(after)} characters once normalized; give exactly one"
            )
        if model.vocabulary.alphabet == "bytes" and not after.isascii():
            raise InvalidRequest(
                f"{field}: character {character!r} takes {len(after.encode())} bytes; this model's symbols are bytes, "
                "so that only characters of one byte (ASCII) can be named"
            )
    ids = model.vocabulary.encode("".join(normalized))
    unknown = np.flatnonzero(ids == UNKNOWN_ID)
    if len(unknown):
        raise InvalidRequest(
            f"{field}: character {characters[int(unknown[0])]!r} is not in the model's vocabulary; leave it out"
        )
    symbols: list[int] = ids.tolist()
    return symbols


def _read_stops(stops: Items[str], model: Model) -> tuple[tuple[int, ...], ...]:
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
