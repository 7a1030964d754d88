"""Scores on the wire."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from numpy.typing import NDArray
from segue.v1 import alternatives_pb2
from segue.v1 import scoring_pb2 as pb

from segue_server.api.parted_message import PartedMessage, Parts
from segue_server.api.score_accumulator import ScoreAccumulator
from segue_server.api.windows import Window
from segue_server.engine.model import Model
from segue_server.engine.scores import Alternatives
from segue_server.runtime.time_slices import Steps

_LARGEST_EXPONENT: Final = 709.0
"""exp of more overflows a float64."""

_NUMBERS_OF_A_STEP: Final = 16_384
_MESSAGES_OF_A_STEP: Final = 256

N = TypeVar("N", int, float)
_Alternatives: TypeAlias = RepeatedCompositeFieldContainer[alternatives_pb2.Alternatives]


def score_parts(accumulator: ScoreAccumulator, model: Model, position: int, ticket: bytes) -> Steps[Parts]:
    """Return a TextScore with the totals so far, and the details since the last call."""
    details, scored_count = accumulator.take_details(), accumulator.scored_count
    score = pb.TextScore(
        sum_log_probability=accumulator.sum_log_probability,
        scored_count=scored_count,
        unknown_count=accumulator.unknown_count,
        ticket=ticket,
        position=position,
        text=details.text,
    )
    if scored_count:
        mean = -accumulator.sum_log_probability / scored_count
        score.perplexity = math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf
        score.bits_per_character = mean / math.log(2)
    parted = PartedMessage(score)
    yield from _extend(score.log_probabilities, details.log_probabilities)
    yield from _extend(score.ranks, details.ranks)
    yield from _add_all_alternatives(parted, details.alternatives, model)
    yield from _add_windows(parted, details.windows)
    return parted.take()


def add_alternatives(messages: _Alternatives, alternatives: Alternatives, model: Model) -> Steps[None]:
    """Add one message for each character. Only for models whose symbols are characters."""
    for number, part in enumerate(_parts(alternatives)):
        if number:
            yield
        _add(messages, part, model)


def _add_all_alternatives(parted: PartedMessage[pb.TextScore], found: list[Alternatives], model: Model) -> Steps[None]:
    """Move all of `found` into messages."""
    found.reverse()
    while found:
        for part in _parts(found.pop()):
            _add(parted.message.alternatives, part, model)
            if len(part.ids) == _MESSAGES_OF_A_STEP or found:
                parted.cut()
                yield


def _parts(alternatives: Alternatives) -> Iterator[Alternatives]:
    for begin in range(0, len(alternatives.ids), _MESSAGES_OF_A_STEP):
        part = slice(begin, begin + _MESSAGES_OF_A_STEP)
        yield Alternatives(alternatives.ids[part], alternatives.log_probabilities[part])


def _add(messages: _Alternatives, alternatives: Alternatives, model: Model) -> None:
    listed = alternatives.ids.shape[1]
    characters = model.vocabulary.decode(alternatives.ids.ravel())
    for at, log_probabilities in enumerate(alternatives.log_probabilities.tolist()):
        messages.add(characters=characters[at * listed : (at + 1) * listed], log_probabilities=log_probabilities)


def _extend(numbers: RepeatedScalarFieldContainer[N], arrays: Sequence[NDArray[Any]]) -> Steps[None]:
    for array in arrays:
        for begin in range(0, len(array), _NUMBERS_OF_A_STEP):
            if begin:
                yield
            numbers.extend(array[begin : begin + _NUMBERS_OF_A_STEP].tolist())


def _add_windows(parted: PartedMessage[pb.TextScore], windows: list[Window]) -> Steps[None]:
    """Move the windows into messages. Each one is freed at once: to free them all together takes long too."""
    windows.reverse()
    while windows:
        window = windows.pop()
        parted.message.windows.add(
            first=window.first,
            character_count=window.character_count,
            sum_log_probability=window.sum_log_probability,
            scored_count=window.scored_count,
            unknown_count=window.unknown_count,
        )
        if windows and len(windows) % _MESSAGES_OF_A_STEP == 0:
            parted.cut()
            yield
