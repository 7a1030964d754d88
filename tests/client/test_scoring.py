"""Cutting work into calls, and adding the replies up."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import hypothesis
import pytest
from charlm.v1 import scoring_pb2
from charlm_client import InvalidRequest, Score
from charlm_client.scoring import Calls, ScoreSettings, cut, group_texts, score_calls
from charlm_training.normalization import NORMALIZATIONS
from hypothesis import given
from hypothesis import strategies as st

UNIT = Fraction(1, 2**24)

patient = hypothesis.settings(deadline=None)
"""A busy machine may take its time."""

# Rich in what normalization treats across a cut.
TEXTS = st.text(alphabet="ab\r\n\ufeff\U0001f600", max_size=60)
WORDS = st.lists(st.sampled_from(["a", "Z, ", "e\u0301\u0323.", "b\r\n", "x\ufeff", "o 漢"]), max_size=30).map("".join)

PARTS = st.lists(
    st.builds(
        lambda units, count: Score(sum_log_probability=float(-units * UNIT), scored_count=count),
        st.integers(0, 2**40),
        st.integers(0, 2**20),
    ),
    max_size=30,
)


class SmallSettings(ScoreSettings):
    """Limits that short texts reach."""

    characters_per_call = 7  # type: ignore[assignment] - in place of a property
    texts_per_call = 3  # type: ignore[assignment] - in place of a property


def settings(kind: type[ScoreSettings] = ScoreSettings, **fields: Any) -> ScoreSettings:
    defaults = {"model": "", "version": 0, "ticket": None, "unknown": "replace"}
    return kind(**{**defaults, "log_probabilities": False, "return_tickets": False, **fields})


def answer(calls: Calls, script: Any, requests: list[scoring_pb2.ScoreRequest]) -> list[Score]:
    try:
        requests.append(next(calls))
        while True:
            requests.append(calls.send(script.toy_scores(requests[-1])))
    except StopIteration as done:
        return list(done.value)


@patient
@given(TEXTS, st.integers(1, 9))
def test_parts_are_the_text_within_the_limit(text: str, limit: int) -> None:
    parts = list(cut(text, limit))
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)
    assert all(parts) or parts == [""]


@patient
@given(TEXTS, st.integers(3, 9))
def test_no_line_end_is_cut_and_no_part_begins_with_a_mark(text: str, limit: int) -> None:
    parts = list(cut(text.replace("\ufeff" * 2, "a"), limit))
    for before, after in pairwise(parts):
        assert not (before.endswith("\r") and after.startswith("\n"))
        assert not after.startswith("\ufeff")


def test_a_mark_inside_a_text_is_never_first() -> None:
    assert list(cut("abc\ufeffdef", 3)) == ["ab", "c\ufeffd", "ef"]
    assert list(cut("12\r\n34", 3)) == ["12", "\r\n3", "4"]
    assert list(cut("漢字e\u0301漢字", 3)) == ["漢字", "e\u0301漢", "字"]


@pytest.mark.parametrize("normalization", sorted(NORMALIZATIONS))
@patient
@given(WORDS, st.integers(4, 9))
def test_each_part_is_normalized_as_it_is_in_the_whole(normalization: str, text: str, limit: int) -> None:
    normalize = NORMALIZATIONS[normalization]
    assert "".join(map(normalize, cut(text, limit))) == normalize(text)


@patient
@given(st.lists(TEXTS, max_size=12), st.integers(1, 20), st.integers(1, 4))
def test_groups_are_the_texts_within_the_limits(texts: list[str], characters: int, count: int) -> None:
    groups = list(group_texts(texts, characters, count))
    assert [text for group in groups for text in group] == texts
    for group in groups:
        assert 1 <= len(group) <= count
        assert sum(map(len, group)) <= characters or len(group) == 1


@patient
@given(PARTS, PARTS)
def test_sums_of_parts_are_exact(first: list[Score], second: list[Score]) -> None:
    whole = Score.merge(first + second)
    assert Fraction(whole.sum_log_probability) == sum(
        (Fraction(part.sum_log_probability) for part in first + second), Fraction(0)
    )
    assert whole == Score.merge(first) + Score.merge(second)
    assert whole.scored_count == sum(part.scored_count for part in first + second)


@patient
@given(
    st.lists(st.text(alphabet="ab?\r\n", max_size=40), max_size=8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, b"z"]),
)
def test_scoring_within_limits_changes_nothing(
    script: Any, texts: list[str], log_probabilities: bool, return_tickets: bool, ticket: bytes | None
) -> None:
    fields = {
        "log_probabilities": log_probabilities,
        "return_tickets": return_tickets,
        "ticket": ticket,
        "unknown": "refuse",
        "model": "toy",
    }
    requests: list[scoring_pb2.ScoreRequest] = []
    small = answer(score_calls(texts, settings(SmallSettings, **fields)), script, requests)
    assert small == answer(score_calls(texts, settings(**fields)), script, [])
    assert all(sum(map(len, request.texts)) <= 7 and len(request.texts) <= 3 for request in requests)
    assert all(request.model.name == "toy" for request in requests)
    assert all(request.unknown_policy == 2 for request in requests)


def test_tickets_are_requested_only_where_a_part_follows(script: Any) -> None:
    requests: list[scoring_pb2.ScoreRequest] = []
    answer(score_calls(["abcdefghijklmnop", "a"], settings(SmallSettings)), script, requests)
    assert [request.return_tickets for request in requests] == [True, True, False, False]
    assert [request.start.ticket for request in requests] == [b"", b"g", b"n", b""]


def test_what_a_score_derives() -> None:
    score = Score(sum_log_probability=-2 * math.log(8), scored_count=2)
    assert score.perplexity == pytest.approx(8)
    assert score.bits_per_character == pytest.approx(3)
    assert Score().perplexity is None
    assert Score().bits_per_character is None
    assert Score(scored_count=3).perplexity == 1
    assert math.copysign(1, Score(scored_count=3).bits_per_character or 0) == 1
    assert Score(sum_log_probability=-1e6, scored_count=1).perplexity == math.inf


def test_parts_keep_their_order_and_the_last_ticket() -> None:
    whole = Score(log_probabilities=(-1.0,), ticket=b"1") + Score(log_probabilities=(-2.0,), ticket=b"2")
    assert (whole.log_probabilities, whole.ticket) == ((-1.0, -2.0), b"2")


def test_a_string_in_place_of_texts_is_refused() -> None:
    with pytest.raises(TypeError):
        next(score_calls("abc", settings()))


def test_half_a_character_is_refused_by_position() -> None:
    with pytest.raises(InvalidRequest, match="position 2"):
        next(score_calls(["ab\ud800"], settings()))
