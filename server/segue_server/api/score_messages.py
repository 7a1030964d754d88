"""Scores on the wire. Messages are filled in place: a message that is given to another one is copied."""

import math
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from numpy.typing import NDArray
from segue.v1 import alternatives_pb2
from segue.v1 import scoring_pb2 as pb

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


def fill_score(
    score: pb.TextScore, accumulator: ScoreAccumulator, model: Model, position: int, ticket: bytes
) -> Steps[None]:
    """Set the totals so far, and the details since the last call."""
    details, scored_count = accumulator.take_details(), accumulator.scored_count
    score.sum_log_probability = accumulator.sum_log_probability
    score.scored_count = scored_count
    score.unknown_count = accumulator.unknown_count
    if scored_count:
        mean = -accumulator.sum_log_probability / scored_count
        score.perplexity = math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf
        score.bits_per_character = mean / math.log(2)
    score.ticket = ticket
    score.position = position
    score.text = details.text
    yield from _extend(score.log_probabilities, details.log_probabilities)
    yield from _extend(score.ranks, details.ranks)
    for alternatives in details.alternatives:
        yield from add_alternatives(score.alternatives, alternatives, model)
    yield from _add_windows(score.windows, details.windows)


def add_alternatives(
    messages: RepeatedCompositeFieldContainer[alternatives_pb2.Alternatives], alternatives: Alternatives, model: Model
) -> Steps[None]:
    """Add one message for each character. Only for models whose symbols are characters."""
    count, listed = alternatives.ids.shape
    for begin in range(0, count, _MESSAGES_OF_A_STEP):
        if begin:
            yield
        part = slice(begin, begin + _MESSAGES_OF_A_STEP)
        characters = model.vocabulary.decode(alternatives.ids[part].ravel())
        for at, log_probabilities in enumerate(alternatives.log_probabilities[part].tolist()):
            messages.add(characters=characters[at * listed : (at + 1) * listed], log_probabilities=log_probabilities)


def _extend(numbers: RepeatedScalarFieldContainer[N], arrays: Sequence[NDArray[Any]]) -> Steps[None]:
    for array in arrays:
        for begin in range(0, len(array), _NUMBERS_OF_A_STEP):
            if begin:
                yield
            numbers.extend(array[begin : begin + _NUMBERS_OF_A_STEP].tolist())


def _add_windows(messages: RepeatedCompositeFieldContainer[pb.WindowScore], windows: list[Window]) -> Steps[None]:
    """Move the windows into messages. Each one is freed at once: to free them all together takes long too."""
    windows.reverse()
    while windows:
        window = windows.pop()
        messages.add(
            first=window.first,
            character_count=window.character_count,
            sum_log_probability=window.sum_log_probability,
            scored_count=window.scored_count,
            unknown_count=window.unknown_count,
        )
        if windows and len(windows) % _MESSAGES_OF_A_STEP == 0:
            yield
