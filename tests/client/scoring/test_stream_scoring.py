"""A text scored as it comes, without any I/O: whatever its pieces, whenever a call breaks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from segue.v1 import scoring_pb2 as pb
from segue_client import InvalidRequest, NotExact, Score, ServerFault
from segue_client.messages.events import continuation_from
from segue_client.messages.policies import policies_from
from segue_client.messages.score import score_from
from segue_client.messages.score_request import ScoreSettings, score_request
from segue_client.protocol.score_stream import ScoreProgress, Step, StreamScoring, collected

CHARACTERS = "abc ,Z?\r\n\ufeffé\u0301"
TEXTS = st.text(CHARACTERS, max_size=80)
CUTS = st.lists(st.integers(0, 80), max_size=8)
WINDOWS = st.sampled_from([None, "lines", 1, 2, 3, 7, 16, 100])
DETAILS = {"log_probabilities": True, "ranks": True, "top_alternatives": 3, "return_texts": True}


def parts(text: str, cuts: Iterable[int]) -> list[str]:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[one:other] for one, other in pairwise(places)]


@dataclass
class Driven:
    """A scoring, driven against the toy, whose calls break behind so many messages each."""

    scoring: StreamScoring
    toys: Any
    breaks: list[int] = field(default_factory=list)
    normalization: str = "line-feeds"
    hosts: list[str] = field(default_factory=list)
    starts: list[pb.ScoreStreamStart] = field(default_factory=list)
    sent: list[list[str]] = field(default_factory=list)
    most_unanswered: int = 0
    most_kept: int = 0

    def read(self, pieces: Iterable[str]) -> list[ScoreProgress]:
        return list(self.iterate(iter(pieces)))

    def iterate(self, pieces: Iterator[str]) -> Iterator[ScoreProgress]:
        scoring, answers = self.scoring, list[pb.ScoreStreamResponse]()
        stream, left = None, 0
        while (step := scoring.next_step()) is not Step.DONE:
            self.most_kept = max(self.most_kept, scoring._buffer.unconfirmed_count)
            match step:
                case Step.PULL:
                    self._pull(pieces)
                case Step.OPEN:
                    left = self.breaks[len(self.starts)] if len(self.starts) < len(self.breaks) else 10**9
                    self.starts.append(scoring.start().start)
                    self.sent.append([])
                    host = self.hosts[len(self.starts) - 1] if self.hosts else "c0"
                    stream = self.toys.stream(self.starts[-1], self.normalization, host)
                    answers = [stream.started()]
                case Step.SEND:
                    self.sent[-1].append(scoring.send().text)
                    answers.append(stream.progress(self.sent[-1][-1]))
                    self.most_unanswered = max(self.most_unanswered, len(answers))
                case Step.CLOSE:
                    scoring.close()
                    answers.append(stream.finished())
                case Step.RECEIVE:
                    if left == 0:
                        scoring.restart()
                        answers = []
                        continue
                    left -= 1
                    if progress := scoring.receive(answers.pop(0)):
                        yield progress

    def _pull(self, pieces: Iterator[str]) -> None:
        try:
            self.scoring.add(next(pieces))
        except StopIteration:
            self.scoring.end()
        except LookupError as error:
            self.scoring.fail(error)


def whole_score(toys: Any, text: str, **options: Any) -> Score:
    """What one call says of the text."""
    response = toys.scores(score_request([text], ScoreSettings(**options)))
    policies, continuation = policies_from(response.policies), continuation_from(response.continuation)
    return score_from(response.scores[0], policies, continuation)


OPTIONS = st.fixed_dictionaries(
    {"windows": WINDOWS, "begin": st.sampled_from([None, "begin"]), "end": st.sampled_from(["nothing", "line-feed"])}
)


@given(
    text=TEXTS,
    cuts=CUTS,
    options=OPTIONS,
    breaks=st.lists(st.integers(0, 6), max_size=5),
    size=st.integers(1, 12),
    interval=st.integers(1, 20),
    joins=st.booleans(),
    ticket=st.sampled_from([None, b"5:a"]),
    details=st.booleans(),
)
def test_however_it_is_cut_and_broken_a_stream_is_the_whole_text(
    toys: Any,
    *,
    text: str,
    cuts: list[int],
    options: dict[str, Any],
    breaks: list[int],
    size: int,
    interval: int,
    joins: bool,
    ticket: bytes | None,
    details: bool,
) -> None:
    if details:
        options = {**options, **DETAILS}
    settings = ScoreSettings(**options, ticket=ticket, return_tickets=True)
    scoring = StreamScoring(settings, joins=joins, piece_characters=size, resume_interval=interval)
    driven = Driven(scoring, toys, breaks)
    progresses = driven.read(parts(text, cuts))
    whole = whole_score(toys, text, **options, ticket=ticket, return_tickets=True)
    assert scoring.finished
    assert collected(progresses, scoring.finished) == whole
    assert Score.merge(progress.latest for progress in progresses).sum_log_probability == whole.sum_log_probability
    total = Score()
    for progress in progresses:
        total += progress.latest
        assert (total.sum_log_probability, total.scored_count, total.unknown_count) == (
            progress.total.sum_log_probability,
            progress.total.scored_count,
            progress.total.unknown_count,
        )
    assert progresses[-1].sent_count == len(text)
    assert progresses[-1].total == scoring.finished == scoring.total
    assert driven.most_unanswered <= (4 if joins else 1)
    assert driven.most_kept <= interval + 6 * size
    assert len(driven.starts) <= len(breaks) + 1


@given(text=TEXTS, cuts=CUTS, breaks=st.lists(st.integers(0, 6), max_size=5), size=st.integers(1, 12))
@pytest.mark.parametrize("normalization", ["letters", "nfc"])
def test_so_it_is_whatever_the_normalization(
    toys: Any, normalization: str, *, text: str, cuts: list[int], breaks: list[int], size: int
) -> None:
    def read(breaks: list[int], cuts: list[int], size: int) -> Score:
        settings = ScoreSettings(**DETAILS, windows=5)
        scoring = StreamScoring(settings, piece_characters=size, resume_interval=7)
        progresses = Driven(scoring, toys, breaks, normalization).read(parts(text, cuts))
        assert scoring.finished
        return collected(progresses, scoring.finished)

    assert read(breaks, cuts, size) == read([], [], 1000)


@given(text=TEXTS.filter(bool), cuts=CUTS, wanted=st.integers(1, 60), own=st.integers(1, 60), breaks=CUTS)
def test_the_callers_tickets_stand_where_the_progress_says(
    toys: Any, *, text: str, cuts: list[int], wanted: int, own: int, breaks: list[int]
) -> None:
    scoring = StreamScoring(ScoreSettings(), ticket_interval=wanted, piece_characters=4, resume_interval=own)
    whole = whole_score(toys, text)
    last = 0
    for progress in Driven(scoring, toys, breaks).read(parts(text, cuts)):
        if progress.ticket:
            assert progress.latest.ticket == progress.ticket
            assert progress.sent_count >= last + wanted
            last = progress.sent_count
            rest = whole_score(toys, text[progress.sent_count :], ticket=progress.ticket)
            # A byte order mark is dropped where a text begins; a stream knows that it goes on.
            if not text[progress.sent_count :].startswith("\ufeff"):
                assert progress.total.sum_log_probability + rest.sum_log_probability == whole.sum_log_probability
    if len(text) >= 2 * (wanted + own) + 8 and not breaks:
        assert last


def test_small_pieces_are_answered_one_by_one_where_they_are_not_joined(toys: Any) -> None:
    pulled = 0

    def pieces() -> Iterator[str]:
        nonlocal pulled
        for piece in ("ab", "c", "d"):
            pulled += 1
            yield piece

    scoring = StreamScoring(ScoreSettings(), joins=False)
    for count, progress in enumerate(Driven(scoring, toys).iterate(pieces()), start=1):
        assert progress.sent_count == len("abcd"[: count + 1])
        assert pulled == min(count, 3)


def test_what_comes_before_an_error_of_the_text_is_scored(toys: Any) -> None:
    def pieces() -> Iterator[str]:
        yield "abc"
        raise LookupError("no more")

    driven, seen = Driven(StreamScoring(ScoreSettings()), toys, breaks=[1]), list[ScoreProgress]()
    with pytest.raises(LookupError):
        seen.extend(driven.iterate(pieces()))
    assert [progress.total.sum_log_probability for progress in seen] == [toys.sum("abc")]
    assert driven.scoring.finished is None
    assert len(driven.starts) == 2


def test_half_a_character_fails_the_text_behind_what_came_before(toys: Any) -> None:
    seen = list[ScoreProgress]()
    with pytest.raises(InvalidRequest, match="surrogate"):
        seen.extend(Driven(StreamScoring(ScoreSettings()), toys).iterate(iter(["abc", "\ud800"])))
    assert [progress.sent_count for progress in seen] == [3]


def test_a_session_is_not_resumed_and_nothing_of_it_is_kept(toys: Any) -> None:
    scoring = StreamScoring(ScoreSettings(session="s"), piece_characters=2)
    driven = Driven(scoring, toys)
    driven.read(["abcdefghijklmnopqrst"])
    assert not scoring.resumes
    assert not scoring.can_restart
    assert driven.starts[0].ticket_interval == 0
    assert driven.most_kept == 0
    assert driven.most_unanswered == 1
    assert driven.starts[0].start.session.request_key


def test_before_the_server_has_taken_the_call_even_that_can_begin_again(toys: Any) -> None:
    scoring = StreamScoring(ScoreSettings(session="s"), piece_characters=2)
    assert Driven(scoring, toys, breaks=[0, 0]).read(["abcdefg"])[-1].total.scored_count == 6


def test_a_server_that_stops_gives_a_ticket_to_a_caller_who_goes_on_by_himself(toys: Any) -> None:
    scoring = StreamScoring(ScoreSettings(), resume=False)
    stream = toys.stream(scoring.start().start)
    scoring.receive(stream.started())
    scoring.add("abc")
    scoring.fail(LookupError())
    scoring.receive(stream.progress(scoring.send().text))
    progress = scoring.receive(stream.progress("", stopping=True))
    assert progress
    assert (progress.ticket, progress.sent_count) == (b"3:c", 3)


def _started(toys: Any, host: str = "c0") -> pb.ScoreStreamResponse:
    response: pb.ScoreStreamResponse = toys.stream(pb.ScoreStreamStart(), host=host).started()
    return response


def _progress(**fields: Any) -> pb.ScoreStreamResponse:
    total = {name: fields.pop(name) for name in ("scored_count", "log_probabilities", "ticket") if name in fields}
    return pb.ScoreStreamResponse(progress=pb.ScoreStreamProgress(total=pb.TextScore(**total), **fields))


@pytest.mark.parametrize(
    "messages",
    [
        [None],
        [pb.ScoreStreamResponse()],
        [_progress()],
        ["started", "started"],
        ["started", _progress(sent_count=4)],
        ["started", _progress(scored_count=2, log_probabilities=[-1.0])],
        ["started", _progress(sent_count=2, ticket=b"2:b"), _progress(sent_count=1, ticket=b"1:a")],
        ["started", pb.ScoreStreamResponse(finished=pb.ScoreStreamFinished())],
        ["started", pb.ScoreStreamResponse()],
        ["started", None],
        [pb.ScoreStreamResponse(started=pb.ScoreStreamStarted(model="toy"))],
    ],
)
def test_a_server_against_the_contract_is_at_fault(toys: Any, messages: list[Any]) -> None:
    scoring = StreamScoring(ScoreSettings())
    scoring.start()
    scoring.add("abc")
    scoring.fail(LookupError())
    scoring.send()
    with pytest.raises(ServerFault):
        for message in messages:
            scoring.receive(_started(toys) if message == "started" else message)


def test_a_server_that_gives_no_tickets_does_not_fill_the_memory(toys: Any) -> None:
    scoring = StreamScoring(ScoreSettings(), piece_characters=10, resume_interval=50)
    scoring.start()
    scoring.receive(_started(toys))
    with pytest.raises(ServerFault, match="no ticket"):
        for _ in range(100):
            scoring.add("0123456789")
            sent = scoring.send()
            scoring.receive(_progress(sent_count=0))
            assert sent.text


def test_another_kind_of_host_does_not_go_on_unless_it_may(toys: Any) -> None:
    for exact, expected in ((True, pytest.raises(NotExact, match="exact=False")), (False, None)):
        scoring = StreamScoring(ScoreSettings(exact=exact))
        scoring.start()
        scoring.receive(_started(toys))
        scoring.restart()
        again = scoring.start().start
        assert (again.model.name, again.model.version) == ("toy", 3)
        if expected:
            with expected:
                scoring.receive(_started(toys, "c1"))
        else:
            assert scoring.receive(_started(toys, "c1")) is None
            assert not again.start.exact


def test_a_whole_that_another_host_has_gone_on_with_is_not_exact(toys: Any) -> None:
    scoring = StreamScoring(ScoreSettings(exact=False), piece_characters=2, resume_interval=1)
    driven = Driven(scoring, toys, breaks=[2], hosts=["c0", "c1"])
    driven.read(["abcdef"])
    assert scoring.finished
    assert scoring.finished.continuation
    assert (scoring.finished.continuation.exact, scoring.finished.continuation.host_class) == (False, "c0")


@pytest.mark.parametrize("text", ["ab\n", "ab\r", "ab\r\n", "ab"])
def test_a_text_that_ends_with_its_line_feed_gets_no_other_after_a_break(toys: Any, text: str) -> None:
    """Though the call that ends it has nothing else to read, because all is behind the ticket."""
    scoring = StreamScoring(ScoreSettings(end="line-feed"), piece_characters=100, resume_interval=1)
    driven = Driven(scoring, toys, breaks=[2])
    driven.read([text])
    assert len(driven.starts) == 2
    assert driven.starts[1].start.ticket
    assert scoring.finished
    assert scoring.finished.sum_log_probability == toys.sum("ab\n")


def test_less_text_than_before_the_break_is_a_fault(toys: Any) -> None:
    scoring = StreamScoring(ScoreSettings())
    driven = Driven(scoring, toys, breaks=[2])
    iterator = driven.iterate(iter(["abcdef"]))
    assert next(iterator).total.scored_count == 5
    scoring.end()
    scoring.restart()
    stream = toys.stream(scoring.start().start)
    scoring.receive(stream.started())
    scoring.send()
    assert scoring.receive(stream.progress("abc")) is None
    scoring.close()
    with pytest.raises(ServerFault, match="less of the text"):
        scoring.receive(stream.finished())
