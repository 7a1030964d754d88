"""Sessions through real gRPC, to real server processes, alone and as replicas that share a store."""

import asyncio
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from segue.v1 import (
    common_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    scoring_pb2,
    scoring_pb2_grpc,
    session_pb2_grpc,
)
from segue.v1 import generation_pb2 as pb
from segue.v1 import session_pb2 as spb

KINDS = ("characters", "bytes", "lines", "byte-lines", "gru")
SEED = 5


@dataclass(frozen=True)
class Text:
    """What one Generate brought."""

    text: str
    log_probabilities: tuple[float, ...]
    reason: int
    position: int
    ticket: bytes
    repeated: bool
    began_at: int

    @property
    def content(self) -> tuple[object, ...]:
        """All of it that a repetition brings again; a ticket is sealed anew each time."""
        return self.text, self.log_probabilities, self.reason, self.position


class Caller:
    """Calls a server, as one tenant, about one model."""

    def __init__(self, channel: grpc.Channel, model: str = "", tenant: str = "") -> None:
        self.metadata = [("segue-tenant", tenant)] if tenant else []
        self.channel = channel
        self.model = common_pb2.ModelReference(name=model)
        self._generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(channel)
        self._scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
        self._models = model_pb2_grpc.ModelServiceStub(channel)

    def stream(self, prompt: str = "", count: int = 20, **fields: object) -> Iterator[pb.GenerateResponse]:
        asked = pb.GenerateRequest(
            model=self.model, prompt=prompt, max_characters=count, log_probabilities=True, return_ticket=True, **fields
        )
        return self._generation.Generate(asked, metadata=self.metadata, timeout=300)

    def generate(self, start: common_pb2.Start, prompt: str = "", count: int = 20, **fields: object) -> Text:
        started, *texts, finished = self.stream(prompt, count, start=start, **fields)
        return Text(
            "".join(part.text.text for part in texts),
            tuple(p for part in texts for p in part.text.log_probabilities),
            finished.finished.reason,
            finished.finished.position,
            finished.finished.ticket,
            started.started.repeated,
            started.started.continuation.position,
        )

    def score(self, start: common_pb2.Start, *texts: str) -> scoring_pb2.ScoreResponse:
        request = scoring_pb2.ScoreRequest(
            model=self.model, start=start, texts=texts, log_probabilities=True, return_tickets=True
        )
        return self._scoring.Score(request, metadata=self.metadata, timeout=300)

    def score_stream(self, start: common_pb2.Start, pieces: Iterable[str]) -> Iterator[scoring_pb2.ScoreStreamResponse]:
        begin = scoring_pb2.ScoreStreamStart(model=self.model, start=start, return_ticket=True)
        requests = chain(
            [scoring_pb2.ScoreStreamRequest(start=begin)],
            (scoring_pb2.ScoreStreamRequest(text=piece) for piece in pieces),
        )
        return self._scoring.ScoreStream(requests, metadata=self.metadata, timeout=300)

    def candidates(self, start: common_pb2.Start, *candidates: str) -> list[tuple[int, float]]:
        request = scoring_pb2.ScoreCandidatesRequest(
            model=self.model, start=start, context="the", candidates=candidates
        )
        reply = self._scoring.ScoreCandidates(request, metadata=self.metadata, timeout=300)
        return [(each.index, each.score.sum_log_probability) for each in reply.candidates]

    def open(self, name: str = "", **fields: object) -> spb.Session:
        return self._call("Open", spb.OpenSessionRequest(model=self.model, name=name, **fields)).session

    def get(self, name: str, **fields: object) -> spb.GetSessionResponse:
        return self._call("Get", spb.GetSessionRequest(model=self.model, name=name, **fields))

    def fork(self, name: str, *names: str, **reference: object) -> list[spb.Session]:
        session = common_pb2.SessionReference(name=name, **reference)
        request = spb.ForkSessionRequest(model=self.model, session=session, names=names)
        return list(self._call("Fork", request).sessions)

    def rewind(self, name: str, characters: int, seed: int | None = None, **reference: object) -> spb.Session:
        session = common_pb2.SessionReference(name=name, **reference)
        request = spb.RewindSessionRequest(model=self.model, session=session, characters=characters, seed=seed)
        return self._call("Rewind", request).session

    def close(self, name: str, **reference: object) -> bytes:
        session = common_pb2.SessionReference(name=name, **reference)
        return self._call("Close", spb.CloseSessionRequest(model=self.model, session=session)).ticket

    def names(self, page_size: int = 0) -> list[str]:
        """All pages."""
        names, token = [], ""
        while True:
            page = self._call(
                "List", spb.ListSessionsRequest(model=self.model, page_size=page_size, page_token=token), "s"
            )
            names += [session.name for session in page.sessions]
            token = page.next_page_token
            if not token:
                return names

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 20
        while self._models.GetModel(model_pb2.GetModelRequest(model=self.model)).model.live_sequences:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _call(self, verb: str, request: object, plural: str = "") -> object:
        method = getattr(self._sessions, f"{verb}Session{plural}")
        return method(request, metadata=self.metadata, timeout=300)


def nothing() -> common_pb2.Start:
    return common_pb2.Start()


def ticket(sealed: bytes) -> common_pb2.Start:
    return common_pb2.Start(ticket=sealed)


def session(name: str, **reference: object) -> common_pb2.Start:
    return common_pb2.Start(session=common_pb2.SessionReference(name=name, **reference))


