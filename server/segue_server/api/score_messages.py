"""Scores on the wire."""

import math
from typing import Final

from segue.v1 import alternatives_pb2
from segue.v1 import scoring_pb2 as pb

from segue_server.api.score_accumulator import ScoreAccumulator
from segue_server.engine.model import Model
from segue_server.engine.scores import Alternatives

_LARGEST_EXPONENT: Final = 709.0
"""exp of more overflows a float64."""


def text_score(accumulator: ScoreAccumulator, model: Model, position: int, ticket: bytes) -> pb.TextScore:
    """Return the totals so far, and the details since the last call."""
    details, scored_count = accumulator.take_details(), accumulator.scored_count
    mean = -accumulator.sum_log_probability / scored_count if scored_count else None
    return pb.TextScore(
        sum_log_probability=accumulator.sum_log_probability,
        scored_count=scored_count,
        unknown_count=accumulator.unknown_count,
        perplexity=None if mean is None else math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf,
        bits_per_character=None if mean is None else mean / math.log(2),
        log_probabilities=details.log_probabilities,
        ticket=ticket,
        ranks=details.ranks,
        alternatives=[message for each in details.alternatives for message in alternatives_messages(each, model)],
        windows=[
            pb.WindowScore(
                first=window.first,
                character_count=window.character_count,
                sum_log_probability=window.sum_log_probability,
                scored_count=window.scored_count,
                unknown_count=window.unknown_count,
            )
            for window in details.windows
        ],
        position=position,
        text=details.text,
    )


def alternatives_messages(alternatives: Alternatives, model: Model) -> list[alternatives_pb2.Alternatives]:
    """Return one message for each character. Only for models whose symbols are characters."""
    places = zip(alternatives.ids, alternatives.log_probabilities.tolist(), strict=True)
    return [
        alternatives_pb2.Alternatives(characters=model.vocabulary.decode(ids), log_probabilities=log_probabilities)
        for ids, log_probabilities in places
    ]
