"""Models of documents, each one line, through real gRPC."""

import itertools
import math

import grpc
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segue.v1 import common_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue_training.train.checkpoint import Checkpoint
from unsealing import unsealed

NAMES = ("lines", "byte-lines")
LINES = st.text(alphabet="The caté你𝄞€", max_size=40)
over_grpc = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
every_kind = pytest.mark.parametrize("name", NAMES)


def score(channel: grpc.Channel, name: str, *texts: str, ticket: bytes = b"") -> list[scoring_pb2.TextScore]:
    asked = scoring_pb2.ScoreRequest(
        model=common_pb2.ModelReference(name=name),
        start=common_pb2.Start(ticket=ticket) if ticket else None,
        texts=texts,
        log_probabilities=True,
        return_tickets=len(texts) < 10,
    )
    return list(scoring_pb2_grpc.ScoringServiceStub(channel).Score(asked, timeout=60).scores)


def generate(
    channel: grpc.Channel, name: str, prompt: str = "", *, ticket: bytes = b"", seed: int | None = 1, **fields: object
) -> tuple[str, list[float], pb.GenerationFinished]:
    fields = {"max_characters": 2000, "sampling": pb.Sampling(seed=seed)} | fields
    asked = pb.GenerateRequest(
        model=common_pb2.ModelReference(name=name),
        start=common_pb2.Start(ticket=ticket) if ticket else None,
        prompt=prompt,
        log_probabilities=True,
        return_ticket=True,
        **fields,
    )
    _, *chunks, finished = generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked)
    text = "".join(chunk.text.text for chunk in chunks)
    return text, [p for chunk in chunks for p in chunk.text.log_probabilities], finished.finished


@every_kind
def test_every_character_and_the_end_are_scored_as_torch_scores_them(
    kinds_channel: grpc.Channel, kinds: dict[str, Checkpoint], name: str
) -> None:
    for text in ("", "\n", "The cat\n", "é你𝄞\n"):
        (found,) = score(kinds_channel, name, text)
        model, ids = kinds[name].build_model(), torch.from_numpy(kinds[name].vocabulary.encode("\n" + text))
        with torch.inference_mode():
            logits, *_ = model(ids[None], *model.zero_state())
        expected = logits[0].double().log_softmax(1)[torch.arange(len(ids) - 1), ids[1:]].sum()
        assert found.sum_log_probability == pytest.approx(float(expected), abs=1e-4)
        assert found.scored_count == len(text) == len(found.log_probabilities)


def test_the_probabilities_of_all_strings_sum_to_one(kinds_channel: grpc.Channel, kinds: dict[str, Checkpoint]) -> None:
    """A string ends, or it goes on with one of the characters; "€" stands for the unknown ones."""
    characters = ["€", *kinds["lines"].vocabulary.characters[1:]]
    ended_or_open = [*characters, *("".join(pair) for pair in itertools.product(characters, repeat=2))]
    texts = [text for text in ended_or_open if "\n" not in text[:-1]]
    logs = {
        text: found.sum_log_probability
        for text, found in zip(texts, score(kinds_channel, "lines", *texts), strict=True)
    }
    empty = math.exp(logs["\n"])
    longer = math.fsum(math.exp(log) for text, log in logs.items() if len(text) == 2)
    assert empty + longer == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("end", ["", "\n"])
@every_kind
@given(line=LINES, cut=st.integers(0, 41))
@over_grpc
def test_the_sums_of_two_parts_equal_the_whole_exactly(
    kinds_channel: grpc.Channel, name: str, end: str, line: str, cut: int
) -> None:
    text = line + end
    (whole,), (first,) = score(kinds_channel, name, text), score(kinds_channel, name, text[:cut])
    (second,) = score(kinds_channel, name, text[cut:], ticket=first.ticket)
    assert first.sum_log_probability + second.sum_log_probability == whole.sum_log_probability
    assert [*first.log_probabilities, *second.log_probabilities] == list(whole.log_probabilities)
    assert unsealed(second.ticket) == unsealed(whole.ticket)


