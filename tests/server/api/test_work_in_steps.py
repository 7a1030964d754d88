"""Long requests are read, and long replies built, in steps: each is small, and the result is that of the whole."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue.v1 import common_pb2, generation_pb2
from segue.v1 import scoring_pb2 as pb
from segue_server.api.encoding import PART, encode, normalize_piece, prepare_normalization
from segue_server.api.generation_request import check_limits, read_generation
from segue_server.api.parted_message import Parts
from segue_server.api.score_accumulator import CharacterScores, ScoreAccumulator, Wanted
from segue_server.api.score_messages import score_parts
from segue_server.api.scoring_policies import read_policies
from segue_server.api.scoring_request import TextStart, read_texts
from segue_server.api.windows import LINES, ScoredCharacters, Window, WindowCutter
from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.scores import Alternatives
from segue_server.errors import InvalidRequest
from segue_server.limits import LIMITS
from segue_server.runtime.time_slices import Steps, at_once
from segue_server.state.start import StartState
from segue_training.text import normalization
from segue_training.text.normalization import NORMALIZATIONS, Normalizer

TABLES = (normalization._long_runs, normalization._composing_with_before)
ACUTE, DOT_BELOW = "\u0301", "\u0323"
NO_IDS = np.empty(0, dtype=np.int64)


def counted(steps: Steps[Any]) -> tuple[int, Any]:
    """Return how often the work gave way, and its result."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return count, done.value
        count += 1


@given(
    st.sampled_from(sorted(NORMALIZATIONS)),
    st.lists(
        st.tuples(
            st.sampled_from(["a", "e" + ACUTE, "e" + ACUTE + DOT_BELOW, "\r\n", "\r", "한", "\u1112\u1161", ". ,"]),
            st.sampled_from([1, 5, 700, 5_000]),
        ),
        max_size=6,
    ),
)
def test_a_text_normalized_in_steps_is_the_whole_one_normalized(form: str, runs: list[tuple[str, int]]) -> None:
    text = "\ufeff" + "".join(part * count for part, count in runs)
    normalizer = Normalizer(form)
    normalized = at_once(normalize_piece("text", text, normalizer)) + normalizer.end()
    assert normalized == NORMALIZATIONS[form](text)


