"""The clients' scoring against real servers."""

import asyncio
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from segue_client import (
    AsyncClient,
    Client,
    InvalidRequest,
    LanguageModel,
    Score,
    ScoreProgress,
    ScoreStream,
    ServerUnavailable,
)
from segue_client.messages import score_request
from segue_client.protocol.score_stream import StreamScoring, collected
from segue_export.export import export_checkpoint
from segue_training.train.checkpoint import Checkpoint, save_checkpoint

TEXT = "The cat, which already ate a bunch of food, was full.\r\nThe cats were not;\r é, 你 and 𝄞 too.\n"
TEXTS = st.text(alphabet="The caté你𝄞€\r\n\ufeff", max_size=100)
CUTS = st.lists(st.integers(0, 100), max_size=6)
DETAILS = {"log_probabilities": True, "ranks": True, "top_alternatives": 3, "return_text": True}
over_grpc = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def parts(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[one:other] for one, other in itertools.pairwise(places)]


def without_details(score: Score) -> tuple[Any, ...]:
    return score.sum_log_probability, score.scored_count, score.unknown_count, score.position, score.ticket


@pytest.mark.parametrize("log", ["\nThe cat\n\nate\n", "The", "\n"])
def test_every_line_behind_begin_has_a_mean(client: Client, log: str) -> None:
    lines = client.score(log, windows="lines", begin="begin").windows
    assert lines
    assert all(line.bits_per_character is not None for line in lines)


@given(
    text=TEXTS,
    cuts=CUTS,
    windows=st.sampled_from([None, "lines", 16, 50]),
    begin=st.sampled_from(["nothing", "begin"]),
    end=st.sampled_from(["nothing", "line-feed"]),
)
@over_grpc
def test_a_stream_is_the_whole_text_however_it_is_cut(
    client: Client, *, text: str, cuts: list[int], windows: Any, begin: Any, end: Any
) -> None:
    options = {**DETAILS, "windows": windows, "begin": begin, "end": end}
    whole = client.score(text, **options)
    with client.score_stream(parts(text, cuts), **options) as stream:
        progresses = list(stream)
    assert stream.finished
    assert collected(progresses, stream.finished) == whole
    if windows:
        assert math.fsum(window.sum_log_probability for window in whole.windows) == whole.sum_log_probability
        assert sum(window.character_count for window in whole.windows) == len(whole.text)


@given(text=TEXTS, interval=st.integers(1, 40), breaks=st.lists(st.integers(0, 5), max_size=4), size=st.integers(1, 12))
@over_grpc
def test_it_goes_on_from_tickets_as_if_it_had_not_broken(
    client: Client, text: str, interval: int, breaks: list[int], size: int
) -> None:
    """Each call is given up behind so many messages, as if the connection had been lost."""
    options = {**DETAILS, "windows": 16, "end": "line-feed", "return_ticket": True}
    whole = client.score(text, **options)
    settings = score_request.text_settings(**options)
    scoring = StreamScoring(settings, piece_characters=size, resume_interval=interval)
    stream = ScoreStream([text], scoring, client._connection, client._connection.retry_state(None))
    left = iter(breaks)
    receive, until_break = scoring.receive, next(left, None)

    def receive_or_break(message: Any) -> Any:
        nonlocal until_break
        if until_break == 0:
            until_break = next(left, None)
            raise ServerUnavailable("broken", was_reached=True)
        until_break = None if until_break is None else until_break - 1
        return receive(message)

    scoring.receive = receive_or_break  # type: ignore[method-assign]
    progresses = list(stream)
    assert stream.finished
    found = collected(progresses, stream.finished)
    assert without_details(found)[:4] == without_details(whole)[:4]
    assert found.windows == whole.windows
    assert found.log_probabilities == whole.log_probabilities
    assert found.ranks == whole.ranks
    assert found.alternatives == whole.alternatives
    assert found.text == whole.text


