"""Tickets over gRPC: refused alike by every method, across keys, builds and classes of hosts."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from segue.v1 import (
    common_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    scoring_pb2,
    scoring_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from segue.v1 import generation_pb2 as pb
from segue_server.api.calls.tenants import TENANT_KEY
from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Sampling
from segue_server.runtime.registry import Served
from segue_server.state.key_ring import KeyRing, make_key_file
from segue_server.state.snapshot import Snapshot
from segue_server.state.tickets import Ticket, TicketCodec

KIND = "characters"
MODEL = common_pb2.ModelReference(name=KIND)
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TICKET")
NOT_EXACT = (grpc.StatusCode.FAILED_PRECONDITION, "NOT_EXACT")

Refusal = tuple[grpc.StatusCode, str, str]
"""Status, reason and text."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ring") / "keys"
    make_key_file(path)
    return path


@dataclass(frozen=True)
class Hosts:
    """Servers of one trained model, with the same keys: of its weights as they are, and rounded to 8 bits."""

    plain: grpc.Channel
    rounded: grpc.Channel


@pytest.fixture(scope="module")
def hosts(start_server, kinds_folder: Path, rounded_folder: Path, keys: Path) -> Iterator[Hosts]:
    with (
        start_server("--keys", str(keys), models=kinds_folder) as plain,
        start_server("--keys", str(keys), models=rounded_folder) as rounded,
        grpc.insecure_channel(plain.address) as to_plain,
        grpc.insecure_channel(rounded.address) as to_rounded,
    ):
        yield Hosts(to_plain, to_rounded)


class Forger:
    """Has the servers' own key, and so can seal what no server would."""

    def __init__(self, keys: Path, channel: grpc.Channel, model: Model) -> None:
        self._keys = keys
        self._served = Served.of(model, None, Build.of(model, host_class_of(channel)), reproducible=True)  # type: ignore[arg-type]

    def opened(self, ticket: bytes) -> Ticket:
        return TicketCodec(KeyRing(self._keys), 1e6).decode(ticket, self._served, "")

    def seal(self, snapshot: Snapshot, build: Build | None = None, tenant: str = "", lifetime: float = 1e6) -> bytes:
        codec = TicketCodec(KeyRing(self._keys), lifetime)
        return codec.encode(snapshot, build or self._served.build, self._served.model, tenant)


@pytest.fixture(scope="module")
def forger(hosts: Hosts, keys: Path, kinds_loaded: dict[str, Model]) -> Forger:
    return Forger(keys, hosts.plain, kinds_loaded[KIND])


def host_class_of(channel: grpc.Channel) -> bytes:
    return bytes.fromhex(described(channel).host_class)


def described(channel: grpc.Channel) -> model_pb2.Model:
    return model_pb2_grpc.ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(model=MODEL)).model


def generate(
    channel: grpc.Channel, start: common_pb2.Start | None = None, prompt: str = "", tenant: str = "", count: int = 30
) -> tuple[common_pb2.Continuation, str, bytes]:
    asked = pb.GenerateRequest(
        model=MODEL, start=start, prompt=prompt, max_characters=count, return_ticket=True, sampling=pb.Sampling(seed=5)
    )
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    started, *texts, finished = stub.Generate(asked, metadata=((TENANT_KEY, tenant),), timeout=60)
    text = "".join(each.text.text for each in texts)
    return started.started.continuation, text, finished.finished.ticket


def score(channel: grpc.Channel, start: common_pb2.Start, tenant: str = "") -> scoring_pb2.ScoreResponse:
    asked = scoring_pb2.ScoreRequest(model=MODEL, start=start, texts=["the cat"])
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    return stub.Score(asked, metadata=((TENANT_KEY, tenant),), timeout=60)


def score_stream(channel: grpc.Channel, start: common_pb2.Start, tenant: str = "") -> object:
    begin = scoring_pb2.ScoreStreamStart(model=MODEL, start=start)
    pieces = [scoring_pb2.ScoreStreamRequest(start=begin), scoring_pb2.ScoreStreamRequest(text="the cat")]
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    return list(stub.ScoreStream(iter(pieces), metadata=((TENANT_KEY, tenant),), timeout=60))


def score_candidates(channel: grpc.Channel, start: common_pb2.Start, tenant: str = "") -> object:
    asked = scoring_pb2.ScoreCandidatesRequest(model=MODEL, start=start, candidates=["the", "cat"])
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    return stub.ScoreCandidates(asked, metadata=((TENANT_KEY, tenant),), timeout=60)