@pytest.mark.parametrize(("text", "least"), [("ab" * 500_000, 1_000_000 // PART), ("e" + ACUTE, 0), ("a" * PART, 0)])
def test_a_long_text_is_normalized_in_small_parts(text: str, least: int) -> None:
    count, _ = counted(normalize_piece("text", text, Normalizer("nfc")))
    assert count >= least
    assert count == 0 or least


def test_composing_takes_smaller_parts() -> None:
    count, _ = counted(normalize_piece("text", ("e" + DOT_BELOW + ACUTE) * 300_000, Normalizer("nfc")))
    assert count >= 900_000 // 1_024


def test_a_run_of_marks_longer_than_a_part_may_be_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="characters of text that a next one may still change"):
        at_once(normalize_piece("text", "a" + (ACUTE + DOT_BELOW) * LIMITS.max_held_back, Normalizer("nfc")))


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("count", [0, 1, PART, PART + 1, 5 * PART // 2])
def test_a_text_encoded_in_steps_is_the_whole_one_encoded(models: dict[str, Model], kind: str, count: int) -> None:
    model, text = models[kind], ("The é你!" * count)[:count]
    steps, (ids, unknown_at) = counted(encode("text", text, model, common_pb2.UNKNOWN_POLICY_REPLACE))
    whole = model.vocabulary.encode(text)
    assert ids.tolist() == whole.tolist()
    assert unknown_at.tolist() == np.flatnonzero(whole == 0).tolist()
    assert (steps > 0) == (count > PART)
    assert ids.itemsize <= 2


def test_an_unknown_character_far_in_a_text_is_named_by_its_position(model: Model) -> None:
    text = "a" * (3 * PART) + "Ж"
    with pytest.raises(InvalidRequest, match=f"'Ж' at position {3 * PART + 7} "):
        at_once(encode("text", text, model, common_pb2.UNKNOWN_POLICY_REFUSE, offset=7))


scores = st.integers(-(2**30), 0).map(lambda quantum: quantum * 2.0**-24)


@given(
    st.text("ab\n", max_size=60),
    st.sampled_from([LINES, 1, 2, 7, 100]),
    st.integers(0, 60),
    st.data(),
)
def test_windows_do_not_depend_on_pieces(text: str, size: int, cut: int, data: st.DataObject) -> None:
    before = data.draw(st.integers(0, max(0, size - 1)))
    values = np.array(data.draw(st.lists(scores, min_size=len(text), max_size=len(text))))[1:]
    unknown_at = np.array(sorted(data.draw(st.sets(st.integers(0, max(0, len(text) - 1))))), dtype=np.int64)
    unknown_at = unknown_at[: len(text)]
    whole = WindowCutter(size, before)
    expected = at_once(whole.add(ScoredCharacters(text, values, unknown_at))) + whole.end()
    pieces = WindowCutter(size, before)
    first, rest = (unknown_at[unknown_at < cut], unknown_at[unknown_at >= cut] - cut)
    found = at_once(pieces.add(ScoredCharacters(text[:cut], values[: max(0, cut - 1)], first)))
    found += at_once(pieces.add(ScoredCharacters(text[cut:], values[max(0, cut - 1) :], rest)))
    assert found + pieces.end() == expected


@pytest.mark.parametrize("size", [1, 3, 1_000, LINES])
def test_windows_of_a_long_text_are_cut_in_small_steps(size: int) -> None:
    text, unknown_at = "ab\n" * 20_000, np.arange(0, 60_000, 7)
    values = -np.arange(1.0, len(text))
    steps, windows = counted(WindowCutter(size).add(ScoredCharacters(text, values, unknown_at)))
    ends = [at + 1 for at, c in enumerate(text) if c == "\n"] if size == LINES else range(size, len(text) + 1, size)
    logs = np.concatenate([[0.0], values])
    unknown = np.isin(np.arange(len(text)), unknown_at)
    begin, expected = 0, []
    for end in ends:
        part = slice(begin, end)
        scored = end - begin - (begin == 0)
        expected.append(Window(begin, end - begin, logs[part].sum(), scored, int(unknown[part].sum())))
        begin = end
    assert windows == expected
    assert steps >= max(len(text) // PART, len(windows) // 1_024)


def filled(wanted: Wanted, text: str, given_scores: CharacterScores, model: Model) -> tuple[int, pb.TextScore]:
    accumulator = ScoreAccumulator(wanted)

    def steps() -> Steps[Parts]:
        yield from accumulator.add(text, NO_IDS, given_scores)
        accumulator.end()
        return (yield from score_parts(accumulator, model, 5, b""))

    steps_taken, parts = counted(steps())
    assert max(map(len, parts)) < 2**19
    return steps_taken, pb.TextScore.FromString(b"".join(parts))


def test_long_replies_are_built_in_small_steps(model: Model) -> None:
    count = LIMITS.max_scored_with_alternatives
    ids = np.arange(count * 20).reshape(count, 20) % (len(model.vocabulary) - 1) + 1
    listed = Alternatives(ids, -np.arange(count * 20.0).reshape(count, 20))
    given_scores = CharacterScores(-np.arange(1.0, count), np.arange(count - 1), [listed])
    wanted = Wanted(log_probabilities=True, ranks=True, alternatives=20, windows=1, text=True)
    steps, score = filled(wanted, "a" * count, given_scores, model)
    assert steps >= count // 256
    assert list(score.log_probabilities) == given_scores.log_probabilities.tolist()
    assert list(score.ranks) == given_scores.ranks.tolist()
    assert [each.characters for each in score.alternatives] == [model.vocabulary.decode(row) for row in ids]
    assert [list(each.log_probabilities) for each in score.alternatives[::999]] == [
        row.tolist() for row in listed.log_probabilities[::999]
    ]
    assert [window.first for window in score.windows] == list(range(count))


def test_a_short_reply_is_built_without_a_step(model: Model) -> None:
    wanted = Wanted(log_probabilities=True, ranks=True, alternatives=0, windows=5, text=True)
    given_scores = CharacterScores(-np.arange(1.0, 25), np.arange(24), [])
    assert filled(wanted, "a" * 25, given_scores, model)[0] == 0


@pytest.mark.parametrize(("count", "steps"), [(1, 0), (16, 0), (LIMITS.max_texts, LIMITS.max_texts - 16)])
def test_many_texts_are_read_one_in_a_step(model: Model, count: int, steps: int) -> None:
    request = pb.ScoreRequest(texts=["The cat"] * count)
    wanted = Wanted(log_probabilities=False, ranks=False, alternatives=0, windows=None, text=False)
    policies = read_policies(request.policies, model)
    assert counted(read_texts(request, model, TextStart(None, 0), policies, wanted))[0] == steps


@pytest.mark.parametrize(("count", "least"), [(16, 0), (LIMITS.max_prompt, 2 * LIMITS.max_prompt // PART)])
def test_a_long_prompt_is_read_in_small_steps(model: Model, count: int, least: int) -> None:
    request = generation_pb2.GenerateRequest(prompt="a" * count, written_before="a" * count)
    checked, _ = counted(check_limits(request))
    start = StartState.nothing(Build.of(model, bytes(16)))
    read, generation = counted(read_generation(request, model, start))
    assert (checked, read >= least) == (2 if least else 0, True)
    assert read == 0 or least
    assert generation.prompt_count == count


def test_no_call_waits_for_the_tables_of_a_normalization(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "manifest", replace(model.manifest, normalization="nfc"))
    prepare_normalization(model)
    made = [table.cache_info().misses for table in TABLES]
    at_once(normalize_piece("text", "é你" + (ACUTE + DOT_BELOW) * 100 + "한", Normalizer("nfc")))
    assert [table.cache_info().misses for table in TABLES] == made == [1, 1]
