"""Scores, and how they add up."""

import base64
import json
import math
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue.v1 import alternatives_pb2
from segue.v1 import scoring_pb2 as pb
from segue_client import Score, ScoringPolicies, ServerFault, WindowScore
from segue_client.messages.score import score_from

UNIT = Fraction(1, 2**24)

PARTS = st.lists(
    st.builds(
        lambda units, count: Score(sum_log_probability=float(-units * UNIT), scored_count=count),
        st.integers(0, 2**40),
        st.integers(0, 2**20),
    ),
    max_size=30,
)


@given(PARTS, PARTS)
def test_sums_of_parts_are_exact(first: list[Score], second: list[Score]) -> None:
    whole = Score.merge(first + second)
    assert Fraction(whole.sum_log_probability) == sum(
        (Fraction(part.sum_log_probability) for part in first + second), Fraction(0)
    )
    assert whole == Score.merge(first) + Score.merge(second)
    assert whole.scored_count == sum(part.scored_count for part in first + second)


def test_derived_values_of_a_score() -> None:
    score = Score(sum_log_probability=-2 * math.log(8), scored_count=2)
    assert score.perplexity == pytest.approx(8)
    assert score.bits_per_character == pytest.approx(3)
    assert Score().perplexity is None
    assert Score().bits_per_character is None
    assert Score(scored_count=3).perplexity == 1
    assert math.copysign(1, Score(scored_count=3).bits_per_character or 0) == 1
    assert Score(sum_log_probability=-1e6, scored_count=1).perplexity == math.inf


def test_a_dict_has_what_follows_from_the_fields_too() -> None:
    window = WindowScore(first=0, character_count=2, sum_log_probability=-math.log(8), scored_count=1)
    score = Score(sum_log_probability=-2 * math.log(8), scored_count=2, windows=(window,), policies=ScoringPolicies())
    values = score.as_dict()
    assert asdict(score).items() <= (values | {"windows": (asdict(window),)}).items()
    assert (values["perplexity"], values["bits_per_character"]) == (score.perplexity, score.bits_per_character)
    assert values["windows"] == (window.as_dict(),)
    assert window.as_dict()["perplexity"] == window.perplexity
    assert json.loads(json.dumps(values))["policies"] == {
        "unknown": "replace",
        "begin": None,
        "end": "nothing",
        "verbatim": False,
    }


def test_parts_keep_their_order_and_their_ends() -> None:
    first = Score(
        log_probabilities=(-1.0,),
        ranks=(1,),
        text="ab",
        ticket=b"1",
        position=2,
        policies=ScoringPolicies(begin="begin", end="nothing"),
        windows=(WindowScore(first=0, character_count=2),),
    )
    second = Score(
        log_probabilities=(-2.0,),
        ranks=(2,),
        text="c",
        ticket=b"2",
        position=3,
        policies=ScoringPolicies(begin="nothing", end="line-feed"),
        windows=(WindowScore(first=0, character_count=1, unknown_count=1),),
    )
    whole = first + second
    assert (whole.log_probabilities, whole.ranks, whole.text) == ((-1.0, -2.0), (1, 2), "abc")
    assert (whole.ticket, whole.position) == (b"2", 3)
    assert whole.policies == ScoringPolicies(begin="begin", end="line-feed")
    assert whole.windows == (*first.windows, WindowScore(first=2, character_count=1, unknown_count=1))


@pytest.mark.parametrize(
    "fields",
    [
        {"log_probabilities": [-1.0]},
        {"ranks": [1, 2, 3]},
        {"alternatives": [alternatives_pb2.Alternatives()]},
        {"alternatives": [alternatives_pb2.Alternatives(characters="a"), alternatives_pb2.Alternatives()]},
    ],
)
def test_a_score_that_contradicts_itself_is_a_fault(fields: Any) -> None:
    with pytest.raises(ServerFault):
        score_from(pb.TextScore(scored_count=2, **fields), ScoringPolicies())


def test_scores_are_summed_and_become_json() -> None:
    parts = [
        Score(sum_log_probability=-1.5, scored_count=2, ticket=b"a"),
        Score(scored_count=1, ticket=bytes(range(256))),
    ]
    assert sum(parts) == Score.merge(parts)
    assert sum([], Score()) == Score()
    for added in (1, "a", None):
        with pytest.raises(TypeError):
            added + parts[0]  # type: ignore[operator]
        with pytest.raises(TypeError):
            parts[0] + added  # type: ignore[operator]
    ticket = json.loads(json.dumps(parts[1].as_dict()))["ticket"]
    assert base64.b64decode(ticket) == parts[1].ticket
    assert Score().as_dict()["ticket"] is None