@contextmanager
def refused(code: grpc.StatusCode, reason: str, text: str = "") -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as refusal:
        yield
    assert refusal.value.code() is code, refusal.value
    assert text in refusal.value.details()
    status = status_pb2.Status.FromString(dict(refusal.value.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason == reason


NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION")
MOVED = (grpc.StatusCode.ABORTED, "SESSION_MOVED")
UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.fixture
def caller(channel: grpc.Channel) -> Caller:
    """Calls the shared server, as a tenant of its own."""
    return Caller(channel, tenant=uuid.uuid4().hex)


@pytest.fixture
def of_kind(kinds_channel: grpc.Channel) -> Callable[[str], Caller]:
    return lambda kind: Caller(kinds_channel, kind, uuid.uuid4().hex)


@contextmanager
def servers(start_server, tmp_path: Path, sessions: str, count: int = 2, **options) -> Iterator[list[Caller]]:
    """Several servers that share keys and a store."""
    if not count:
        yield []
        return
    with (
        start_server("--keys", str(tmp_path / "keys"), "--sessions", sessions, **options) as server,
        grpc.insecure_channel(server.address) as channel,
        servers(start_server, tmp_path, sessions, count - 1, **options) as others,
    ):
        yield [Caller(channel), *others]


def varied_calls(seed: int, *, documents: bool) -> list[dict[str, object]]:
    """Calls that a text could be written by, one after the other."""
    generator = random.Random(seed)
    letters = "etaoin shrdlu" + ("" if documents else "\n")
    return [
        {
            "prompt": "".join(generator.choices(letters, k=generator.choice([0, 0, 3, 40]))),
            "count": generator.choice([1, 5, 17, 60]),
            "sampling": pb.Sampling(**generator.choice([{}, {"temperature": 0.7, "top_k": 9}, {"min_p": 0.01}])),
            "stop": generator.choice([[], ["e"]]),
        }
        for _ in range(6)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rewind", [0, 30])
def test_a_session_is_a_chain_of_tickets_to_the_bit(of_kind, kind: str, rewind: int) -> None:
    caller = of_kind(kind)
    for seed in range(3):
        calls = varied_calls(seed, documents="lines" in kind)
        opened = caller.open(seed=seed, rewind_characters=rewind)
        assert (opened.position, opened.seed, opened.rewindable_count) == (0, seed, 0)
        start = nothing()
        for number, call in enumerate(calls):
            first = {"sampling": pb.Sampling(seed=seed)} if number == 0 else {}
            expected = caller.generate(start, **call | first)
            brought = caller.generate(session(opened.name), **call | ({"sampling": pb.Sampling()} if first else {}))
            assert brought.content == expected.content
            start = ticket(expected.ticket)
            held = caller.get(opened.name, return_ticket=True)
            assert held.session.position == expected.position
            after = [caller.generate(ticket(sealed)).content for sealed in (held.ticket, brought.ticket)]
            assert after == [caller.generate(start).content] * 2


def content(score: scoring_pb2.TextScore) -> tuple[object, ...]:
    return score.sum_log_probability, score.scored_count, tuple(score.log_probabilities), score.position


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_and_generating_in_a_session_is_a_chain_of_tickets_to_the_bit(of_kind, kind: str) -> None:
    caller, generator = of_kind(kind), random.Random(8)
    name, start = caller.open(seed=SEED, rewind_characters=20).name, nothing()
    for turn in range(12):
        text = "".join(generator.choices("etaoin shrdlu", k=generator.choice([1, 7, 300])))
        if turn % 3 == 2:
            first = {"sampling": pb.Sampling(seed=SEED)}
            expected = caller.generate(start, text, 10, **first)
            assert caller.generate(session(name), text, 10, **first).content == expected.content
        elif turn % 3 == 1:
            [expected] = caller.score(start, text).scores
            *_, last = caller.score_stream(session(name), [text[:3], text[3:]])
            total = last.finished.total
            assert total.sum_log_probability == expected.sum_log_probability
            assert (total.scored_count, total.position) == (expected.scored_count, expected.position)
        else:
            [expected] = caller.score(start, text).scores
            assert content(caller.score(session(name), text).scores[0]) == content(expected)
        start = ticket(expected.ticket)
        assert caller.get(name).session.position == expected.position


def test_a_session_that_scores_is_repeated_rewound_and_left_alone_like_one_that_writes(caller: Caller) -> None:
    text = "the cat that the dog had seen was there"
    caller.open("mine", seed=SEED, rewind_characters=len(text))
    start = session("mine", position=0, request_key="k")
    first = caller.score(start, text)
    again = caller.score(start, text)
    assert (first.repeated, again.repeated) == (False, True)
    assert content(again.scores[0]) == content(first.scores[0])
    with refused(*INVALID, "request_key"):
        caller.score(start, text + "!")
    with refused(*INVALID, "one text"):
        caller.score(session("mine"), "a", "b")
    with refused(*MOVED):
        caller.score(session("mine", position=0), "a")

    def piece_by_piece() -> Iterator[str]:
        yield "and "
        raise RuntimeError  # the client goes away

    with pytest.raises(grpc.RpcError):
        list(caller.score_stream(session("mine"), piece_by_piece()))
    caller.wait_until_idle()
    expected = caller.candidates(ticket(first.scores[0].ticket), "a", "bb", "ccc")
    assert caller.candidates(session("mine"), "a", "bb", "ccc") == expected
    assert caller.get("mine").session.position == len(text)

    for back in range(1, len(text)):
        [copy] = caller.fork("mine", "")
        caller.rewind(copy.name, back, SEED)
        expected = caller.generate(nothing(), text[: len(text) - back], sampling=pb.Sampling(seed=SEED))
        assert caller.generate(session(copy.name)).content == expected.content
    *_, last = caller.score_stream(session("mine"), [" and", " more"])
    assert last.finished.total.position == len(text) + 9 == caller.get("mine").session.position


async def test_a_stream_that_its_client_gives_up_leaves_the_session(server) -> None:
    """To the server it looks as if the text had ended, one time in some forty."""
    generator = random.Random(0)
    async with grpc.aio.insecure_channel(server.address) as channel:
        name = uuid.uuid4().hex
        sessions = session_pb2_grpc.SessionServiceStub(channel)
        await sessions.OpenSession(spb.OpenSessionRequest(name=name))
        for _ in range(400):
            stream = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()
            await stream.write(scoring_pb2.ScoreStreamRequest(start=scoring_pb2.ScoreStreamStart(start=session(name))))
            await stream.write(scoring_pb2.ScoreStreamRequest(text="and "))
            await asyncio.sleep(0.006 * generator.random())
            stream.cancel()
        await asyncio.sleep(0.2)
        found = await sessions.GetSession(spb.GetSessionRequest(name=name))
    assert found.session.position == 0


def test_one_large_piece_leaves_no_larger_session_than_one_large_text(caller: Caller) -> None:
    caller.open("streamed", seed=SEED, rewind_characters=3)
    caller.open("scored", seed=SEED, rewind_characters=3)
    list(caller.score_stream(session("streamed"), ["The cats ", "ate " * 20_000]))
    caller.score(session("scored"), "The cats " + "ate " * 20_000)
    assert caller.get("streamed").session.rewindable_count == caller.get("scored").session.rewindable_count < 10


def test_a_session_goes_on_from_a_ticket(caller: Caller) -> None:
    first = caller.generate(nothing(), "The", 30, sampling=pb.Sampling(seed=SEED, temperature=0.6))
    rest = caller.generate(ticket(first.ticket), count=50)
    opened = caller.open("mine", start=ticket(first.ticket))
    assert (opened.position, opened.seed) == (33, SEED)
    assert caller.generate(session("mine"), count=50).content == rest.content
    other = caller.open("other", start=ticket(first.ticket), seed=9)
    assert other.seed == 9
    with_seed = caller.generate(ticket(first.ticket), count=50, sampling=pb.Sampling(seed=9))
    assert caller.generate(session("other"), count=50).content == with_seed.content


def test_a_call_that_fails_or_is_cut_off_leaves_the_session_where_it_was(caller: Caller) -> None:
    opened = caller.open(seed=SEED, rewind_characters=8)
    caller.generate(session(opened.name), "The", 20)
    before = caller.get(opened.name).session
    expected = caller.fork(opened.name, "copy")[0]

    with refused(*INVALID, "top_p"):
        caller.generate(session(opened.name), sampling=pb.Sampling(top_p=2))
    with refused(*INVALID):
        caller.generate(session(opened.name), "\u4e00", unknown_policy=common_pb2.UNKNOWN_POLICY_REFUSE)
    with refused(*INVALID, "fork it"):
        caller.generate(session(opened.name), samples=2)
    for _ in range(3):
        stream = caller.stream("and", 1_000_000, start=session(opened.name))
        assert next(stream).HasField("started")
        assert next(stream).text.text
        stream.cancel()
    caller.wait_until_idle()
    asked = pb.GenerateRequest(start=session(opened.name), max_characters=1_000_000)
    with pytest.raises(grpc.RpcError) as late:
        list(caller._generation.Generate(asked, metadata=caller.metadata, timeout=0.3))
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    caller.wait_until_idle()

    after = caller.get(opened.name).session
    assert (after.position, after.rewindable_count) == (before.position, before.rewindable_count)
    again = caller.generate(session(opened.name), sampling=pb.Sampling(seed=expected.seed))
    assert again.content == caller.generate(session("copy")).content


def test_a_caller_who_is_mistaken_about_the_position_is_told(caller: Caller) -> None:
    caller.open("mine")
    assert caller.generate(session("mine", position=0), "The", 10).position == 13
    for start in (session("mine", position=0), session("mine", position=12, request_key="k")):
        with refused(*MOVED, "is at position 13"):
            caller.generate(start)
    with refused(*MOVED):
        caller.fork("mine", "", position=12)
    with refused(*MOVED):
        caller.rewind("mine", 1, position=12)
    with refused(*MOVED):
        caller.close("mine", position=14)
    assert caller.generate(session("mine", position=13)).began_at == 13


@pytest.mark.parametrize("kind", KINDS)
def test_a_repeated_call_brings_the_same_and_advances_once(of_kind, kind: str) -> None:
    caller = of_kind(kind)
    opened = caller.open(seed=SEED, rewind_characters=16)
    for key in ("first", "second", "third"):
        at = caller.get(opened.name).session.position
        start = session(opened.name, position=at, request_key=key)
        first = caller.generate(start, "The cat", 40)
        assert not first.repeated
        before = caller.get(opened.name).session
        for _ in range(3):
            again = caller.generate(start, "The cat", 40)
            assert again.repeated
            assert again.content == first.content
            assert again.began_at == first.began_at == at
        after = caller.get(opened.name).session
        assert (after.position, after.rewindable_count) == (before.position, before.rewindable_count)
        assert after.position == first.position
    without = [caller.generate(session(opened.name), count=5) for _ in range(2)]
    assert without[1].began_at == without[0].position


def test_a_key_is_good_for_one_request(caller: Caller) -> None:
    caller.open("mine")
    caller.generate(session("mine", request_key="k"), "The", 10)
    with refused(*INVALID, "request_key was used for another request"):
        caller.generate(session("mine", request_key="k"), "The", 11)
    with refused(*INVALID, "request_key"):
        caller.generate(session("mine", request_key="k" * 65))
    assert caller.get("mine").session.position == 13
    caller.generate(session("mine", request_key="l"), count=10)
    late = caller.generate(session("mine", request_key="k"), count=10)  # of an earlier call: nobody remembers it
    assert (late.repeated, late.began_at) == (False, 23)


def test_of_two_calls_at_the_same_time_one_advances_the_session(start_server, tmp_path: Path) -> None:
    with servers(start_server, tmp_path, f"sqlite:{tmp_path / 'sessions'}") as callers, ThreadPoolExecutor(8) as pool:
        callers[0].open("mine", seed=SEED)
        text, position = "", 0
        for turn in range(8):
            barrier, codes = threading.Barrier(8), list[grpc.StatusCode]()

            def one(number: int, barrier=barrier, codes=codes, at=position) -> Text | None:
                barrier.wait()
                try:
                    return callers[number % 2].generate(session("mine", position=at), "abcdefgh"[number], 30)
                except grpc.RpcError as error:
                    codes.append(error.code())
                    return None

            brought = list(pool.map(one, range(8)))
            [winner] = [number for number, each in enumerate(brought) if each]
            assert codes == [grpc.StatusCode.ABORTED] * 7
            text += "abcdefgh"[winner] + brought[winner].text
            position = brought[winner].position
            assert callers[turn % 2].get("mine").session.position == position == len(text)
        again = callers[0].generate(nothing(), text, 40, sampling=pb.Sampling(seed=SEED))
        assert callers[1].generate(session("mine"), count=40).content == again.content


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_repeated_call_on_another_server_even_at_the_same_time_advances_once(
    start_server, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:{tmp_path / 'sessions'}"
    if kind == "redis":
        redis = request.getfixturevalue("redis")
        url = patient(redis)
    with servers(start_server, tmp_path, url) as callers, ThreadPoolExecutor(6) as pool:
        callers[0].open("mine", seed=SEED)
        text, position = "", 0
        for turn in range(6):
            start = session("mine", position=position, request_key=f"{turn}")
            brought = list(pool.map(lambda caller: caller.generate(start, "The", 30), callers * 3))  # noqa: B023
            brought += [caller.generate(start, "The", 30) for caller in callers]
            assert len({each.content for each in brought}) == 1
            assert all(each.repeated for each in brought[-2:])
            text += "The" + brought[0].text
            position = brought[0].position
            assert position == len(text)
        again = callers[0].generate(nothing(), text, 40, sampling=pb.Sampling(seed=SEED))
        assert callers[1].generate(session("mine"), count=40).content == again.content


@pytest.fixture
def redis(start_redis) -> Iterator[object]:
    """A Redis of one test's own; it writes everything to its disk."""
    with start_redis("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


def patient(redis) -> str:
    """The URL of a Redis that may be slow: nothing is to fail by the clock."""
    return f"{redis.url}?timeout=20"


@pytest.mark.parametrize("kind", KINDS)
def test_forks_go_on_from_the_same_state_each_with_its_seed(of_kind, kind: str) -> None:
    caller = of_kind(kind)
    opened = caller.open(seed=2**64 - 2, rewind_characters=10)
    origin = caller.generate(session(opened.name), "The", 20)
    names = ["x", "", "y", ""]
    forks = caller.fork(opened.name, *names, position=origin.position)
    assert [fork.seed for fork in forks] == [2**64 - 1, 0, 1, 2]
    assert [fork.name for fork in forks][::2] == ["x", "y"]
    assert len({fork.name for fork in forks}) == 4
    for fork in forks:
        assert fork.position == origin.position
        expected = caller.generate(ticket(origin.ticket), sampling=pb.Sampling(seed=fork.seed))
        assert caller.generate(session(fork.name)).content == expected.content
        assert caller.get(fork.name).session.rewindable_count >= 10
    assert caller.generate(session(opened.name)).content == caller.generate(ticket(origin.ticket)).content


def test_a_fork_and_a_rewound_session_have_repeated_nothing(caller: Caller) -> None:
    caller.open("mine", rewind_characters=10)
    caller.generate(session("mine", request_key="k"), "The", 20)
    caller.fork("mine", "copy")
    caller.rewind("mine", 5)
    for name, position in (("copy", 23), ("mine", 18)):
        brought = caller.generate(session(name, request_key="k"), "The", 20)
        assert (brought.repeated, brought.began_at) == (False, position)
        assert caller.get(name).session.position == position + 23


def test_forks_of_a_session_that_has_read_nothing(caller: Caller) -> None:
    caller.open("mine", seed=7)
    caller.fork("mine", "a", "b")
    for seed, name in ((7, "mine"), (8, "a"), (9, "b")):
        expected = caller.generate(nothing(), "The", sampling=pb.Sampling(seed=seed))
        assert caller.generate(session(name), "The").content == expected.content


def test_forks_are_made_all_or_none(caller: Caller) -> None:
    caller.open("mine")
    caller.open("taken")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS", "'taken'"):
        caller.fork("mine", "a", "b", "taken", "c")
    assert caller.names() == ["mine", "taken"]
    with refused(*INVALID, "names"):
        caller.fork("mine", "a", "a")
    with refused(*INVALID, "names"):
        caller.fork("mine")
    with refused(*INVALID, "65"):
        caller.fork("mine", *[""] * 65)
    assert len(caller.fork("mine", *[""] * 64)) == 64
    assert len(caller.names()) == 66


def written_by_single_characters(caller: Caller, prompt: str, count: int) -> tuple[str, list[bytes]]:
    """A text, and a ticket to each of its states from the prompt's end on."""
    text, tickets = "", []
    first = caller.generate(nothing(), prompt, 1, sampling=pb.Sampling(seed=SEED))
    while len(tickets) <= count:
        text, tickets = text + first.text, [*tickets, first.ticket]
        first = caller.generate(ticket(first.ticket), count=1)
    return text, tickets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rewind", [1, 12, 40])
def test_a_rewound_session_goes_on_as_if_it_had_never_gone_further(of_kind, kind: str, rewind: int) -> None:
    caller, count = of_kind(kind), 48
    text, tickets = written_by_single_characters(caller, "The", count)
    caller.open("mine", seed=SEED, rewind_characters=rewind)
    written = ""
    while len(written) <= count:
        left = count + 1 - len(written)
        prompt = "" if written else "The"
        written += caller.generate(session("mine"), prompt, min(left, (20, 1, 17)[len(written) % 3])).text
    assert written == text[: len(written)]
    held = caller.get("mine").session
    assert held.rewindable_count >= rewind
    for back in range(1, min(held.rewindable_count, count) + 1):
        [copy] = caller.fork("mine", "")
        rewound = caller.rewind(copy.name, back, SEED, position=held.position)
        assert rewound.seed == SEED
        assert rewound.rewindable_count == held.rewindable_count - back
        expected = caller.generate(ticket(tickets[count - back]), count=15)
        assert caller.generate(session(copy.name), count=15).content == expected.content
        caller.close(copy.name)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "NOT_REWINDABLE", f"at most {held.rewindable_count}"):
        caller.rewind("mine", held.rewindable_count + 1)
    assert caller.get("mine").session.position == held.position


def test_a_session_can_be_rewound_into_what_it_read_and_to_where_it_had_read_nothing(caller: Caller) -> None:
    prompt = "The cat that the dog had seen "
    for back in range(1, len(prompt) + 11):
        name = caller.open(seed=SEED, rewind_characters=100).name
        text = prompt + caller.generate(session(name), prompt, 10).text
        rewound = caller.rewind(name, back)
        assert rewound.position == len(text) - back
        expected = caller.generate(nothing(), text[: len(text) - back] + "x", sampling=pb.Sampling(seed=SEED))
        assert caller.generate(session(name), "x").content == expected.content
    with refused(grpc.StatusCode.OUT_OF_RANGE, "NOT_REWINDABLE"):
        caller.rewind(caller.open().name, 1)


def test_rewinding_again_and_going_on_again(caller: Caller) -> None:
    generator = random.Random(4)
    caller.open("mine", seed=SEED, rewind_characters=50)
    text = caller.generate(session("mine"), "The", 60).text
    text = "The" + text
    for _ in range(25):
        if generator.random() < 0.5 and (possible := caller.get("mine").session.rewindable_count):
            back = generator.randrange(1, possible + 1)
            caller.rewind("mine", back, SEED)
            text = text[: len(text) - back]
        else:
            prompt = generator.choice(["", "ab", "the cat and the dog"])
            text += prompt + caller.generate(session("mine"), prompt, generator.randrange(1, 90)).text
        assert caller.get("mine").session.position == len(text)
    expected = caller.generate(nothing(), text, sampling=pb.Sampling(seed=SEED))
    assert caller.generate(session("mine")).content == expected.content


def test_a_long_call_leaves_the_way_back_as_long_as_was_asked_for(caller: Caller) -> None:
    caller.open("mine", seed=SEED, rewind_characters=200)
    text = "The" + caller.generate(session("mine"), "The", 9000).text
    held = caller.get("mine").session
    assert 200 <= held.rewindable_count < len(text)  # how much more depends on how often messages went out
    assert caller.rewind("mine", 200).position == 8803
    expected = caller.generate(nothing(), text[:8803], sampling=pb.Sampling(seed=SEED))
    assert caller.generate(session("mine")).content == expected.content
    caller.generate(session("mine"), "the dog and " * 2000, 1)
    assert caller.get("mine").session.rewindable_count >= 200


def test_a_rewound_session_may_write_something_else(caller: Caller) -> None:
    caller.open("mine", seed=SEED, rewind_characters=50)
    first = caller.generate(session("mine"), "The", 40, sampling=pb.Sampling(temperature=1))
    caller.rewind("mine", 40)
    assert caller.generate(session("mine"), count=40).text == first.text
    assert caller.rewind("mine", 40, 99).seed == 99
    assert caller.generate(session("mine"), count=40).text != first.text
    with refused(*INVALID, "characters"):
        caller.rewind("mine", 0)


def test_a_requests_seed_becomes_the_sessions_so_that_the_next_call_writes_on_as_if_it_were_one(caller: Caller) -> None:
    whole = caller.generate(nothing(), "The", 60, sampling=pb.Sampling(temperature=1, seed=99))
    caller.open("mine", seed=SEED)
    first = caller.generate(session("mine"), "The", 20, sampling=pb.Sampling(temperature=1, seed=99))
    assert caller.get("mine").session.seed == 99
    assert first.text + caller.generate(session("mine"), count=40).text == whole.text


def test_a_tenant_sees_its_own_sessions_page_by_page(channel: grpc.Channel) -> None:
    mine, other = (Caller(channel, tenant=uuid.uuid4().hex) for _ in range(2))
    names = sorted(f"{random.Random(i).randrange(10**6)}-{i}" for i in range(45))
    for name in names:
        mine.open(name)
    other.open(names[0])
    other.generate(session(names[0]), "The", 5)
    for page_size in (0, 1, 7, 45, 46, 1000):
        assert mine.names(page_size) == names
    assert other.names() == [names[0]]
    assert mine.get(names[0]).session.position == 0
    with refused(*NOT_FOUND):
        other.get(names[1])
    with refused(*NOT_FOUND):
        other.close(names[1])
    with refused(*INVALID, "page_size"):
        mine.names(1001)
    with refused(*INVALID, "segue-tenant"):
        Caller(channel, tenant="a/b").names()


def test_sessions_of_different_models_are_apart(kinds_channel: grpc.Channel) -> None:
    tenant = uuid.uuid4().hex
    callers = [Caller(kinds_channel, kind, tenant) for kind in KINDS]
    for caller in callers:
        caller.open("mine")
    for caller in callers:
        assert caller.names() == ["mine"]
    callers[0].close("mine")
    assert [caller.names() for caller in callers] == [[], *[["mine"]] * 4]


def test_closing_returns_the_last_state(caller: Caller) -> None:
    caller.open("mine", seed=SEED)
    last = caller.generate(session("mine"), "The", 30)
    expected = caller.generate(ticket(last.ticket)).content
    assert caller.generate(ticket(caller.close("mine", position=33))).content == expected
    for call in (caller.get, caller.close):
        with refused(*NOT_FOUND, "'mine'"):
            call("mine")
    with refused(*NOT_FOUND):
        caller.generate(session("mine"))
    assert caller.open("mine").position == 0
    assert caller.close("mine") == b""
    assert caller.names() == []


def test_a_session_that_nobody_uses_expires(caller: Caller) -> None:
    now = time.time()
    opened = caller.open("short", idle_seconds=1)
    assert now - 1 <= opened.expiry.ToSeconds() - 1 <= time.time()
    caller.open("long", idle_seconds=3600)
    while caller.names() != ["long"]:  # listing is no use
        time.sleep(0.05)
        assert time.time() < now + 30
    with refused(*NOT_FOUND):
        caller.generate(session("short"))
    assert caller.open("short").name == "short"
    default = caller.open().expiry.ToSeconds()
    assert 6.9 < (default - time.time()) / 86_400 < 7.2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "a b"}, "a b"),
        ({"name": "x" * 65}, "1 to 64"),
        ({"rewind_characters": 4097}, "rewind_characters: 4,097"),
        ({"idle_seconds": 90 * 86_400 + 1}, "idle_seconds: 7,776,001"),
        ({"start": common_pb2.Start(session=common_pb2.SessionReference(name="x"))}, "ForkSession"),
    ],
)
def test_a_bad_field_of_a_new_session_is_named(caller: Caller, fields: dict[str, object], text: str) -> None:
    with refused(*INVALID, text):
        caller.open(**fields)
    assert caller.names() == []


