"""Scoring through both clients."""

import asyncio
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from segue.v1 import common_pb2
from segue.v1 import scoring_pb2 as pb
from segue_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    NotExact,
    ScoringPolicies,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    SessionReference,
)
from segue_client.messages import score_request
from segue_client.protocol import batching


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that short texts reach: 1,000 characters a call, of which 100 are sent where there is a choice."""
    monkeypatch.setattr(score_request, "CHARACTERS_PER_CALL", 1000)
    monkeypatch.setattr(batching, "CHARACTERS_AT_ONCE", 100)


TEXT = "a text, with lines\r\nof some length.\n" * 2000
"""Longer than several pieces."""


async def test_everything_that_was_asked_for_reaches_the_server_and_the_caller(
    peer: Any, scoring: Any, toys: Any
) -> None:
    score = await scoring.call(
        "score",
        "\ufeffab\r\n?",
        model="toy",
        version=3,
        ticket=b"7:z",
        exact=False,
        unknown="refuse",
        begin="begin",
        end="line-feed",
        log_probabilities=True,
        ranks=True,
        top_alternatives=2,
        windows="lines",
        return_ticket=True,
        return_text=True,
    )
    [request] = peer.requests
    assert (request.model.name, request.model.version, request.start.ticket) == ("toy", 3, b"7:z")
    assert not request.start.exact
    assert (request.policies.unknown, request.policies.begin, request.policies.end) == (2, 2, 2)
    assert score.text == "\ufeffab\n?\n"  # behind a ticket a mark is a character like any other
    assert score.scored_count == len(score.log_probabilities) == len(score.ranks) == len(score.alternatives) == 6
    assert score.sum_log_probability == math.fsum(score.log_probabilities)
    assert score.unknown_count == 2
    assert [alternative.character for alternative in score.alternatives[1]] == ["a", "e"]
    assert [(window.first, window.character_count, window.scored_count) for window in score.windows] == [
        (0, 4, 4),
        (4, 2, 2),
    ]
    assert (score.ticket, score.position) == (b"13:\n", 13)
    assert score.policies == ScoringPolicies(unknown="refuse", begin="begin", end="line-feed")
    assert score.continuation.position == 7
    assert (await scoring.call("score", "abc")).sum_log_probability == toys.sum("abc")


async def test_many_texts_take_several_calls_and_keep_their_order(peer: Any, scoring: Any, toys: Any) -> None:
    texts = [f"{chr(97 + number % 26)} number" for number in range(5000)]
    scores = await scoring.call("score_many", texts)
    assert [score.sum_log_probability for score in scores] == [toys.sum(text) for text in texts]
    assert sorted(len(request.texts) for request in peer.requests) == [904, 1024, 1024, 1024, 1024]
    peer.requests.clear()
    await scoring.call("score_many", texts[:600], return_tickets=True)
    assert sorted(len(request.texts) for request in peer.requests) == [88, 256, 256]
    peer.requests.clear()
    await scoring.call("score_many", ["x" * 60_000] * 3 + ["y" * 200_000, "z"])
    assert sorted(sum(map(len, request.texts)) for request in peer.requests) == [1, 60_000, 120_000, 200_000]


@pytest.mark.usefixtures("small_calls")
async def test_each_is_the_same_as_many(scoring: Any) -> None:
    texts = ["", "abc", "x" * 1_200, "abc\nd", "y"] * 3
    options = {"windows": "lines", "end": "line-feed", "return_tickets": True}
    many = await scoring.call("score_many", texts, **options)
    each, _ = await scoring.each("score_each", iter(texts), jobs=2, **options)
    assert each == many
    assert [score.scored_count for score in each[:5]] == [0, 3, 1_200, 5, 1]


@pytest.mark.usefixtures("small_calls")
async def test_results_keep_their_order_whichever_call_ends_first(peer: Any, toy: Any, scoring: Any, toys: Any) -> None:
    del toy
    last = threading.Event()

    def score(request: Any) -> Any:
        if request.texts[0].startswith("d"):
            last.set()
        elif request.texts[0].startswith("a"):
            assert last.wait(20)
        return toys.scores(request)

    peer.score = score
    texts = [character * 100 for character in "abcd"]
    each, _ = await scoring.each("score_each", texts)
    assert [score.sum_log_probability for score in each] == [toys.sum(text) for text in texts]


@pytest.mark.usefixtures("small_calls")
async def test_no_more_calls_are_on_their_way_than_jobs(peer: Any, scoring: Any, toys: Any) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def score(request: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return toys.scores(request)

    peer.score = score
    await scoring.call("score_many", ["x" * 100] * 8, jobs=2)
    assert most <= 2


@pytest.mark.usefixtures("toy", "small_calls")
async def test_texts_are_asked_for_as_they_are_needed(peer: Any) -> None:
    asked = 0

    def texts() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "x" * 100

    def read() -> int:
        with Client(peer.address) as client:
            scores = client.score_each(texts(), jobs=3)
            next(scores)
            seen = asked
            scores.close()  # type: ignore[attr-defined] - it is a generator
        return seen

    assert await asyncio.to_thread(read) <= 5


@pytest.mark.usefixtures("toy")
async def test_texts_may_come_asynchronously(peer: Any, toys: Any) -> None:
    async def texts() -> AsyncIterator[str]:
        for text in ("abc", "de"):
            await asyncio.sleep(0)
            yield text

    async with AsyncClient(peer.address) as client:
        scores = [score async for score in client.score_each(texts())]
        stream = client.score_stream(texts(), join=False)
        sent = [progress.sent_count async for progress in stream]
    assert [score.sum_log_probability for score in scores] == [toys.sum("abc"), toys.sum("de")]
    assert sent == [3, 5, 5]
    assert stream.finished
    assert stream.finished.sum_log_probability == toys.sum("abcde")


@pytest.mark.usefixtures("small_calls")
async def test_what_the_texts_raise_comes_behind_the_scores_before_it(scoring: Any) -> None:
    def texts() -> Iterator[str]:
        yield from ["abc", "x" * 1_200, "de"]
        raise LookupError("no more")

    found = list[Any]()
    with pytest.raises(LookupError):
        await scoring.into(found, "score_each", texts())
    assert [score.scored_count for score in found] == [2, 1_199, 1]


@pytest.mark.usefixtures("small_calls")
async def test_an_error_comes_behind_the_scores_before_it(peer: Any, scoring: Any, toys: Any) -> None:
    def score(request: Any) -> Any:
        if "\ufffd" in request.texts[0]:
            return toys.scores(type(request)())
        return toys.scores(request)

    peer.score = score
    found = list[Any]()
    with pytest.raises(ServerFault, match="0 scores for 1 texts"):
        await scoring.into(found, "score_each", ["x" * 100, "y" * 100, "\ufffd" * 100, "z"])
    assert len(found) == 2


def refusing(peer: Any, toys: Any) -> None:
    """Have the peer refuse texts as a server does."""

    def score(request: Any) -> Any:
        for number, text in enumerate(request.texts):
            if (at := text.find("Ā")) >= 0:
                details = f"texts[{number}]: character 'Ā' at position {at} is not in the model's vocabulary"
                peer.abort(grpc.StatusCode.INVALID_ARGUMENT, details)
        return toys.scores(request)

    peer.score = score


@pytest.mark.parametrize("bad", ["bĀd", "b\ud800d"])
@pytest.mark.parametrize("count", [0, 1, 2, 250])
async def test_a_bad_text_comes_behind_the_scores_before_it(
    peer: Any, scoring: Any, toys: Any, *, bad: str, count: int
) -> None:
    refusing(peer, toys)
    good = [f"good {'x' * (number % 5)}" for number in range(count)]
    found = list[Any]()
    with pytest.raises(InvalidRequest, match=rf"^texts\[{count}\].* at position 1"):
        await scoring.into(found, "score_each", [*good, bad, "more", bad], unknown="refuse")
    assert [score.sum_log_probability for score in found] == [toys.sum(text) for text in good]


@pytest.mark.usefixtures("small_calls")
async def test_a_bad_text_among_several_calls_is_counted_from_the_first(peer: Any, scoring: Any, toys: Any) -> None:
    refusing(peer, toys)
    with pytest.raises(InvalidRequest, match=r"^texts\[12\]: "):
        await scoring.call("score_many", [*["x" * 40] * 12, "Ā"])


async def test_no_texts_take_no_call(peer: Any, scoring: Any) -> None:
    assert await scoring.call("score_many", []) == []
    assert peer.requests == []


async def test_an_empty_text_has_no_perplexity(scoring: Any) -> None:
    score = await scoring.call("score", "", return_ticket=True)
    assert (score.scored_count, score.perplexity, score.ticket) == (0, None, None)


async def test_a_string_in_place_of_texts_is_refused(scoring: Any) -> None:
    with pytest.raises(TypeError):
        await scoring.call("score_many", "abc")
    with pytest.raises(TypeError):
        await scoring.call("score_candidates", "abc", "abc")


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [
        ("score", ("ab\ud800",), {}),
        ("score_many", (["ab\ud800"],), {}),
        ("score", ("a",), {"windows": 0}),
        ("score", ("a",), {"windows": "words"}),
        ("score", ("a",), {"windows": True}),
        ("score", ("a",), {"begin": "end"}),
        ("score", ("a",), {"end": "begin"}),
        ("score", ("a",), {"unknown": "maybe"}),
        ("score", ("a",), {"top_alternatives": -1}),
        ("score", ("a",), {"ticket": b"t", "session": "s"}),
        ("score_many", (["a", "b"],), {"session": "s"}),
        ("score_many", (["a"],), {"jobs": 0}),
        ("score_stream", (["a"],), {"ticket_interval": -5}),
        ("score_candidates", ("a", ["b"]), {"ranking": "best"}),
        ("score_candidates", ("a", ["\ud800"]), {}),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_any_call(
    peer: Any, scoring: Any, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        await scoring.call(method, *arguments, **options)
    assert peer.requests == []


@pytest.mark.usefixtures("toy")
@pytest.mark.filterwarnings("error")
def test_what_is_no_text_is_refused_without_noise(peer: Any) -> None:
    no_text: Any = 5
    with Client(peer.address) as client, pytest.raises(InvalidRequest, match=r"^text is 5; pass a list"):
        client.score_stream(no_text)


async def test_a_session_goes_on_with_one_text_under_one_key(peer: Any, scoring: Any) -> None:
    await scoring.call("score", "abc", session="s")
    reference = SessionReference(name="s", position=5)
    await scoring.call("score_many", ["abc"], session=reference)
    first, second = peer.requests
    assert first.start.session.name == "s"
    assert first.start.session.request_key
    assert second.start.session.request_key == reference.request_key
    assert second.start.session.position == 5


@pytest.mark.parametrize("options", [{}, {"log_probabilities": True}, {"windows": 3}])
async def test_a_text_beyond_the_limits_is_scored_as_if_there_were_none(
    peer: Any, toy: Any, scoring: Any, toys: Any, options: dict[str, Any]
) -> None:
    text = "a long text\r\n" * (20_000 if options else 80_000)
    score = await scoring.call("score", text, **options, return_ticket=True)
    [start] = toy.starts
    assert start.ticket_interval
    assert peer.requests == []
    assert score.sum_log_probability == toys.sum(text.replace("\r\n", "\n"))
    assert score.scored_count == len(text.replace("\r\n", "\n")) - 1
    assert (score.ticket, score.position) == (f"{score.scored_count + 1}:\n".encode(), score.scored_count + 1)
    if "log_probabilities" in options:
        assert math.fsum(score.log_probabilities) == score.sum_log_probability
    if "windows" in options:
        assert math.fsum(window.sum_log_probability for window in score.windows) == score.sum_log_probability
        assert {window.character_count for window in score.windows[:-1]} == {3}


async def test_a_stream_is_the_score_of_the_whole(toy: Any, scoring: Any) -> None:
    options = {"windows": "lines", "return_ticket": True, "end": "line-feed", "begin": "begin"}
    whole = await scoring.call("score", TEXT[:-1], **options)
    progresses, stream = await scoring.each("score_stream", [TEXT[:-1]], **options, ticket_interval=30_000)
    assert stream.finished == stream.total == progresses[-1].total
    assert (stream.finished.sum_log_probability, stream.finished.ticket) == (whole.sum_log_probability, whole.ticket)
    assert stream.finished.windows == ()
    assert sum((progress.latest.windows for progress in progresses), ()) == whole.windows
    assert [len(piece) for piece in toy.pieces[0][:-1]] == [16_384] * (len(toy.pieces[0]) - 1)
    assert [progress.sent_count for progress in progresses if progress.ticket] == [32_768, 65_536, len(TEXT) - 1]


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_stream_goes_on_after_breaks_as_if_there_had_been_none(
    toy: Any, scoring: Any, *, stopping: bool
) -> None:
    options = {"windows": 100, "return_ticket": True, "log_probabilities": True}
    text = TEXT * 5
    whole, unbroken = await scoring.each("score_stream", [text], **options)
    toy.starts.clear()
    toy.breaks, toy.stopping = [0, 3, 1, 18, 5, 1], stopping
    broken, stream = await scoring.each("score_stream", [text], **options)
    assert len(toy.starts) >= 5
    assert toy.starts[-1].start.ticket
    assert 0 < toy.starts[-1].windows.before < 100
    assert stream.finished == unbroken.finished
    for name in ("windows", "log_probabilities"):
        assert sum((getattr(progress.latest, name) for progress in broken), ()) == sum(
            (getattr(progress.latest, name) for progress in whole), ()
        )
    positions = [progress.sent_count for progress in broken]
    assert positions == sorted(positions)


async def test_another_address_takes_a_stream_over(peer: Any, free_port: int, toys: Any, toy: Any) -> None:
    del toy
    async with AsyncClient([f"127.0.0.1:{free_port}", peer.address]) as client:
        stream = client.score_stream(["abc", "def"])
        async for _ in stream:
            pass
        assert stream.finished
        assert stream.finished.sum_log_probability == toys.sum("abcdef")
        session = client.score_stream(["abc"], session="s")
        assert [progress.sent_count async for progress in session] == [3, 3]


@pytest.mark.parametrize("options", [{"resume": False}, {"session": "s"}])
async def test_a_stream_that_cannot_go_on_fails(toy: Any, scoring: Any, options: dict[str, Any]) -> None:
    toy.breaks = [2]
    found = list[Any]()
    with pytest.raises(ServerUnavailable):
        await scoring.into(found, "score_stream", [TEXT], **options)
    assert [progress.sent_count for progress in found] == [16_384]
    assert len(toy.starts) == 1


async def test_a_stream_that_can_be_continued_by_hand_says_where(toy: Any, scoring: Any, toys: Any) -> None:
    toy.breaks, toy.stopping = [2], True
    found = list[Any]()
    with pytest.raises(ServerUnavailable):
        await scoring.into(found, "score_stream", [TEXT], resume=False)
    last = found[-1]
    rest = await scoring.call("score", TEXT[last.sent_count :], ticket=last.ticket)
    assert last.total.sum_log_probability + rest.sum_log_probability == toys.sum(TEXT.replace("\r\n", "\n"))


async def test_an_error_of_the_text_comes_behind_its_score(toy: Any, scoring: Any, toys: Any) -> None:
    def pieces() -> Iterator[str]:
        yield "abc"
        raise LookupError("no more")

    found = list[Any]()
    with pytest.raises(LookupError):
        await scoring.into(found, "score_stream", pieces())
    assert [progress.total.sum_log_probability for progress in found] == [toys.sum("abc")]
    assert await asyncio.to_thread(toy.over.wait, 20)


@pytest.mark.parametrize("how", ["with", "cancel", "drop"])
async def test_the_server_is_told_when_a_stream_is_left(toy: Any, peer: Any, how: str) -> None:
    def leave() -> None:
        with Client(peer.address) as client:
            stream = client.score_stream(iter(lambda: "abc", None), join=False)
            next(stream)
            if how == "with":
                with stream:
                    pass
            elif how == "cancel":
                stream.cancel()
                with pytest.raises(Cancelled):
                    next(stream)
                with pytest.raises(StopIteration):
                    next(stream)
            del stream
            assert toy.over.wait(20)

    await asyncio.to_thread(leave)
    toy.over.clear()
    async with AsyncClient(peer.address) as client:
        stream = client.score_stream(iter(lambda: "abc", None), join=False)
        await anext(stream)
        if how == "with":
            async with stream:
                pass
        elif how == "cancel":
            stream.cancel()
            with pytest.raises(Cancelled):
                await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        del stream
        assert await asyncio.to_thread(toy.over.wait, 20)


@pytest.mark.usefixtures("small_calls")
async def test_calls_that_nobody_waits_for_are_given_up(peer: Any, toy: Any, toys: Any) -> None:
    del toy
    began, leave = threading.Event(), threading.Event()

    def slow(request: Any) -> Any:
        if request.texts[0].startswith("b"):
            began.set()
            leave.wait(20)
        return toys.scores(request)

    peer.score = slow
    texts = ["a" * 100, "b" * 100]

    def read() -> float:
        with Client(peer.address) as client:
            scores = client.score_each(texts)
            next(scores)
            assert began.wait(20)
            left = time.monotonic()
            scores.close()  # type: ignore[attr-defined] - it is a generator
            return time.monotonic() - left

    try:
        assert await asyncio.to_thread(read) < 15
    finally:
        leave.set()


@pytest.mark.usefixtures("small_calls")
async def test_streams_that_nobody_waits_for_are_given_up(peer: Any, toy: Any) -> None:
    del toy
    began, leave, left = threading.Event(), threading.Event(), threading.Event()

    def stuck(_requests: Any, context: Any) -> Iterator[Any]:
        context.add_callback(left.set)
        began.set()
        leave.wait(20)
        yield from ()

    peer.score_stream = stuck

    def read() -> float:
        with Client(peer.address) as client:
            scores = client.score_each(["a" * 100, "b" * 2000])
            next(scores)
            assert began.wait(20)
            since = time.monotonic()
            scores.close()  # type: ignore[attr-defined] - it is a generator
            assert left.wait(20)
            return time.monotonic() - since

    try:
        assert await asyncio.to_thread(read) < 15
    finally:
        leave.set()


@pytest.mark.usefixtures("small_calls")
async def test_one_timeout_covers_all_calls(peer: Any, scoring: Any, toys: Any) -> None:
    over = threading.Event()

    def slow(request: Any) -> Any:
        if len(peer.requests) > 1:
            over.wait(20)
        return toys.scores(request)

    peer.score = slow
    try:
        with pytest.raises(DeadlineExceeded):
            await scoring.call("score_many", ["x" * 100] * 20, jobs=1, timeout=2)
        assert len(peer.requests) == 2
    finally:
        over.set()


@pytest.mark.usefixtures("small_calls")
async def test_a_full_server_is_waited_for_once_calls_are_on_their_way(peer: Any, scoring: Any, toys: Any) -> None:
    refused = threading.Event()
    calls = 0

    def busy_once(request: Any) -> Any:
        nonlocal calls
        calls += 1
        return toys.scores(request)

    def maybe_fail(context: Any) -> None:
        if calls == 1 and not refused.is_set():
            refused.set()
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server is full")

    peer.score, peer._maybe_fail = busy_once, maybe_fail
    scores = await scoring.call("score_many", ["x" * 100] * 3, jobs=1)
    assert len(scores) == 3
    assert refused.is_set()


async def test_a_full_server_refuses_the_first_call(peer: Any, scoring: Any) -> None:
    peer.fail_busy(1.5)
    with pytest.raises(ServerBusy):
        await scoring.call("score_many", ["abc"])


async def test_a_reply_with_too_few_scores_or_no_ticket_is_a_fault(peer: Any, scoring: Any, toys: Any) -> None:
    peer.score = lambda request: toys.scores(type(request)(texts=request.texts[1:]))
    with pytest.raises(ServerFault, match="0 scores for 1 texts"):
        await scoring.call("score", "abc")
    peer.score = lambda request: toys.scores(type(request)(texts=request.texts))
    with pytest.raises(ServerFault, match="no ticket"):
        await scoring.call("score", "abc", return_ticket=True)
    peer.score = lambda request: type(toys.scores(request))(scores=toys.scores(request).scores)
    with pytest.raises(ServerFault, match="did not say how"):
        await scoring.call("score", "abc")


async def test_candidates_are_ranked(peer: Any, scoring: Any) -> None:
    ranking = await scoring.call(
        "score_candidates",
        "the cats ",
        ["was", "were", "w"],
        ticket=b"3:a",
        log_probabilities=True,
        return_tickets=True,
        unknown="refuse",
    )
    [request] = peer.requests
    assert (request.context, list(request.candidates), request.start.ticket) == (
        "the cats ",
        ["was", "were", "w"],
        b"3:a",
    )
    assert request.policies.unknown == 2
    sums = [candidate.score.sum_log_probability for candidate in ranking.candidates]
    assert sums == sorted(sums, reverse=True)
    assert ranking.best == ranking.candidates[0]
    for candidate in ranking.candidates:
        assert candidate.text == ["was", "were", "w"][candidate.index]
        assert math.fsum(candidate.score.log_probabilities) == candidate.score.sum_log_probability
        assert candidate.score.ticket
        assert candidate.probability == 1 / 3
    assert ranking.context.ticket == b"12: "
    by_mean = await scoring.call("score_candidates", "the cats ", ["was", "were", "w"], ranking="mean")
    means = [candidate.score.mean_surprisal for candidate in by_mean.candidates]
    assert means == sorted(means)


async def test_a_ranking_that_leaves_a_candidate_out_is_a_fault(peer: Any, scoring: Any) -> None:
    whole = peer.score_candidates

    def without_one(request: Any) -> Any:
        response = whole(request)
        del response.candidates[0]
        return response

    peer.score_candidates = without_one
    with pytest.raises(ServerFault, match="each of the 2 candidates"):
        await scoring.call("score_candidates", "a", ["b", "c"])


async def test_a_stream_buffers_a_few_pieces_whatever_its_length(peer: Any) -> None:
    def score_stream(requests: Iterator[Any], _context: Any) -> Iterator[pb.ScoreStreamResponse]:
        """Count characters alone."""
        interval = next(requests).start.ticket_interval
        policies = pb.ScoringPolicies(unknown=1, begin=2, end=1)
        continuation = common_pb2.Continuation(exact=True)
        yield pb.ScoreStreamResponse(started=pb.ScoreStreamStarted(policies=policies, continuation=continuation))
        count = ticket_at = 0
        for request in requests:
            count += len(request.text)
            is_due = count >= ticket_at + interval
            ticket_at = count if is_due else ticket_at
            total = pb.TextScore(scored_count=count, ticket=b"ticket" if is_due else b"")
            yield pb.ScoreStreamResponse(progress=pb.ScoreStreamProgress(total=total, sent_count=count))
        yield pb.ScoreStreamResponse(finished=pb.ScoreStreamFinished(total=pb.TextScore(scored_count=count)))

    peer.score_stream = score_stream
    piece, pulled = "ten chars\n" * 10_000, 0

    def pieces() -> Iterator[str]:
        nonlocal pulled
        for _ in range(100):
            pulled += len(piece)
            yield piece

    def read() -> None:
        most_ahead = most_kept = 0
        with Client(peer.address) as client, client.score_stream(pieces()) as stream:
            for progress in stream:
                most_kept = max(most_kept, stream._scoring._buffer.unconfirmed_count)
                most_ahead = max(most_ahead, pulled - progress.sent_count)
        assert stream.finished
        assert stream.finished.scored_count == 10_000_000
        assert most_kept < 262_144 + 6 * 16_384
        assert most_ahead < len(piece) + 6 * 16_384

    await asyncio.to_thread(read)


async def test_a_refused_text_is_yielded_in_place_of_its_score(scoring: Any, peer: Any, toys: Any) -> None:
    def score(request: Any) -> Any:
        for number, text in enumerate(request.texts):
            if "Ā" in text:
                peer.abort(grpc.StatusCode.INVALID_ARGUMENT, f"texts[{number}]: character 'Ā'")
        return toys.scores(request)

    peer.score = score
    texts = ["ab", "Ā", "cd", "a\ud800", "Ā", "ef"]
    outcomes, _ = await scoring.each("try_score_each", texts, unknown="refuse")
    assert [str(each) if isinstance(each, InvalidRequest) else each.sum_log_probability for each in outcomes] == [
        toys.sum("ab"),
        "texts[1]: character 'Ā'",
        toys.sum("cd"),
        "texts[3]: holds the lone surrogate '\\ud800' at position 1",
        "texts[4]: character 'Ā'",
        toys.sum("ef"),
    ]
    peer.fail(grpc.StatusCode.INVALID_ARGUMENT, "the ticket cannot be continued")
    with pytest.raises(InvalidRequest, match="the ticket"):
        await scoring.each("try_score_each", ["ab"])


@pytest.mark.parametrize("bad", [float("nan"), None, b"ab", ["ab"], 7])
@pytest.mark.usefixtures("small_calls")
async def test_a_row_that_is_no_text_is_refused_in_its_place(scoring: Any, toys: Any, bad: Any) -> None:
    for texts in ([bad, "c"], ["ab", bad, "c"], ["ab", bad], [bad], ["ab" * 600, bad, bad, "c"]):
        for windows in (None, 3, "lines"):
            outcomes, _ = await scoring.each("try_score_each", texts, windows=windows)
            assert [
                str(each) if isinstance(each, InvalidRequest) else each.sum_log_probability for each in outcomes
            ] == [
                toys.sum(text) if isinstance(text, str) else f"texts[{number}] is {type(text).__name__}, not str"
                for number, text in enumerate(texts)
            ]


@pytest.mark.parametrize("method", ["score_each", "try_score_each"])
async def test_two_builds_are_not_mixed(scoring: Any, peer: Any, toys: Any, method: str) -> None:
    builds = iter(["3f" * 32, "8e" * 32])

    def score(request: Any) -> Any:
        response = toys.scores(request)
        response.continuation.sha256 = next(builds)
        return response

    peer.score = score
    texts, found = ["ab"] * 1030, list[Any]()
    message = (
        "texts[1024] was scored by build 8e8e8e8e8e8e of the model, those before by 3f3f3f3f3f3f: choose one with "
        "version, or accept both with exact=False"
    )
    with pytest.raises(NotExact, match=f"^{re.escape(message)}$"):
        await scoring.into(found, method, texts, jobs=1)
    assert len(found) == 1024
    builds = iter(["3f" * 32, "8e" * 32])
    assert len((await scoring.each(method, texts, jobs=1, exact=False))[0]) == len(texts)
