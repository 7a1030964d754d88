"""ScoringService through real gRPC, against torch and against itself."""

import math

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segue.v1 import common_pb2, scoring_pb2_grpc
from segue.v1 import scoring_pb2 as pb
from segue_training.evaluation.evaluate import perplexity
from segue_training.train.checkpoint import Checkpoint

TEXT = "The cat, which already ate a bunch of food, was full.\nThe cats were not;  é, 你 and 𝄞 too. " * 5
TEXTS = st.text(alphabet="The caté你𝄞€\n", min_size=0, max_size=90)
over_grpc = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def unsealed(scores: list[pb.TextScore]) -> list[pb.TextScore]:
    """The scores without their tickets: no seal is like another."""
    for found in scores:
        found.ClearField("ticket")
    return scores


def score(channel: grpc.Channel, *texts: str, **fields: object) -> list[pb.TextScore]:
    asked = pb.ScoreRequest(texts=texts, log_probabilities=True, return_tickets=True, **fields)
    return list(scoring_pb2_grpc.ScoringServiceStub(channel).Score(asked, timeout=60).scores)


def test_perplexity_is_what_torch_computes_from_the_checkpoint(channel: grpc.Channel, checkpoint: Checkpoint) -> None:
    ids = checkpoint.vocabulary.encode(TEXT)
    expected = perplexity(checkpoint.build_model(), ids, checkpoint.vocabulary)
    (found,) = score(channel, TEXT)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert found.bits_per_character == pytest.approx(expected.bits, rel=1e-5)
    assert found.scored_count == len(TEXT) - 1 == len(found.log_probabilities)


@given(text=TEXTS, cut=st.integers(0, 90))
@over_grpc
def test_the_sums_of_two_parts_equal_the_whole_exactly(channel: grpc.Channel, text: str, cut: int) -> None:
    (whole,) = score(channel, text)
    (first,) = score(channel, text[:cut])
    rest = {"start": common_pb2.Start(ticket=first.ticket)} if first.ticket else {}
    (second,) = score(channel, text[cut:], **rest)
    assert first.sum_log_probability + second.sum_log_probability == whole.sum_log_probability
    assert first.scored_count + second.scored_count == whole.scored_count
    assert first.unknown_count + second.unknown_count == whole.unknown_count == text.count("€")
    assert [*first.log_probabilities, *second.log_probabilities] == list(whole.log_probabilities)
    assert second.position == whole.position or not text[cut:]


@given(texts=st.lists(TEXTS, min_size=1, max_size=100))
@over_grpc
def test_many_texts_get_what_each_gets_alone(channel: grpc.Channel, texts: list[str]) -> None:
    alone = [score(channel, text)[0] for text in texts]
    assert unsealed(score(channel, *texts)) == unsealed(alone)


def test_the_figures_follow_from_the_log_probabilities(channel: grpc.Channel) -> None:
    (found,) = score(channel, TEXT)
    assert found.sum_log_probability == math.fsum(found.log_probabilities)
    assert found.perplexity == pytest.approx(math.exp(-found.sum_log_probability / found.scored_count), rel=1e-12)
    assert 2**found.bits_per_character == pytest.approx(found.perplexity, rel=1e-12)


@pytest.mark.parametrize(("text", "has_ticket"), [("", False), ("T", True)])
def test_where_nothing_is_scored_there_is_no_perplexity(channel: grpc.Channel, text: str, has_ticket: bool) -> None:
    (found,) = score(channel, text)
    assert (found.scored_count, found.sum_log_probability) == (0, 0)
    assert not found.HasField("perplexity")
    assert not found.HasField("bits_per_character")
    assert bool(found.ticket) is has_ticket


def test_a_reply_names_the_model_and_the_version_that_scored(channel: grpc.Channel) -> None:
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    scored = stub.Score(pb.ScoreRequest(texts=["The"]))
    assert (scored.model, scored.version) == ("tiny", 1)
    ranked = stub.ScoreCandidates(pb.ScoreCandidatesRequest(candidates=["The"]))
    assert (ranked.model, ranked.version) == ("tiny", 1)


def test_line_ends_are_read_as_training_read_them(channel: grpc.Channel) -> None:
    unix, dos, mac, marked = unsealed(score(channel, "The\ncat", "The\r\ncat", "The\rcat", "\ufeffThe\ncat"))
    assert unix == dos == mac == marked


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"texts": []}, "texts is empty"),
        ({"texts": ["a"] * 4097}, "number of texts: 4,097; at most 4,096"),
        ({"texts": ["a"] * 257, "return_tickets": True}, "number of texts: 257; at most 256"),
        ({"texts": ["a" * 600_000] * 2}, "characters of all texts together: 1,200,000; at most 1,000,000"),
        ({"texts": ["a" * 250_001], "log_probabilities": True}, "250,001; at most 250,000"),
        (
            {"texts": ["a", "b€"], "policies": pb.ScoringPolicies(unknown=common_pb2.UNKNOWN_POLICY_REFUSE)},
            "texts[1]: character '€' at position 1",
        ),
        ({"texts": ["a"], "start": common_pb2.Start(ticket=b"x")}, "the ticket is damaged"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_range(
    channel: grpc.Channel, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        scoring_pb2_grpc.ScoringServiceStub(channel).Score(pb.ScoreRequest(**fields))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in refusal.value.details()