def test_a_page_token_is_no_longer_than_a_name(caller: Caller) -> None:
    stub = session_pb2_grpc.SessionServiceStub(caller.channel)
    assert not stub.ListSessions(spb.ListSessionsRequest(page_token="z" * 64), metadata=caller.metadata).sessions
    for length in (65, 50_000):
        with refused(*INVALID, "page_token"):
            stub.ListSessions(spb.ListSessionsRequest(page_token="z" * length), metadata=caller.metadata)


def test_a_bad_ticket_opens_no_session(caller: Caller) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TICKET"):
        caller.open("mine", start=ticket(b"forged"))
    caller.open("mine")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS", "'mine'"):
        caller.open("mine")


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_sessions_in_a_file_outlive_their_server(start_server, tmp_path: Path, end: str) -> None:
    options = ("--keys", str(tmp_path / "keys"), "--sessions", f"sqlite:{tmp_path / 'sessions'}")
    text, names = dict.fromkeys("abcd", ""), "abcd"
    for turn in range(3):
        with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
            caller = Caller(channel)
            for seed, name in enumerate(names):
                if turn == 0:
                    caller.open(name, seed=seed, rewind_characters=20)
                text[name] += "the" + caller.generate(session(name, position=len(text[name])), "the", 30).text
            if end == "terminate":
                assert server.terminate() == 0
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        assert caller.names() == list(names)
        for seed, name in enumerate(names):
            caller.rewind(name, 20)
            expected = caller.generate(nothing(), text[name][:-20], sampling=pb.Sampling(seed=seed))
            assert caller.generate(session(name)).content == expected.content