def open_session(channel: grpc.Channel, start: common_pb2.Start, tenant: str = "") -> object:
    asked = session_pb2.OpenSessionRequest(model=MODEL, start=start)
    stub = session_pb2_grpc.SessionServiceStub(channel)
    return stub.OpenSession(asked, metadata=((TENANT_KEY, tenant),), timeout=60)


def generate_alone(channel: grpc.Channel, start: common_pb2.Start, tenant: str = "") -> object:
    return generate(channel, start, tenant=tenant)


METHODS: list[Callable[[grpc.Channel, common_pb2.Start, str], object]] = [
    *(generate_alone, score, score_stream, score_candidates, open_session)
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def refusal_of(call: Callable[..., object], *arguments: object) -> Refusal:
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments)
    refused = error.value
    status = status_pb2.Status.FromString(dict(refused.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert [detail.Unpack(info) for detail in status.details] == [True]
    return refused.code(), info.reason, refused.details()


def hostile_tickets(ticket: bytes, forger: Forger, other_keys: Path, rng: np.random.Generator) -> dict[str, bytes]:
    """Return one of each kind, by what is wrong with it; the tenant is "" but for the last."""
    at = int(rng.integers(len(ticket)))
    snapshot = forger.opened(ticket).snapshot
    state = snapshot.state
    foreign = forger.opened(ticket).build

    def with_state(**changes: object) -> bytes:
        return forger.seal(replace(snapshot, state=replace(state, **changes)))

    make_key_file(other_keys)
    codec = TicketCodec(KeyRing(other_keys), 1e6)
    return {
        "empty": b"",
        "flipped": ticket[:at] + bytes([ticket[at] ^ 1 << int(rng.integers(8))]) + ticket[at + 1 :],
        "cut": ticket[:at],
        "longer": ticket + b"\0",
        "noise": secrets.token_bytes(len(ticket)),
        "another key": codec.encode(snapshot, foreign, forger._served.model, ""),
        "another tenant": forger.seal(snapshot, tenant="somebody"),
        "another model": forger.seal(snapshot, build=replace(foreign, family=bytes(32))),
        "expired": forger.seal(snapshot, lifetime=-1),
        "not a number": with_state(h=np.where(np.arange(24) == 3, np.nan, state.h).astype(np.float32)),
        "too large": with_state(c=np.full_like(state.c, state.position + 1)),
        "nowhere": with_state(position=0),
        "too hot": forger.seal(replace(snapshot, sampling=Sampling(temperature=1e9))),
    }


@every_method
def test_every_hostile_ticket_is_refused_in_the_same_words(
    hosts: Hosts, forger: Forger, tmp_path: Path, method: Callable[[grpc.Channel, common_pb2.Start, str], object]
) -> None:
    _, _, ticket = generate(hosts.plain, prompt="the cat")
    method(hosts.plain, common_pb2.Start(ticket=ticket), "")
    rng = np.random.default_rng(0)
    hostile = hostile_tickets(ticket, forger, tmp_path / "keys", rng)
    found: dict[str, Refusal] = {}
    for exact in (True, False):
        for name, each in hostile.items():
            start = common_pb2.Start(ticket=each, exact=exact)
            found[f"{name}, {exact}"] = refusal_of(method, hosts.plain, start, "")
        start = common_pb2.Start(ticket=ticket, exact=exact)
        found[f"tenant, {exact}"] = refusal_of(method, hosts.plain, start, "somebody")
    assert len(set(found.values())) == 1, found
    assert next(iter(found.values()))[:2] == INVALID


@every_method
def test_another_build_goes_on_only_where_the_caller_allows_it(
    hosts: Hosts, method: Callable[[grpc.Channel, common_pb2.Start, str], object]
) -> None:
    for here, there in ((hosts.plain, hosts.rounded), (hosts.rounded, hosts.plain)):
        _, _, ticket = generate(there, prompt="the cat")
        for exact in ({}, {"exact": True}):
            start = common_pb2.Start(ticket=ticket, **exact)
            code, reason, text = refusal_of(method, here, start, "")
            assert (code, reason) == NOT_EXACT
            assert "another build of the model" in text
        method(here, common_pb2.Start(ticket=ticket, exact=False), "")


def test_the_reply_says_whether_it_is_exact_and_what_continues_it(hosts: Hosts) -> None:
    for here, there in ((hosts.plain, hosts.rounded), (hosts.rounded, hosts.plain)):
        fresh, _, own = generate(here, prompt="the cat")
        _, _, foreign = generate(there, prompt="the cat")
        assert (fresh.exact, fresh.position) == (True, 0)
        for ticket, exact in ((own, True), (foreign, False)):
            start = common_pb2.Start(ticket=ticket, exact=False)
            continuation, text, after = generate(here, start)
            for each in (continuation, score(here, start).continuation):
                assert each.reproducible
                assert (each.exact, each.position) == (exact, len("the cat") + 30)
                assert each.sha256 == described(here).sha256 != described(there).sha256
                assert each.host_class == described(here).host_class
            assert generate(here, start)[1] == text
            assert generate(here, common_pb2.Start(ticket=after))[0].exact  # what came of it is of this build


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"host_class": secrets.token_bytes(16)}, "another class of host"),
        ({"sha256": secrets.token_bytes(32)}, "another build of the model"),
    ],
    ids=["class of host", "build"],
)
def test_either_alone_is_told_apart_as_well(other: dict[str, bytes], words: str, hosts: Hosts, forger: Forger) -> None:
    """Real builds differ in both: a host's class is that of what it computes with one build."""
    _, _, ticket = generate(hosts.plain, prompt="the cat")
    opened = forger.opened(ticket)
    elsewhere = forger.seal(opened.snapshot, replace(opened.build, **other))  # type: ignore[arg-type]
    code, reason, text = refusal_of(generate, hosts.plain, common_pb2.Start(ticket=elsewhere))
    assert (code, reason) == NOT_EXACT
    assert words in text
    continuation, written, _ = generate(hosts.plain, common_pb2.Start(ticket=elsewhere, exact=False))
    assert not continuation.exact
    assert written == generate(hosts.plain, common_pb2.Start(ticket=ticket))[1]


