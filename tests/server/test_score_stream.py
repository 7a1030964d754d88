"""ScoreStream, windows, ranks, policies and candidates through real gRPC, against Score and against values by hand."""

import itertools
import math
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from segue.v1 import common_pb2, model_pb2, model_pb2_grpc, scoring_pb2_grpc
from segue.v1 import scoring_pb2 as pb
from segue_training.evaluation.evaluate import perplexity
from segue_training.train.checkpoint import Checkpoint

TEXT = "The cat, which already ate a bunch of food, was full.\r\nThe cats were not;\r é, 你 and 𝄞 too.\n" * 3
TEXTS = st.text(alphabet="The caté你𝄞€\r\n\ufeff", max_size=120)
CUTS = st.lists(st.integers(0, 120), max_size=6)
SIZES = st.sampled_from([None, "lines", 1, 2, 7, 50])
over_grpc = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])

CANDIDATES = ("was", "were", "was", "", "𝄞€")


def parts(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[one:other] for one, other in itertools.pairwise(places)]


def windows_of(size: int | str | None) -> pb.Windows | None:
    if size is None:
        return None
    return pb.Windows(lines=True) if size == "lines" else pb.Windows(characters=int(size))


def score(channel: grpc.Channel, *texts: str, **fields: object) -> list[pb.TextScore]:
    asked = pb.ScoreRequest(texts=texts, **fields)
    return list(scoring_pb2_grpc.ScoringServiceStub(channel).Score(asked, timeout=60).scores)


def stream(channel: grpc.Channel, pieces: list[str], **fields: object) -> list[pb.ScoreStreamResponse]:
    """What comes of a stream whose client waits for each answer."""

    def requests() -> Iterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(start=pb.ScoreStreamStart(**fields))
        for piece in pieces:
            yield pb.ScoreStreamRequest(text=piece)

    return list(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream(requests(), timeout=60))


def joined(responses: list[pb.ScoreStreamResponse]) -> pb.TextScore:
    """The score of a whole stream, with all that its messages brought since the ones before."""
    totals = [response.progress.total for response in responses[1:-1]] + [responses[-1].finished.total]
    whole = pb.TextScore()
    whole.CopyFrom(totals[-1])
    for name in ("log_probabilities", "ranks", "alternatives", "windows"):
        del getattr(whole, name)[:]
        for total in totals:
            getattr(whole, name).extend(getattr(total, name))
    whole.text = "".join(total.text for total in totals)
    return whole


def without_ticket(found: pb.TextScore) -> pb.TextScore:
    copy = pb.TextScore()
    copy.CopyFrom(found)
    copy.ClearField("ticket")
    return copy


DETAILS = {"log_probabilities": True, "ranks": True, "top_alternatives": 3}


@given(text=TEXTS, cuts=CUTS, size=SIZES, end=st.sampled_from([pb.END_POLICY_NOTHING, pb.END_POLICY_LINE_FEED]))
@over_grpc
def test_a_stream_gives_what_the_whole_text_gives_however_it_is_cut(
    channel: grpc.Channel, text: str, cuts: list[int], size: int | str | None, end: int
) -> None:
    shared = {"policies": pb.ScoringPolicies(end=end), "windows": windows_of(size), **DETAILS}
    (whole,) = score(channel, text, return_texts=True, **shared)
    responses = stream(channel, parts(text, cuts), return_text=True, **shared)
    assert [response.WhichOneof("event") for response in responses] == [
        "started",
        *["progress"] * (len(cuts) + 1),
        "finished",
    ]
    assert joined(responses) == whole
    if size is not None:
        assert math.fsum(window.sum_log_probability for window in whole.windows) == whole.sum_log_probability
        assert sum(window.scored_count for window in whole.windows) == whole.scored_count
        assert sum(window.unknown_count for window in whole.windows) == whole.unknown_count
        assert sum(window.character_count for window in whole.windows) == len(whole.text)


@given(text=TEXTS, size=SIZES.filter(bool))
@example(text=TEXT, size="lines")
@example(text="\n\nThe cats\n", size="lines")
@example(text=TEXT, size=7)
@over_grpc
def test_windows_are_where_the_text_says(channel: grpc.Channel, text: str, size: int | str) -> None:
    (whole,) = score(channel, text, return_texts=True, windows=windows_of(size), **DETAILS)
    read, first = whole.text, 0
    logs = [0.0] * (len(read) - whole.scored_count) + list(whole.log_probabilities)
    pieces = (
        read.splitlines(keepends=True)
        if size == "lines"
        else [read[at : at + int(size)] for at in range(0, len(read), int(size))]
    )
    assert len(whole.windows) == len(pieces)
    for window, piece in zip(whole.windows, pieces, strict=True):
        assert (window.first, window.character_count) == (first, len(piece))
        assert window.sum_log_probability == math.fsum(logs[first : first + len(piece)])
        assert window.unknown_count == piece.count("€") + piece.count("\ufeff")
        first += len(piece)