def test_replicas_share_sessions_in_redis_call_by_call(start_server, tmp_path: Path, redis) -> None:
    with servers(start_server, tmp_path, patient(redis), 3) as callers:
        generator, text = random.Random(6), ""
        callers[0].open("mine", seed=SEED, rewind_characters=30)
        for turn in range(20):
            caller = generator.choice(callers)
            if turn % 5 == 4:
                caller.rewind("mine", 30, position=len(text))
                text = text[:-30]
            text += "the" + caller.generate(session("mine", position=len(text)), "the", 20).text
        expected = callers[0].generate(nothing(), text, sampling=pb.Sampling(seed=SEED))
        assert callers[2].generate(session("mine")).content == expected.content
        assert [caller.names() for caller in callers] == [["mine"]] * 3
        callers[1].close("mine")
        with refused(*NOT_FOUND):
            callers[2].get("mine")


@pytest.mark.parametrize("loss", ["killed", "stopped", "flushed"])
def test_a_lost_redis_harms_no_call_that_reads_no_session(start_server, tmp_path: Path, redis, loss: str) -> None:
    url = f"{redis.url}?timeout=1" if loss == "stopped" else patient(redis)
    with servers(start_server, tmp_path, url, 1) as [caller]:
        caller.open("mine", seed=SEED)
        first = caller.generate(session("mine"), "The", 40)
        count = 60_000
        sampling = pb.Sampling(seed=SEED)
        starts = {"nothing": nothing(), "ticket": ticket(first.ticket)}
        streams = {name: caller.stream("The", count, start=start, sampling=sampling) for name, start in starts.items()}
        texts = {name: "".join(next(stream).text.text for _ in range(3)) for name, stream in streams.items()}
        running = caller.stream("x", count, start=session("mine", request_key="long"))
        assert next(running).HasField("started")

        if loss == "killed":
            redis.kill()
        elif loss == "stopped":
            redis.send(signal.SIGSTOP)
        else:
            with redis.client() as client:
                client.flushall()
        expected = NOT_FOUND if loss == "flushed" else UNREACHABLE
        for _ in range(5):
            with refused(*expected):
                caller.generate(session("mine"))
            assert caller.generate(nothing(), "The", 5, sampling=sampling).text == texts["nothing"][:5]
        with refused(*expected):
            list(running)  # it wrote its text, and could not tell the session

        for name, stream in streams.items():
            *rest, last = stream
            texts[name] += "".join(part.text.text for part in rest)
            assert last.finished.reason == pb.FINISH_REASON_LENGTH
            assert len(texts[name]) == count
        assert texts["nothing"] == caller.generate(nothing(), "The", count, sampling=sampling).text

        if loss == "flushed":
            assert caller.open("mine").position == 0
            return
        redis.start() if loss == "killed" else redis.send(signal.SIGCONT)
        again = until_reachable(lambda: caller.generate(session("mine", request_key="long"), "x", count))
        expected = caller.generate(ticket(first.ticket), "x", count)
        assert again.content == expected.content  # whether it had been told or not: once