@every_kind
@given(line=LINES, following=LINES)
@over_grpc
def test_after_the_end_a_document_begins_as_the_first_one_did(
    kinds_channel: grpc.Channel, name: str, line: str, following: str
) -> None:
    (ended,) = score(kinds_channel, name, line + "\n")
    (after,) = score(kinds_channel, name, following, ticket=ended.ticket)
    (fresh,) = score(kinds_channel, name, following)
    assert list(after.log_probabilities) == list(fresh.log_probabilities)


@every_kind
def test_a_text_ends_with_the_line_feed_that_the_model_writes(kinds_channel: grpc.Channel, name: str) -> None:
    for seed in range(8):
        text, scores, finished = generate(kinds_channel, name, "The", seed=seed)
        assert text.index("\n") == len(text) - 1
        assert finished.reason == pb.FINISH_REASON_END
        assert finished.generated_count == len(text) == len(scores)
        if "\r" not in text:  # which scoring would read as a line feed
            (scored,) = score(kinds_channel, name, "The" + text)
            assert list(scored.log_probabilities)[3:] == scores


@every_kind
def test_the_end_comes_before_every_other_reason(kinds_channel: grpc.Channel, name: str) -> None:
    text, _, _ = generate(kinds_channel, name)
    for fields in ({"stop": ["\n"]}, {"max_characters": len(text)}, {"stop": [text[-3:]]}):
        again, _, finished = generate(kinds_channel, name, **fields)
        assert (again, finished.reason, finished.stop) == (text, pb.FINISH_REASON_END, "")
    _, _, finished = generate(kinds_channel, name, max_characters=len(text) - 1)
    assert finished.reason == pb.FINISH_REASON_LENGTH


@every_kind
def test_from_the_ticket_of_an_end_the_next_document_is_written(kinds_channel: grpc.Channel, name: str) -> None:
    greedy = {"sampling": pb.Sampling(temperature=0), "max_characters": 50}
    first, _, finished = generate(kinds_channel, name, "é")
    second, scores, _ = generate(kinds_channel, name, ticket=finished.ticket, **greedy)
    assert (second, scores) == generate(kinds_channel, name, **greedy)[:2]
    # The random numbers go on: the same seed does not give the same document again and again.
    third, _, _ = generate(kinds_channel, name, ticket=finished.ticket, seed=None)
    assert third != first


@every_kind
def test_a_stream_continued_from_any_ticket_is_the_uninterrupted_one(kinds_channel: grpc.Channel, name: str) -> None:
    text, scores, end = generate(kinds_channel, name, "The", seed=4)
    for cut in range(1, len(text), 1 + len(text) // 12):
        first, early, finished = generate(kinds_channel, name, "The", seed=4, max_characters=cut)
        rest, late, last = generate(kinds_channel, name, ticket=finished.ticket, seed=None)
        assert (first + rest, early + late, unsealed(last.ticket)) == (text, scores, unsealed(end.ticket))


@every_kind
@pytest.mark.parametrize("text", ["a\nb", "\n\n", "a\r\nb\n"])
def test_several_documents_in_one_text_are_refused(kinds_channel: grpc.Channel, name: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        score(kinds_channel, name, "fine", text)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"texts[1]: the line feed at position {text.index(text.strip('ab')[0])}" in refusal.value.details()
    assert "each line in a text of its own" in refusal.value.details()


@every_kind
@pytest.mark.parametrize("prompt", ["\n", "a\n", "a\nb"])
def test_a_prompt_is_the_beginning_of_one_document(kinds_channel: grpc.Channel, name: str, prompt: str) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        generate(kinds_channel, name, prompt)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"prompt: the line feed at position {prompt.index(chr(10))}" in refusal.value.details()


@every_kind
def test_the_model_says_that_its_texts_are_lines(kinds_channel: grpc.Channel, name: str) -> None:
    asked = model_pb2.GetModelRequest(model=common_pb2.ModelReference(name=name))
    model = model_pb2_grpc.ModelServiceStub(kinds_channel).GetModel(asked).model
    assert (model.documents, model.begin, model.reproducible) == ("lines", "\n", True)