@given(text=TEXTS.filter(bool), cuts=CUTS, interval=st.integers(1, 60))
@over_grpc
def test_a_stream_goes_on_from_any_of_its_tickets_and_the_sums_add_up(
    channel: grpc.Channel, text: str, cuts: list[int], interval: int
) -> None:
    responses = stream(channel, parts(text, cuts), ticket_interval=interval, return_ticket=True)
    whole = responses[-1].finished.total
    for response in responses[1:-1]:
        if response.progress.total.ticket:
            before, rest = response.progress.total, text[response.progress.sent_count :]
            start = common_pb2.Start(ticket=before.ticket)
            after = stream(channel, [rest], start=start)[-1].finished.total
            assert before.sum_log_probability + after.sum_log_probability == whole.sum_log_probability
            assert before.scored_count + after.scored_count == whole.scored_count
            assert before.unknown_count + after.unknown_count == whole.unknown_count
            assert after.position == whole.position


def test_ranks_and_alternatives_are_those_of_torch(channel: grpc.Channel, checkpoint: Checkpoint) -> None:
    text = "The cat ate a bunch of food and the cats were full"
    (found,) = score(channel, text, **DETAILS)
    module = checkpoint.build_model().eval()
    ids = checkpoint.vocabulary.encode(text)
    assert found.perplexity == pytest.approx(perplexity(module, ids, checkpoint.vocabulary).perplexity, rel=1e-5)
    for target, rank, log, likeliest in zip(
        ids[1:].tolist(), found.ranks, found.log_probabilities, found.alternatives, strict=True
    ):
        characters = checkpoint.vocabulary.characters
        better = [c for c, p in zip(likeliest.characters, likeliest.log_probabilities, strict=True) if p > log]
        if rank <= 3:
            assert len(better) in (rank - 1, rank - 2)  # `<unk>` may be likelier
        if rank == 1:
            assert likeliest.characters[0] == characters[target]
        assert list(likeliest.log_probabilities) == sorted(likeliest.log_probabilities, reverse=True)
    assert max(found.ranks) <= len(checkpoint.vocabulary)


def test_details_change_no_bit_of_the_scores(channel: grpc.Channel) -> None:
    (plain,) = score(channel, TEXT, log_probabilities=True)
    (detailed,) = score(channel, TEXT, **DETAILS)
    assert list(plain.log_probabilities) == list(detailed.log_probabilities)


def test_policies_are_echoed_and_do_what_they_say(channel: grpc.Channel) -> None:
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    default = stub.Score(pb.ScoreRequest(texts=["cat"]))
    assert default.policies == pb.ScoringPolicies(
        unknown=common_pb2.UNKNOWN_POLICY_REPLACE, begin=pb.BEGIN_POLICY_NOTHING, end=pb.END_POLICY_NOTHING
    )
    assert default.continuation.exact
    policies = pb.ScoringPolicies(begin=pb.BEGIN_POLICY_BEGIN, end=pb.END_POLICY_LINE_FEED)
    whole = stub.Score(pb.ScoreRequest(texts=["cat", "cat\n", ""], policies=policies, return_tickets=True))
    assert [found.scored_count for found in whole.scores] == [4, 4, 1]
    assert whole.scores[0].sum_log_probability == whole.scores[1].sum_log_probability
    begin = stub.Score(pb.ScoreRequest(texts=["\ncat\n"], return_tickets=True))
    assert begin.scores[0].sum_log_probability == whole.scores[0].sum_log_probability
    assert begin.scores[0].position == whole.scores[0].position == 5


def test_candidates_are_ranked_by_what_the_whole_text_would_score(channel: grpc.Channel) -> None:
    stub, context = scoring_pb2_grpc.ScoringServiceStub(channel), "The cats, which already ate a bunch of food, "
    asked = pb.ScoreCandidatesRequest(context=context, candidates=CANDIDATES, return_tickets=True)
    found = stub.ScoreCandidates(asked)
    policies = pb.ScoringPolicies(begin=pb.BEGIN_POLICY_BEGIN)
    alone = score(channel, *(context + candidate for candidate in CANDIDATES), policies=policies)
    assert [each.score.sum_log_probability for each in found.candidates] == [
        alone[each.index].sum_log_probability - found.context.sum_log_probability for each in found.candidates
    ]
    sums = [each.score.sum_log_probability for each in found.candidates]
    assert sums == sorted(sums, reverse=True)
    twins = [each.index for each in found.candidates if each.index in (0, 2)]
    assert twins == [0, 2]
    assert math.fsum(each.probability for each in found.candidates) == pytest.approx(1)
    weights = np.exp(np.array(sums) - sums[0])
    assert [each.probability for each in found.candidates] == pytest.approx((weights / weights.sum()).tolist())
    again = stub.ScoreCandidates(
        pb.ScoreCandidatesRequest(
            start=common_pb2.Start(ticket=found.context.ticket), candidates=CANDIDATES, log_probabilities=True
        )
    )
    assert [each.score.sum_log_probability for each in again.candidates] == sums