def until_reachable(call: Callable[[], Text]) -> Text:
    deadline = time.monotonic() + 30
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise


def test_a_store_that_went_back_is_noticed_by_who_names_the_position(start_server, tmp_path: Path, start_redis) -> None:
    with start_redis("--appendonly", "yes", "--appendfsync", "always") as redis:
        folder = redis._folder
        with servers(start_server, tmp_path, patient(redis), 1) as [caller]:
            caller.open("mine", seed=SEED)
            old = caller.generate(session("mine", position=0), "The", 20)
            redis.kill()
            shutil.copytree(folder, tmp_path / "backup")
            redis.start()
            new = until_reachable(lambda: caller.generate(session("mine", position=23, request_key="a"), count=20))
            redis.kill()
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "backup", folder)
            redis.start()
            with refused(*MOVED, "is at position 23"):
                caller.generate(session("mine", position=43))
            unnamed = caller.generate(session("mine"), count=20)
            assert unnamed.began_at == old.position  # who names none is told where the text went on from
            assert unnamed.content == new.content


def test_records_open_under_their_own_names_alone(start_server, tmp_path: Path) -> None:
    path = tmp_path / "sessions"
    with servers(start_server, tmp_path, f"sqlite:{path}", 1) as [caller]:
        caller.open("a")
        caller.open("b")
        caller.generate(session("a"), "The", 20)
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE sessions SET record = (SELECT record FROM sessions WHERE name = 'a')")
        connection.close()
        assert caller.get("a").session.position == 23
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_SESSION", "'b'"):
            caller.get("b")
        assert caller.names() == ["a"]
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE sessions SET space = 'other/tiny'")
        connection.close()
        caller.metadata = [("segue-tenant", "other")]
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_SESSION"):
            caller.generate(session("a"))


