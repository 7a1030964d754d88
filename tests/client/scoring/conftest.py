"""A toy model behind the scoring service, which keeps all that the contract says; and both clients before it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import grpc
import pytest
from segue.v1 import alternatives_pb2, common_pb2
from segue.v1 import scoring_pb2 as pb
from segue_client import AsyncClient, Client
from segue_training.text.normalization import Normalizer

UNIT = 2.0**-24
KNOWN = set("abcdefghijklmnopqrstuvwxyzABC .,\n")


def units(one: str, other: str) -> int:
    """How surprising `other` is after `one`, in units."""
    return (ord(one) * 7919 + ord(other) * 104_729) % 2**27


class ToyReading:
    """Scores one text, that may come in pieces, by pairs of characters."""

    def __init__(self, asked: Any, *, text: bool, normalization: str = "line-feeds", begins: bool = False) -> None:
        """`asked`: a ScoreRequest or the like; `text`: whether the text is asked for; `begins`: see BeginPolicy."""
        position, _, self._last = asked.start.ticket.decode().partition(":")
        self.position = int(position or 0)
        self._normalizer = Normalizer(normalization, begins=not self._last, after=self._last)
        unspecified = pb.BEGIN_POLICY_BEGIN if begins else pb.BEGIN_POLICY_NOTHING
        self.policies = pb.ScoringPolicies(
            unknown=asked.policies.unknown or common_pb2.UNKNOWN_POLICY_REPLACE,
            begin=asked.policies.begin or unspecified,
            end=asked.policies.end or pb.END_POLICY_NOTHING,
        )
        if not self._last and self.policies.begin == pb.BEGIN_POLICY_BEGIN:
            self._last, self.position = "\n", 1
        self._asked, self._text = asked, text
        self._ends = ""
        self._units = self._scored = self._unknown = 0
        self._news = pb.TextScore()
        self._window: list[tuple[int, int, int]] = []
        self._first = 0
        self._before = asked.windows.before if hasattr(asked, "windows") else 0

    @property
    def held_count(self) -> int:
        return self._normalizer.held_count

    @property
    def ticket(self) -> bytes:
        return f"{self.position}:{self._last}".encode() if self._last else b""

    def feed(self, piece: str) -> None:
        for character in self._normalizer.feed(piece):
            self._read(character)

    def end(self) -> None:
        for character in self._normalizer.end():
            self._read(character)
        if self.policies.end == pb.END_POLICY_LINE_FEED and self._ends != "\n":
            self._read("\n")
        if self._window:
            self._close_window()

    def message(self, *, ticket: bool) -> pb.TextScore:
        score, self._news = self._news, pb.TextScore()
        score.sum_log_probability = -self._units * UNIT
        score.scored_count, score.unknown_count, score.position = self._scored, self._unknown, self.position
        score.ticket = self.ticket if ticket else b""
        return score

    def _read(self, character: str) -> None:
        scored = units(self._last, character) if self._last else None
        unknown = character not in KNOWN
        self._last = self._ends = character
        self.position += 1
        self._unknown += unknown
        if self._text:
            self._news.text += character
        if scored is not None:
            self._units += scored
            self._scored += 1
            self._tell(character, scored)
        self._window.append((scored or 0, int(scored is not None), int(unknown)))
        of = self._asked.windows.WhichOneof("of") if hasattr(self._asked, "windows") else None
        if (of == "lines" and character == "\n") or (
            of == "characters" and len(self._window) + self._before == self._asked.windows.characters
        ):
            self._close_window()
        if of is None:
            self._window.clear()

    def _tell(self, character: str, scored: int) -> None:
        if self._asked.log_probabilities:
            self._news.log_probabilities.append(-scored * UNIT)
        if getattr(self._asked, "ranks", False):
            self._news.ranks.append(1 + ord(character) % 7)
        if count := getattr(self._asked, "top_alternatives", 0):
            likeliest = alternatives_pb2.Alternatives(characters=(character + "etaoinshr")[:count])
            likeliest.log_probabilities.extend([-scored * UNIT - rank for rank in range(count)])
            self._news.alternatives.append(likeliest)

    def _close_window(self) -> None:
        surprisals, scored, unknown = (sum(values) for values in zip(*self._window, strict=True))
        self._news.windows.add(
            first=self._first,
            character_count=len(self._window),
            sum_log_probability=-surprisals * UNIT,
            scored_count=scored,
            unknown_count=unknown,
        )
        self._first += len(self._window)
        self._window, self._before = [], 0


def continuation(asked: Any, host: str = "c0") -> common_pb2.Continuation:
    """From where, and how exactly: another host goes on only roughly."""
    position = int(asked.start.ticket.decode().partition(":")[0] or 0)
    exact = host == "c0" or not position
    return common_pb2.Continuation(exact=exact, sha256="ab" * 32, host_class=host, position=position)


def toy_scores(request: pb.ScoreRequest) -> pb.ScoreResponse:
    """What a server says to the request."""
    response = pb.ScoreResponse(continuation=continuation(request))
    for text in request.texts:
        reading = ToyReading(request, text=request.return_texts)
        reading.feed(text)
        reading.end()
        response.scores.append(reading.message(ticket=request.return_tickets))
        response.policies.CopyFrom(reading.policies)
    return response


def toy_candidates(request: pb.ScoreCandidatesRequest) -> pb.ScoreCandidatesResponse:
    """The same; the probabilities are made up."""
    context = ToyReading(request, text=False, begins=True)
    context.feed(request.context)
    response = pb.ScoreCandidatesResponse(
        context=context.message(ticket=request.return_tickets), continuation=continuation(request)
    )
    response.policies.CopyFrom(context.policies)
    for index, candidate in enumerate(request.candidates):
        following = pb.ScoreCandidatesRequest()
        following.CopyFrom(request)
        following.start.ticket = context.ticket
        reading = ToyReading(following, text=False)
        reading.feed(candidate)
        reading.end()
        score = reading.message(ticket=request.return_tickets)
        response.candidates.add(index=index, score=score, probability=1 / len(request.candidates))

    def key(candidate: pb.CandidateScore) -> float:
        mean = request.ranking == pb.CANDIDATE_RANKING_MEAN
        return -candidate.score.sum_log_probability / (max(1, candidate.score.scored_count) if mean else 1)

    ranked = sorted(response.candidates, key=key)
    del response.candidates[:]
    response.candidates.extend(ranked)
    return response


class ToyStream:
    """One call of ScoreStream: is given messages, and returns what a server sends to each."""

    def __init__(self, start: pb.ScoreStreamStart, normalization: str = "line-feeds", host: str = "c0") -> None:
        self.reading = ToyReading(start, text=start.return_text, normalization=normalization)
        self._start = start
        self._host = host
        self._sent = self._ticket_at = 0

    def started(self) -> pb.ScoreStreamResponse:
        started = pb.ScoreStreamStarted(
            model="toy",
            version=3,
            policies=self.reading.policies,
            continuation=continuation(self._start, self._host),
        )
        return pb.ScoreStreamResponse(started=started)

    def progress(self, piece: str, *, stopping: bool = False) -> pb.ScoreStreamResponse:
        self.reading.feed(piece)
        self._sent += len(piece)
        behind = self._sent - self.reading.held_count
        interval = self._start.ticket_interval
        due = stopping or bool(interval and behind >= self._ticket_at + interval)
        if due and self.reading.ticket:
            self._ticket_at = behind
        total = self.reading.message(ticket=due)
        return pb.ScoreStreamResponse(progress=pb.ScoreStreamProgress(total=total, sent_count=behind))

    def finished(self) -> pb.ScoreStreamResponse:
        self.reading.end()
        total = self.reading.message(ticket=self._start.return_ticket)
        return pb.ScoreStreamResponse(finished=pb.ScoreStreamFinished(total=total))


class Breaks(Exception):  # noqa: N818 - named after what happens
    """Ends a call as a lost connection does."""


@dataclass
class ToyServer:
    """What the peer of a test says to every scoring call."""

    peer: Any
    breaks: list[int] = field(default_factory=list)
    """For each call of ScoreStream behind how many of its messages it breaks; calls behind these do not."""
    stopping: bool = False
    """Whether a break is that of a server that stops: with a ticket."""
    hosts: list[str] = field(default_factory=list)
    """The class of the host for each call, where it is not the usual one."""
    normalization: str = "line-feeds"
    starts: list[pb.ScoreStreamStart] = field(default_factory=list)
    pieces: list[list[str]] = field(default_factory=list)
    """Those of each call."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when a call of ScoreStream is over."""

    def score_stream(self, requests: Iterator[pb.ScoreStreamRequest]) -> Iterator[pb.ScoreStreamResponse]:
        call = len(self.starts)
        left = self.breaks[call] if call < len(self.breaks) else None
        start = next(requests).start
        self.starts.append(start)
        self.pieces.append([])
        stream = ToyStream(start, self.normalization, self.hosts[call] if call < len(self.hosts) else "c0")
        messages = self._messages(stream, requests, self.pieces[-1])
        if left is None:
            yield from messages
        yield from islice(messages, left)
        if self.stopping and self.pieces[-1]:
            yield stream.progress("", stopping=True)
        if left is not None:
            raise Breaks

    def _messages(
        self, stream: ToyStream, requests: Iterator[pb.ScoreStreamRequest], pieces: list[str]
    ) -> Iterator[pb.ScoreStreamResponse]:
        yield stream.started()
        for request in requests:
            pieces.append(request.text)
            yield stream.progress(request.text)
        yield stream.finished()