def test_candidates_of_any_length_are_ranked_by_their_means_where_asked(channel: grpc.Channel) -> None:
    longer_and_longer = ["was full of food"[:length] for length in range(1, 17)]
    found = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreCandidates(
        pb.ScoreCandidatesRequest(context="The cat ", candidates=longer_and_longer, ranking=pb.CANDIDATE_RANKING_MEAN)
    )
    means = [each.score.sum_log_probability / each.score.scored_count for each in found.candidates]
    assert means == sorted(means, reverse=True)
    lengths = [each.score.scored_count for each in found.candidates]
    assert lengths != sorted(lengths)  # as they would be by their sums


@pytest.mark.parametrize("name", ["bytes", "lines", "byte-lines", "gru"])
def test_streams_of_other_models_give_what_the_whole_text_gives(kinds_channel: grpc.Channel, name: str) -> None:
    model = common_pb2.ModelReference(name=name)
    described = model_pb2_grpc.ModelServiceStub(kinds_channel).GetModel(model_pb2.GetModelRequest(model=model)).model
    text = "The cat ate é, 你 and 𝄞 too." + "\n" * (described.documents == "lines")
    shared = {"model": model, "log_probabilities": True, "windows": pb.Windows(characters=4)}
    (whole,) = score(kinds_channel, text, return_texts=True, **shared)
    for cuts in ([], [1, 2, 3], [12, 13, 14, 20], list(range(40))):
        assert joined(stream(kinds_channel, parts(text, cuts), return_text=True, **shared)) == whole


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "not `start`"),
        ([pb.ScoreStreamRequest(text="a")], "not `start`"),
        ([pb.ScoreStreamRequest(start=pb.ScoreStreamStart())] * 2, "not `text`"),
        (
            [
                pb.ScoreStreamRequest(start=pb.ScoreStreamStart(ranks=True)),
                pb.ScoreStreamRequest(text="a" * 250_001),
            ],
            "characters of a piece: 250,001; at most 250,000",
        ),
        (
            [pb.ScoreStreamRequest(start=pb.ScoreStreamStart(windows=pb.Windows(characters=0)))],
            "windows.characters is 0",
        ),
        ([pb.ScoreStreamRequest(start=pb.ScoreStreamStart(top_alternatives=21))], "top_alternatives: 21; at most 20"),
        (
            [
                pb.ScoreStreamRequest(
                    start=pb.ScoreStreamStart(policies=pb.ScoringPolicies(unknown=common_pb2.UNKNOWN_POLICY_REFUSE))
                ),
                pb.ScoreStreamRequest(text="The "),
                pb.ScoreStreamRequest(text="c€t"),
            ],
            "text: character '€' at position 5",
        ),
    ],
)
def test_a_bad_stream_is_refused_with_what_is_wrong(
    channel: grpc.Channel, requests: list[pb.ScoreStreamRequest], words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        list(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream(iter(requests), timeout=60))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in refusal.value.details()


def test_a_server_that_stops_gives_an_idle_stream_its_ticket(start_server) -> None:
    with start_server("--drain-grace", "0.2") as server, grpc.insecure_channel(server.address) as channel:
        responses = []

        def requests() -> Iterator[pb.ScoreStreamRequest]:
            yield pb.ScoreStreamRequest(start=pb.ScoreStreamStart())
            yield pb.ScoreStreamRequest(text="The cat")
            server.process.wait(timeout=30)

        with pytest.raises(grpc.RpcError) as refusal:
            for response in scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream(requests(), timeout=60):
                responses.append(response)
                if response.WhichOneof("event") == "progress" and len(responses) == 2:
                    server.process.terminate()
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    last = responses[-1].progress
    assert last.sent_count == 7
    assert last.total.ticket
    assert last.total.position == 7


def test_a_part_behind_a_ticket_keeps_its_first_character_whatever_it_is(channel: grpc.Channel) -> None:
    text = "The cat\ufeff ate"
    (whole,) = score(channel, text)
    (first,) = score(channel, text[:7], return_tickets=True)
    (second,) = score(channel, text[7:], start=common_pb2.Start(ticket=first.ticket))
    assert first.sum_log_probability + second.sum_log_probability == whole.sum_log_probability