def test_an_inexact_start_stays_one_where_nothing_is_read(hosts: Hosts, forger: Forger) -> None:
    _, _, ticket = generate(hosts.plain, prompt="the cat")
    opened = forger.opened(ticket)
    elsewhere = forger.seal(opened.snapshot, replace(opened.build, host_class=secrets.token_bytes(16)))
    start = common_pb2.Start(ticket=elsewhere, exact=False)
    request = scoring_pb2.ScoreRequest(model=MODEL, texts=["", "a"], start=start, return_tickets=True)
    same, moved = scoring_pb2_grpc.ScoringServiceStub(hosts.plain).Score(request).scores
    assert refusal_of(generate, hosts.plain, common_pb2.Start(ticket=same.ticket))[:2] == NOT_EXACT
    assert generate(hosts.plain, common_pb2.Start(ticket=moved.ticket))[0].exact


def test_a_ticket_is_as_large_as_the_model_says_and_shows_nothing(hosts: Hosts, forger: Forger) -> None:
    for channel in (hosts.plain, hosts.rounded):
        _, _, ticket = generate(channel, prompt="the cat")
        assert len(ticket) == described(channel).ticket_bytes
    state = forger.opened(ticket).snapshot.state
    assert state.h.tobytes()[:8] not in ticket


def test_keys_are_replaced_while_servers_run(start_server, rounded_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_key_file(keys)
    options = ("--keys", str(keys))
    with start_server(*options, models=rounded_folder) as first, grpc.insecure_channel(first.address) as to_first:
        old = common_pb2.Start(ticket=generate(to_first, prompt="the cat")[2])
        text = generate(to_first, old)[1]
        with keys.open("a") as file:
            file.write(f"2 {secrets.token_hex(32)}\n")
        with (
            start_server(*options, models=rounded_folder) as second,
            grpc.insecure_channel(second.address) as to_second,
        ):
            assert generate(to_second, old)[1] == text
            new = common_pb2.Start(ticket=generate(to_second, prompt="the cat")[2])
            assert as_soon_as_it_opens(to_first, new) == text
            seals = {generate(channel, old)[2][4:8] for channel in (to_first, to_second)}
            assert seals == {(2).to_bytes(4, "little")}
    keys.write_text(keys.read_text().splitlines()[1])
    with start_server(*options, models=rounded_folder) as third, grpc.insecure_channel(third.address) as to_third:
        assert generate(to_third, new)[1] == text
        assert refusal_of(generate, to_third, old)[:2] == INVALID


def as_soon_as_it_opens(channel: grpc.Channel, start: common_pb2.Start) -> str:
    """Continue a ticket of a key that is new: the file is read again at most once a second."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return generate(channel, start)[1]
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