def test_a_long_text_is_scored_as_its_parts_are(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_request, "CHARACTERS_PER_CALL", 10_000)
    text = TEXT * 400
    whole = client.score(text, return_ticket=True, windows="lines")
    some = Score()
    ticket = None
    for at in range(0, len(text), len(TEXT) * 90):
        part = client.score(text[at : at + len(TEXT) * 90], ticket=ticket, return_ticket=True, windows="lines")
        some, ticket = some + part, part.ticket
    assert without_details(some)[:4] == without_details(whole)[:4]
    assert some.windows == whole.windows


def test_each_is_many(client: Client) -> None:
    texts = [TEXT[: number % 90] for number in range(3000)]
    many = client.score_many(texts, end="line-feed")
    assert list(client.score_each(iter(texts), end="line-feed")) == many
    assert many[77] == client.score(texts[77], end="line-feed")


@pytest.mark.parametrize("victim", ["first", "both"])
def test_a_killed_server_is_taken_over_in_the_midst_of_a_stream(start_server: Any, victim: str) -> None:
    text = TEXT * 1000
    with start_server() as one, start_server() as other, Client([one.address, other.address]) as client:
        whole = client.score(text, windows=100, end="line-feed")

        def pieces() -> Iterator[str]:
            for at in range(0, len(text), 2_000):
                if at == 30_000:
                    one.process.kill()
                if at == 60_000 and victim == "both":
                    other.process.kill()
                yield text[at : at + 2_000]

        with (
            start_server() if victim == "both" else nullcontext(other) as last,
            Client([one.address, other.address, last.address]) as lucky,
        ):
            scoring = StreamScoring(
                score_request.text_settings(windows=100, end="line-feed"),
                piece_characters=2_000,
                resume_interval=10_000,
            )
            stream = ScoreStream(pieces(), scoring, lucky._connection, lucky._connection.retry_state(None))
            progresses = list(stream)
    assert stream.finished
    found = collected(progresses, stream.finished)
    assert without_details(found) == without_details(whole)
    assert found.windows == whole.windows
    assert one.process.poll() is not None


async def test_what_is_wrong_in_the_midst_of_a_stream_is_told(server: Any, client: Client) -> None:
    """However many messages were on their way when the server found it."""
    text = TEXT * 500 + "€" + TEXT * 900
    position = len(text.replace("\r\n", "\n").partition("€")[0])
    expected = f"position {position} "
    async with AsyncClient(server.address) as async_client:
        for attempt in range(5):
            with pytest.raises(InvalidRequest, match=expected):
                async for _ in async_client.score_stream([text], unknown="refuse", resume=attempt % 2 == 0):
                    pass
            with pytest.raises(InvalidRequest, match="ticket"):
                async for _ in async_client.score_stream([text], ticket=b"no such"):
                    pass
    with pytest.raises(InvalidRequest, match=expected):
        await asyncio.to_thread(lambda: list(client.score_stream([text], unknown="refuse")))


@pytest.mark.parametrize("resume", [True, False])
def test_a_server_that_stops_hands_the_stream_over(start_server: Any, *, resume: bool) -> None:
    text = TEXT * 800
    with start_server("--drain-grace", "0.1") as one, start_server() as other:

        def pieces() -> Iterator[str]:
            for at in range(0, len(text), 10_000):
                if at == 60_000:
                    one.process.terminate()
                yield text[at : at + 10_000]

        with Client(other.address) as client:
            whole = client.score(text)
        with Client([one.address, other.address]) as client:
            stream, seen = client.score_stream(pieces(), resume=resume), list[ScoreProgress]()
            with nullcontext() if resume else pytest.raises(ServerUnavailable, match="stopping"):
                seen.extend(stream)
            if resume:
                assert stream.finished
                assert stream.finished.sum_log_probability == whole.sum_log_probability
            else:
                last = seen[-1]
                rest = client.score(text[last.sent_count :], ticket=last.ticket)
                assert last.ticket
                assert last.total.sum_log_probability + rest.sum_log_probability == whole.sum_log_probability


