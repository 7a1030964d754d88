"""A prompt that the server has seen the beginning of brings exactly what one brings that it reads anew."""

import asyncio
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from segue.v1 import common_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, session_pb2, session_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue_server.api.calls.tenants import TENANT_KEY
from segue_server.prefix_cache.cache import WORTH

KINDS = ("characters", "bytes", "lines", "gru", "int8")
every_kind = pytest.mark.parametrize("kind", KINDS)
PROMPTS = 24
UNCACHED = "uncached"


@pytest.fixture(scope="module")
def folder(kinds_folder: Path, rounded_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind."""
    folder = tmp_path_factory.mktemp("cached")
    for kind in KINDS[:-1]:
        shutil.copytree(kinds_folder / kind, folder / kind)
    shutil.copytree(rounded_folder / "characters", folder / "int8")
    return folder


@dataclass(frozen=True)
class Servers:
    """The same models, with a cache and without one; each opens the other's tickets."""

    caching: str
    reading: str


@pytest.fixture(scope="module")
def servers(start_server, folder: Path) -> Iterator[Servers]:
    with (
        start_server("--sessions", "memory:", models=folder) as caching,
        start_server("--sessions", "memory:", "--prefix-cache-mb", "0", models=folder) as reading,
    ):
        yield Servers(caching.address, reading.address)


@pytest.fixture
def channel(servers: Servers) -> Iterator[grpc.Channel]:
    """A connection to the server with a cache."""
    with grpc.insecure_channel(servers.caching) as channel:
        yield channel


def alphabet(kind: str) -> str:
    return "the cats éè你佡𝄞𝄟€" + ("" if kind == "lines" else "\n")


def overlapping(kind: str, seed: int, count: int = PROMPTS) -> list[str]:
    """Prompts of which many begin alike."""
    generator, prompts = random.Random(seed), [""]
    for _ in range(count):
        before = generator.choice(prompts)
        kept = before[: round(len(before) * min(1, 1.3 * generator.random()))]
        more = generator.choice([0, 1, WORTH // 2, 2 * WORTH, 5 * WORTH])
        prompts.append(kept + "".join(generator.choices(alphabet(kind), k=more)))
    return prompts[1:]


def request(kind: str, prompt: str, number: int = 0, start: common_pb2.Start | None = None) -> pb.GenerateRequest:
    generator = random.Random(number)
    in_session = start is not None and start.HasField("session")
    return pb.GenerateRequest(
        model=common_pb2.ModelReference(name=kind),
        start=start,
        prompt=prompt,
        sampling=pb.Sampling(seed=number, top_k=number % 2 * 9),
        max_characters=generator.randrange(1, 60),
        stop=["t "] if number % 3 == 0 else [],
        log_probabilities=True,
        return_ticket=True,
        samples=1 if in_session else 1 + number % 3,
        top_alternatives=2 if number % 2 and kind != "bytes" else 0,
        ticket_interval=0 if in_session else number % 4 * 3,
        written_before="t" if number % 5 == 0 else "",
    )


@dataclass
class Reply:
    """What comes of one sample, but for the bytes of its tickets, of which no two are alike."""

    started: pb.GenerationStarted
    text: str = ""
    scores: tuple[float, ...] = ()
    alternatives: tuple[tuple[str, tuple[float, ...]], ...] = ()
    finished: pb.GenerationFinished | None = None
    left: str | None = None
    """What was written after the last ticket on the way, None without one."""


def replies(responses: Sequence[pb.GenerateResponse]) -> tuple[list[Reply], int, list[tuple[bytes, bytes]]]:
    """Return each sample's, how many symbols were not read, and its last tickets: on the way, and at its end."""
    started = responses[0].started
    cached, started.cached_count = started.cached_count, 0
    samples: dict[int, Reply] = {}
    tickets: dict[int, tuple[bytes, bytes]] = {}
    for response in responses[1:]:
        reply = samples.setdefault(response.sample, Reply(started))
        on_the_way, _ = tickets.setdefault(response.sample, (b"", b""))
        if response.HasField("text"):
            text = response.text
            reply.text += text.text
            reply.scores += tuple(text.log_probabilities)
            reply.alternatives += tuple((a.characters, tuple(a.log_probabilities)) for a in text.alternatives)
            reply.left = "" if text.ticket else None if reply.left is None else reply.left + text.text
            tickets[response.sample] = (text.ticket or on_the_way, b"")
        else:
            tickets[response.sample] = (on_the_way, response.finished.ticket)
            response.finished.ticket = b""
            reply.finished = response.finished
    numbers = sorted(samples)
    return [samples[number] for number in numbers], cached, [tickets[number] for number in numbers]


class Caller:
    """Sends requests of one tenant to one server."""

    def __init__(self, channel: grpc.aio.Channel, tenant: str) -> None:
        self._stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self._metadata = ((TENANT_KEY, tenant),)

    async def ask(self, asked: pb.GenerateRequest) -> tuple[list[Reply], int, list[tuple[bytes, bytes]]]:
        call = self._stub.Generate(asked, metadata=self._metadata, timeout=60)
        return replies([response async for response in call])

    async def continued(self, ticket: bytes, kind: str, count: int) -> list[Reply]:
        asked = pb.GenerateRequest(
            model=common_pb2.ModelReference(name=kind),
            start=common_pb2.Start(ticket=ticket),
            max_characters=count,
            log_probabilities=True,
        )
        told, _, _ = await self.ask(asked)
        return told


async def check_same(
    asked: list[pb.GenerateRequest], caching: Caller, reading: Caller, *, at_once: bool = False
) -> list[int]:
    """Compare what each of two servers makes of the requests; return how many symbols one of them did not read."""
    if at_once:
        found = await asyncio.gather(*map(caching.ask, asked))
    else:
        found = [await caching.ask(each) for each in asked]
    for each, (ours, _, our_tickets) in zip(asked, found, strict=True):
        theirs, none, their_tickets = await reading.ask(each)
        assert none == 0
        for our, their in zip(ours, theirs, strict=True):
            our.left, left = None, our.left
            their.left = None
            assert our == their
            our.left = left
        for our, (on_the_way, end), (_, their_end) in zip(ours, our_tickets, their_tickets, strict=True):
            kind = each.model.name
            assert await reading.continued(end, kind, 9) == await reading.continued(their_end, kind, 9)
            if our.left:
                assert (await reading.continued(on_the_way, kind, len(our.left)))[0].text == our.left
    return [cached for _, cached, _ in found]


@every_kind
async def test_replies_are_those_of_a_server_without_a_cache(servers: Servers, kind: str) -> None:
    asked = [request(kind, prompt, number) for number, prompt in enumerate(overlapping(kind, 1))]
    async with (
        grpc.aio.insecure_channel(servers.caching) as caching,
        grpc.aio.insecure_channel(servers.reading) as reading,
    ):
        one_by_one = await check_same(asked, Caller(caching, "one"), Caller(reading, "one"))
        at_once = await check_same(asked, Caller(caching, "other"), Caller(reading, "other"), at_once=True)
        assert sum(map(bool, one_by_one)) > 1
        again = await check_same(asked, Caller(caching, "other"), Caller(reading, "other"), at_once=True)
        assert sum(again) > sum(at_once)


@every_kind
async def test_forks_of_one_ticket_share_what_they_begin_with(servers: Servers, kind: str) -> None:
    async with (
        grpc.aio.insecure_channel(servers.caching) as caching,
        grpc.aio.insecure_channel(servers.reading) as reading,
    ):
        ours, theirs = Caller(caching, "forks"), Caller(reading, "forks")
        _, _, [(_, one)] = await ours.ask(
            pb.GenerateRequest(
                model=common_pb2.ModelReference(name=kind),
                prompt="the cat",
                max_characters=9,
                return_ticket=True,
                sampling=pb.Sampling(seed=1, temperature=0),
            )
        )
        _, _, [(_, other)] = await ours.ask(
            pb.GenerateRequest(
                model=common_pb2.ModelReference(name=kind),
                prompt="the hat",
                max_characters=9,
                return_ticket=True,
                sampling=pb.Sampling(seed=1),
            )
        )
        starts = [common_pb2.Start(ticket=one), common_pb2.Start(ticket=other), None]
        prompts = 2 * overlapping(kind, 2, 12)
        asked = [request(kind, prompt, number, start) for number, prompt in enumerate(prompts) for start in starts]
        assert sum(map(bool, await check_same(asked, ours, theirs))) > 1


async def test_after_a_document_prompts_are_known_as_those_of_fresh_ones(servers: Servers) -> None:
    async with (
        grpc.aio.insecure_channel(servers.caching) as caching,
        grpc.aio.insecure_channel(servers.reading) as reading,
    ):
        ours, theirs = Caller(caching, "documents"), Caller(reading, "documents")
        whole = pb.GenerateRequest(
            model=common_pb2.ModelReference(name="lines"),
            prompt="the",
            max_characters=10_000,
            return_ticket=True,
            sampling=pb.Sampling(seed=3),
        )
        [reply], _, [(_, ticket)] = await ours.ask(whole)
        assert reply.finished is not None
        assert reply.finished.reason == pb.FINISH_REASON_END
        prompt = "the cats " * WORTH
        asked = [request("lines", prompt, 1), request("lines", prompt, 2, common_pb2.Start(ticket=ticket))]
        assert await check_same(asked, ours, theirs) == [0, len(prompt)]


class Holder(Caller):
    """A caller that has sessions."""

    def __init__(self, channel: grpc.aio.Channel, kind: str) -> None:
        super().__init__(channel, "sessions")
        self._sessions = session_pb2_grpc.SessionServiceStub(channel)
        self._model = common_pb2.ModelReference(name=kind)

    async def open(self, name: str, seed: int, rewind: int) -> None:
        asked = session_pb2.OpenSessionRequest(model=self._model, name=name, seed=seed, rewind_characters=rewind)
        await self._sessions.OpenSession(asked, metadata=self._metadata)

    async def session(self, name: str) -> session_pb2.Session:
        asked = session_pb2.GetSessionRequest(model=self._model, name=name)
        session = (await self._sessions.GetSession(asked, metadata=self._metadata)).session
        session.ClearField("expiry")
        return session

    async def rewind(self, name: str, characters: int) -> int:
        reference = common_pb2.SessionReference(name=name)
        asked = session_pb2.RewindSessionRequest(model=self._model, session=reference, characters=characters)
        return (await self._sessions.RewindSession(asked, metadata=self._metadata)).session.position


async def check_turn(asked: pb.GenerateRequest, callers: tuple[Holder, Holder]) -> int:
    """Compare what a call brings, and where it leaves its session; return how many symbols were not read."""
    (ours, cached, _), (theirs, _, _) = [await caller.ask(asked) for caller in callers]
    assert ours == theirs
    stands, elsewhere = [await caller.session(asked.start.session.name) for caller in callers]
    assert stands == elsewhere
    return cached


@every_kind
async def test_sessions_stand_and_go_back_as_without_a_cache(servers: Servers, kind: str) -> None:
    async with (
        grpc.aio.insecure_channel(servers.caching) as caching,
        grpc.aio.insecure_channel(servers.reading) as reading,
    ):
        callers = Holder(caching, kind), Holder(reading, kind)
        prompts, hits = [prompt for prompt in overlapping(kind, 3, 40) if len(prompt) > WORTH], 0
        for number, rewind in enumerate([0, 1, 20, 300, 1] * 2):
            name = f"s{number}"
            for caller in callers:
                await caller.open(name, number, rewind)
            start = common_pb2.Start(session=common_pb2.SessionReference(name=name))
            for prompt in (prompts[number // 5], prompts[number], "", prompts[number + 1]):
                hits += await check_turn(request(kind, prompt, number, start), callers) > 0
            back = (await callers[0].session(name)).rewindable_count
            if back:
                stands, elsewhere = [await caller.rewind(name, back) for caller in callers]
                assert stands == elsewhere
                await check_turn(request(kind, "", 1, start), callers)
        assert hits >= 4


def cached_count(channel: grpc.Channel, kind: str, prompt: str, tenant: str, **fields: object) -> int:
    asked = pb.GenerateRequest(model=common_pb2.ModelReference(name=kind), prompt=prompt, max_characters=1, **fields)
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    started, *_ = stub.Generate(asked, metadata=((TENANT_KEY, tenant),), timeout=60)
    return started.started.cached_count


def counters(channel: grpc.Channel, kind: str) -> model_pb2.PrefixCache:
    asked = model_pb2.GetModelRequest(model=common_pb2.ModelReference(name=kind))
    return model_pb2_grpc.ModelServiceStub(channel).GetModel(asked).model.prefix_cache


@every_kind
def test_the_second_of_equal_prompts_and_the_third_with_a_common_beginning_are_served(
    channel: grpc.Channel, kind: str
) -> None:
    before = counters(channel, kind)
    letters, width = ("éèêë", 2) if kind == "bytes" else ("hasc", 1)  # of one first byte
    common, ends, rest = "the cat é你 " * WORTH, [letter * WORTH for letter in letters], width * WORTH
    size = len(common.encode()) if kind == "bytes" else len(common)
    expected = [(0, 0), (0, size + rest), (1, 0), (2, size), (2, size + rest), (1, size + rest)]
    found = [cached_count(channel, kind, common + ends[end], "me") for end, _ in expected]
    assert found == [count for _, count in expected]
    assert cached_count(channel, kind, common + ends[3], "me", samples=3) == size
    assert cached_count(channel, kind, common + ends[3] + "t", "me", samples=3) == size + rest
    assert cached_count(channel, kind, common, "me") == size
    assert cached_count(channel, kind, "z" * (WORTH - 1), "me") == 0
    assert cached_count(channel, kind, "z" * (WORTH - 1), "me") == 0
    saved = sum(found) + size + size + rest + size
    after = counters(channel, kind)
    assert (after.hits - before.hits, after.misses - before.misses) == (7, 4)
    assert after.symbols_saved - before.symbols_saved == saved
    assert after.states - before.states == 5
    assert after.bytes > before.bytes


@every_kind
def test_no_tenant_is_served_from_what_another_asked(channel: grpc.Channel, kind: str) -> None:
    prompt = "the cats sat " * WORTH
    assert [cached_count(channel, kind, prompt, tenant) > 0 for tenant in ("a", "a", "b", "", "b")] == [
        *(False, True),
        *(False, False, True),
    ]


def test_a_call_that_is_cancelled_leaves_nothing_wrong_behind(channel: grpc.Channel, servers: Servers) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    prompts = ["the cats ate " * (50 * number) for number in range(1, 40)]
    for prompt in prompts:
        call = stub.Generate(request("characters", prompt), metadata=((TENANT_KEY, "hasty"),))
        if len(prompt) % 4:
            next(call)
        call.cancel()
    with grpc.insecure_channel(servers.reading) as reading:
        for prompt in prompts[::4]:
            asked = request("characters", prompt + "x")
            told = [
                replies(list(generation_pb2_grpc.GenerationServiceStub(each).Generate(asked, metadata=metadata)))[0]
                for each, metadata in ((channel, ((TENANT_KEY, "hasty"),)), (reading, ()))
            ]
            told[0][0].left = told[1][0].left = None
            assert told[0] == told[1]


def test_a_small_cache_stays_within_its_bound(start_server, folder: Path) -> None:
    options = ("--prefix-cache-mb", "0.02")
    with start_server(*options, models=folder) as server, grpc.insecure_channel(server.address) as channel:
        for number in range(60):
            cached_count(channel, "characters", f"{'abcdefghij'[number % 10] * 9}" * 40, f"tenant-{number % 7}")
            assert 0 < counters(channel, "characters").bytes <= 20_000
        assert counters(channel, "characters").states > 3