def test_one_damaged_record_harms_no_other_session(start_server, tmp_path: Path, redis) -> None:
    options = ("--keys", str(tmp_path / "keys"), "--sessions", patient(redis))
    names = ("empty", "list", "random", "short")
    with (
        start_server(*options) as server,
        grpc.insecure_channel(server.address) as channel,
        redis.client() as client,
    ):
        caller = Caller(channel)
        for name in (*names, "sound"):
            caller.open(name)
        [key] = client.keys("*/sound")
        keys = {name: key.replace(b"sound", name.encode()) for name in names}
        client.set(keys["empty"], b"", ex=1000)
        client.set(keys["short"], client.get(key)[:17], ex=1000)
        client.set(keys["random"], random.Random(1).randbytes(500), ex=1000)
        client.delete(keys["list"])
        client.lpush(keys["list"], b"x")
        for name in names:
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_SESSION", "damaged"):
                caller.get(name)
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_SESSION", "damaged"):
                caller.generate(session(name), "The", 5)
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_SESSION", "damaged"):
                caller.close(name)
        assert caller.names() == ["sound"]
        assert caller.names(page_size=1) == ["sound"]
        assert caller.generate(session("sound"), "The", 5).position == 8
        log = server.log.read_text()
    assert log.count("is damaged") == 1
    assert "cannot be reached" not in log