def test_candidates_after_a_context(client: Client) -> None:
    ranking = client.score_candidates("The cats ", ["was", "were", "wer"], log_probabilities=True)
    for candidate in ranking.candidates:
        context = client.score("The cats ", begin="begin", return_ticket=True)
        apart = client.score(candidate.text, ticket=context.ticket)
        assert candidate.score.sum_log_probability == apart.sum_log_probability
        assert ranking.context.sum_log_probability == context.sum_log_probability
    weights = [math.exp(candidate.score.sum_log_probability) for candidate in ranking.candidates]
    for candidate, weight in zip(ranking.candidates, weights, strict=True):
        assert candidate.probability == pytest.approx(weight / sum(weights))


def test_kenlms_surface(client: Client) -> None:
    model, text = LanguageModel(client), "The cat € ate"
    logs = client.score(f"{text}\n", begin="begin", log_probabilities=True).log_probabilities
    assert len(logs) == len(text) + 1
    assert model.score(text) == pytest.approx(sum(logs) / math.log(10))
    assert model.score(f"{text}\n") == model.score(text)
    assert model.score(text, eos=False) == pytest.approx(sum(logs[:-1]) / math.log(10))
    without_begin = client.score(text, log_probabilities=True).log_probabilities
    assert model.score(text, bos=False, eos=False) == pytest.approx(sum(without_begin) / math.log(10))
    assert model.perplexity(text) == pytest.approx(10 ** (-model.score(text) / (len(text) + 1)))
    full = list(model.full_scores(text))
    assert [each.log_probability for each in full] == [log / math.log(10) for log in logs]
    assert [each.ngram_length for each in full] == list(range(2, len(text) + 3))
    assert [each.oov for each in full] == [character == "€" for character in f"{text}\n"]
    assert len(list(model.full_scores(text, bos=False, eos=False))) == len(text) - 1
    assert "a" in model
    assert "€" not in model


def test_states_are_values(client: Client) -> None:
    model = LanguageModel(client)
    begin = model.begin_state()
    one, behind_the = model.score_next(begin, "The")
    two, behind_cat = model.score_next(behind_the, " cat")
    three, behind_dog = model.score_next(behind_the, " dog")
    assert one + two == pytest.approx(model.score("The cat", eos=False))
    assert one + three == pytest.approx(model.score("The dog", eos=False))
    assert begin == model.begin_state()
    assert len({begin, behind_the, behind_cat, behind_dog}) == 4
    assert model.score_next(behind_the, "") == (0.0, behind_the)
    assert model.score_next(begin, "") == (0.0, begin)
    nothing, behind_t = model.score_next(model.null_state(), "T")
    assert nothing == 0.0
    rest, _ = model.score_next(behind_t, "he cat")
    assert rest == pytest.approx(model.score("The cat", bos=False, eos=False))
    end, _ = model.score_next(behind_cat, "\n")
    assert one + two + end == pytest.approx(model.score("The cat"))


def test_a_model_of_documents_knows_the_end(
    start_server: Any, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "lines", make_checkpoint(1, 16, 3, documents="lines"))
    export_checkpoint(tmp_path / "lines", tmp_path / "models", "lines")
    with start_server(models=tmp_path / "models") as server, Client(server.address) as client:
        model = LanguageModel(client, "lines")
        assert model.score("The cat") * math.log(10) == pytest.approx(client.score("The cat\n").sum_log_probability)
        with pytest.raises(InvalidRequest, match="begin"):
            model.score("The cat", bos=False)
        with client.score_stream(["The ", "cat\n"]) as stream:
            assert list(stream)
        assert stream.finished
        assert stream.finished.sum_log_probability == client.score("The cat\n").sum_log_probability