@pytest.fixture
def toy(peer: Any) -> ToyServer:
    """The toy model, behind the peer's address."""
    server = ToyServer(peer)

    def score_stream(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(server.over.set)
        try:
            yield from server.score_stream(requests)
        except Breaks:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    peer.score = toy_scores
    peer.score_candidates = toy_candidates
    peer.score_stream = score_stream
    return server


class SyncScoring:
    """The synchronous client, called from another thread."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, method), *arguments, **options)

    async def each(self, method: str, *arguments: Any, **options: Any) -> tuple[list[Any], Any]:
        """Return what an iterator brings, and itself."""

        def listen() -> tuple[list[Any], Any]:
            iterator = getattr(self.client, method)(*arguments, **options)
            return list(iterator), iterator

        return await asyncio.to_thread(listen)

    async def into(self, found: list[Any], method: str, *arguments: Any, **options: Any) -> None:
        """Put what an iterator brings into `found`, and raise what it raises."""

        def listen() -> None:
            for each in getattr(self.client, method)(*arguments, **options):
                found.append(each)  # noqa: PERF402 - an error comes behind what is before it

        await asyncio.to_thread(listen)


class AsyncScoring:
    """The asynchronous client."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(self.client, method)(*arguments, **options)

    async def each(self, method: str, *arguments: Any, **options: Any) -> tuple[list[Any], Any]:
        iterator = getattr(self.client, method)(*arguments, **options)
        return [each async for each in iterator], iterator

    async def into(self, found: list[Any], method: str, *arguments: Any, **options: Any) -> None:
        async for each in getattr(self.client, method)(*arguments, **options):
            found.append(each)  # noqa: PERF401 - an error comes behind what is before it


@pytest.fixture(params=["sync", "async"])
async def scoring(peer: Any, toy: ToyServer, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Either client, connected to the toy."""
    del toy
    if request.param == "sync":
        with Client(peer.address) as client:
            yield SyncScoring(client)
    else:
        async with AsyncClient(peer.address) as async_client:
            yield AsyncScoring(async_client)


@dataclass(frozen=True)
class Toy:
    """What tests compute the toy's answers with."""

    unit: float = UNIT
    units: Callable[[str, str], int] = units
    scores: Callable[[pb.ScoreRequest], pb.ScoreResponse] = toy_scores
    stream: Callable[..., ToyStream] = ToyStream

    @staticmethod
    def sum(text: str) -> float:
        """The sum of a normalized text from the zero state."""
        return -sum(units(one, other) for one, other in pairwise(text)) * UNIT


@pytest.fixture(scope="session")
def toys() -> Toy:
    return Toy()


@pytest.fixture
def refusing(peer: Any, toy: Any, toys: Any) -> None:
    """Have the peer refuse texts as a server does."""
    del toy

    def score(request: Any) -> Any:
        for number, text in enumerate(request.texts):
            if (at := text.find("Ā")) >= 0:
                peer.abort(grpc.StatusCode.INVALID_ARGUMENT, f"texts[{number}]: character 'Ā' at position {at}")
        return toys.scores(request)

    peer.score = score