def test_sessions_whose_file_was_deleted_are_refused_and_other_calls_go_on(start_server, tmp_path: Path) -> None:
    path, aside = tmp_path / "sessions", tmp_path / "aside"
    options = ("--keys", str(tmp_path / "keys"), "--sessions", f"sqlite:{path}")
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        caller.open("mine", seed=SEED)
        first = caller.generate(session("mine"), "The", 20)
        path.rename(aside)
        for _ in range(5):
            for call in (
                lambda: caller.generate(session("mine"), "", 5),
                lambda: caller.get("mine"),
                lambda: caller.open("new"),
                caller.names,
            ):
                with refused(*UNREACHABLE, "restarted the server"):
                    call()
            assert caller.generate(ticket(first.ticket), count=5).position == 28
        assert not path.exists()
        aside.rename(path)
        assert (
            caller.generate(session("mine"), count=5).content == caller.generate(ticket(first.ticket), count=5).content
        )
        log = server.log.read_text()
        assert log.count("SESSIONS IN") == 1
        assert str(path) in log
        path.unlink()
        with refused(*UNREACHABLE):
            caller.get("mine")
        assert server.terminate() == 0


def test_a_server_with_another_key_does_not_open_sessions(start_server, tmp_path: Path) -> None:
    sessions = f"sqlite:{tmp_path / 'sessions'}"
    with servers(start_server, tmp_path, sessions, 1) as [caller]:
        caller.open("mine")
    (tmp_path / "keys").unlink()
    with servers(start_server, tmp_path, sessions, 1) as [caller]:
        caller.open("new")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_SESSION", "another key"):
            caller.generate(session("mine"))
        assert caller.names() == ["new"]
        with refused(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS"):
            caller.open("mine")


def test_another_build_of_the_model_goes_on_only_where_that_is_allowed(
    start_server, tmp_path: Path, kinds_folder: Path, rounded_folder: Path
) -> None:
    sessions = f"sqlite:{tmp_path / 'sessions'}"
    with (
        servers(start_server, tmp_path, sessions, 1, models=kinds_folder) as [exact],
        servers(start_server, tmp_path, sessions, 1, models=rounded_folder) as [rounded],
    ):
        exact.model.name = rounded.model.name = "characters"
        exact.open("mine", seed=SEED, rewind_characters=10)
        exact.generate(session("mine"), "The", 30)
        not_exact = (grpc.StatusCode.FAILED_PRECONDITION, "NOT_EXACT")
        with refused(*not_exact):
            rounded.generate(session("mine"))
        with refused(*not_exact):
            rounded.rewind("mine", 1)
        start = session("mine", request_key="k")
        start.exact = False
        first, *_ = list(rounded.stream("", 20, start=start))
        assert not first.started.continuation.exact
        again, *_ = list(rounded.stream("", 20, start=start))
        assert again.started.repeated
        assert not again.started.continuation.exact
        held = rounded.get("mine").session
        assert (held.position, held.rewindable_count) == (53, 0)  # the states before are not of this build
        start.ClearField("exact")
        with refused(*INVALID, "request_key"):
            rounded.generate(start)
        with refused(*not_exact):
            exact.generate(session("mine"))
        on = rounded.generate(session("mine"), count=20)
        assert on.position == 73


def test_a_drained_call_leaves_the_session_and_can_be_repeated_elsewhere(start_server, tmp_path: Path) -> None:
    options = ("--keys", str(tmp_path / "keys"), "--sessions", f"sqlite:{tmp_path / 'sessions'}")
    start = session("mine", position=0, request_key="k")
    with start_server(*options, "--drain-grace", "0") as server, grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        caller.open("mine", seed=SEED)
        stream = caller.stream("The", 60_000, start=start)
        assert next(stream).HasField("started")
        part = next(stream).text.text
        server.process.send_signal(signal.SIGTERM)
        *_, last = stream
        assert last.finished.reason == pb.FINISH_REASON_DRAINED
        server.process.wait(timeout=30)
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        assert caller.get("mine").session.position == 0
        whole = caller.generate(start, "The", 60_000)
        assert not whole.repeated
        assert whole.text.startswith(part)
        assert whole.position == 60_003


def test_a_full_store_says_so_and_keeps_what_it_has(start_server) -> None:
    with (
        start_server("--sessions", "memory:", "--session-gb", "0.00002") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        caller, names = Caller(channel), []
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"):
            while len(names) < 100:
                names.append(caller.open().name)
        assert len(names) > 5
        assert caller.names() == sorted(names)
        caller.close(names[0])
        caller.open()


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (("--sessions", "redis:nowhere"), 2, "'redis:nowhere'; it must be sqlite:PATH"),
        (("--sessions", "redis://127.0.0.1:1"), 1, "cannot keep sessions in redis://127.0.0.1:1/0"),
        (("--sessions", "sqlite:/proc/none"), 1, "cannot keep sessions in /proc/none"),
        (("--sessions", "redis://127.0.0.1:1", "--session-gb", "1"), 2, "--session-gb is for memory: and sqlite:"),
    ],
)
def test_a_server_without_its_store_does_not_start(
    models_folder: Path, tmp_path: Path, options: tuple[str, ...], status: int, text: str
) -> None:
    command = [sys.executable, "-m", "segue_client", "serve", str(models_folder), "--port", "0"]
    command += ["--state", str(tmp_path), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("Error:")]
    assert text in line
