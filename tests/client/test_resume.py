"""Texts that go on after their server was lost, through both clients, against scripted peers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest
from segue.v1 import alternatives_pb2
from segue.v1 import generation_pb2 as pb
from segue_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FinishReason,
    InvalidRequest,
    NotExact,
    NotRewindable,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def calls(*answers: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """Answer each call in its own way, all further ones as the last."""
    left = list(answers)

    def answer(request: Any) -> Iterator[Any]:
        following = left.pop(0) if len(left) > 1 else left[0]
        return following(request)

    return answer


def says(*messages: Any) -> Callable[[Any], Iterator[Any]]:
    """Say so, and end; an exception among them is raised."""

    def speak(_request: Any) -> Iterator[Any]:
        for message in messages:
            if isinstance(message, Exception):
                raise message
            yield message

    return speak


def detailed(script: Any, text: str, first: int, **fields: Any) -> Any:
    """A piece of a text whose characters are numbered, with all that there can be of each."""
    numbers = range(first, first + len(text))
    alternatives = [alternatives_pb2.Alternatives(characters="x", log_probabilities=[-n]) for n in numbers]
    return script.text(
        text,
        position=first + len(text),
        log_probabilities=[-n / 4 for n in numbers],
        alternatives=alternatives,
        **fields,
    )


async def test_a_text_that_breaks_goes_on_from_its_last_ticket(
    peer: Any, other_peer: Any, make_face: Any, script: Any
) -> None:
    """A chunk that was delivered in part is cut, with all that belongs to its characters."""
    peer.generate = says(
        script.started(seed=9),
        detailed(script, "abc", 0, ticket=b"three"),
        detailed(script, "de", 3),
        script.broken(UNAVAILABLE),
    )
    other_peer.generate = says(
        script.started(seed=9),
        detailed(script, "d", 3),
        detailed(script, "efgh", 4, ticket=b"eight"),
        script.finished(generated_count=5, ticket=b"last", position=8),
    )
    heard = script.heard()
    face = make_face([peer.address, other_peer.address])
    await face.hear(heard, "Say", max_characters=8, ticket_interval=3, log_probabilities=True, top_alternatives=1)
    assert [chunk.text for chunk in heard.chunks] == ["abc", "de", "fgh"]
    assert [each for chunk in heard.chunks for each in chunk.log_probabilities] == [-n / 4 for n in range(8)]
    assert [place[0].log_probability for chunk in heard.chunks for place in chunk.alternatives] == [
        -n for n in range(8)
    ]
    assert [chunk.position for chunk in heard.chunks] == [3, 5, 8]
    assert [chunk.ticket for chunk in heard.chunks] == [b"three", None, b"eight"]
    assert (heard.finished.generated_count, heard.finished.ticket, heard.finished.position) == (8, b"last", 8)
    assert heard.resumed_count == 1
    [first], [again] = peer.requests, other_peer.requests
    assert (again.start.ticket, again.prompt, again.max_characters) == (b"three", "", 5)
    assert (again.written_before, again.sampling.seed) == ("abc", 9)
    assert (first.prompt, first.max_characters) == ("Say", 8)


async def test_before_anything_came_another_address_is_asked(peer: Any, free_port: int, make_face: Any) -> None:
    face = make_face([f"127.0.0.1:{free_port}", peer.address])
    assert await face.whole("Say: ") == "Hello"
    assert await face.whole("Say: ") == "Hello"
    assert [model.name for model in await face.call("models")] == ["toy"]


async def test_without_a_server_there_is_an_error_at_once(free_port: int, make_face: Any) -> None:
    face = make_face([f"127.0.0.1:{free_port}", f"localhost:{free_port}"])
    began = time.monotonic()
    for method in ("generate", "models"):
        with pytest.raises(ServerUnavailable, match="start one with"):
            await face.call(method)
    assert time.monotonic() - began < 10, "far less than the 30 seconds that an answered call would wait"


async def test_after_started_the_request_is_repeated_with_its_seed(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.started(seed=9), script.broken(UNAVAILABLE)),
        says(script.started(seed=9), script.text("abc"), script.finished(generated_count=3)),
    )
    heard = script.heard()
    await make_face(peer.address).hear(heard, "Say")
    assert [chunk.text for chunk in heard.chunks] == ["abc"]
    assert [request.prompt for request in peer.requests] == ["Say", "Say"]
    assert [request.sampling.HasField("seed") for request in peer.requests] == [False, True]
    assert heard.resumed_count == 1


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (UNAVAILABLE, "Stream removed (Socket closed)"),
        (grpc.StatusCode.CANCELLED, "RST_STREAM"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "full, after the first break"),
    ],
)
async def test_every_way_in_which_a_server_goes_is_a_break(
    peer: Any, make_face: Any, script: Any, code: grpc.StatusCode, details: str
) -> None:
    peer.generate = calls(
        says(script.started(), script.text("ab"), script.broken(code, details)),
        says(script.broken(code, details)),
        says(script.started(), script.text("abc"), script.finished(generated_count=3)),
    )
    assert await make_face(peer.address).whole() == "abc"


async def test_a_drained_text_goes_on_elsewhere(peer: Any, other_peer: Any, make_face: Any, script: Any) -> None:
    drained = script.finished(reason=pb.FINISH_REASON_DRAINED, generated_count=2, ticket=b"two", position=6)
    peer.generate = says(script.started(), script.text("ab"), drained)
    other_peer.generate = says(script.started(), script.text("cd"), script.finished(generated_count=2, ticket=b"end"))
    heard = script.heard()
    await make_face([peer.address, other_peer.address]).hear(heard, max_characters=4)
    assert [chunk.text for chunk in heard.chunks] == ["ab", "cd"]
    assert other_peer.requests[0].start.ticket == b"two"
    assert (heard.finished.reason, heard.finished.generated_count) == (FinishReason.LENGTH, 4)


async def test_drained_without_a_ticket_the_request_is_repeated(peer: Any, make_face: Any, script: Any) -> None:
    drained = script.finished(reason=pb.FINISH_REASON_DRAINED, generated_count=2)
    peer.generate = calls(
        says(script.started(), script.text("ab"), drained),
        says(script.started(), script.text("abcd"), script.finished(generated_count=4)),
    )
    assert await make_face(peer.address).whole("Say") == "abcd"
    assert peer.requests[1].prompt == "Say"


async def test_where_nobody_goes_on_a_drained_text_ends_with_its_ticket(peer: Any, make_face: Any, script: Any) -> None:
    drained = script.finished(reason=pb.FINISH_REASON_DRAINED, generated_count=2, ticket=b"two")
    peer.generate = calls(says(script.started(), script.text("ab"), drained), says(script.broken(UNAVAILABLE)))
    heard = script.heard()
    await make_face(peer.address, resume_seconds=0.2).hear(heard)
    assert (heard.finished.reason, heard.finished.ticket) == (FinishReason.DRAINED, b"two")
    assert len(peer.requests) > 1


async def test_a_host_of_another_class_needs_permission(peer: Any, make_face: Any, script: Any) -> None:
    hosts = [{"sha256": "ab", "host_class": each, "exact": True} for each in ("one", "other")]
    answers = [
        says(script.started(continuation=hosts[0]), script.text("ab"), script.broken(UNAVAILABLE)),
        says(script.started(continuation=hosts[1]), script.text("abc"), script.finished(generated_count=3)),
    ]
    peer.generate = calls(*answers)
    with pytest.raises(NotExact, match=r"class other.*choose exact=False"):
        await make_face(peer.address).whole()
    peer.generate = calls(*answers)
    heard = script.heard()
    await make_face(peer.address).hear(heard, exact=False)
    assert "".join(chunk.text for chunk in heard.chunks) == "abc"
    assert not heard.exact


async def test_another_text_is_never_sewn_on(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.started(), script.text("ab"), script.broken(UNAVAILABLE)),
        says(script.started(), script.text("aXc"), script.finished(generated_count=3)),
    )
    with pytest.raises(NotExact, match="another text"):
        await make_face(peer.address).whole()


@pytest.mark.parametrize("where", ["client", "call"])
async def test_it_can_be_told_not_to(peer: Any, make_face: Any, script: Any, where: str) -> None:
    peer.generate = says(script.started(), script.text("ab"), script.broken(UNAVAILABLE))
    face = make_face(peer.address, resume=where == "call")
    options = {"resume": False} if where == "call" else {}
    heard = script.heard()
    with pytest.raises(ServerUnavailable):
        await face.hear(heard, max_characters=5000, **options)
    assert [chunk.text for chunk in heard.chunks] == ["ab"]
    assert [request.ticket_interval for request in peer.requests] == [0]
    drained = script.finished(reason=pb.FINISH_REASON_DRAINED, ticket=b"two")
    peer.generate = says(script.started(), script.text("ab"), drained)
    await face.hear(heard, **options)
    assert (heard.finished.reason, heard.finished.ticket) == (FinishReason.DRAINED, b"two")


async def test_a_failure_of_the_server_itself_is_no_break(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = says(script.started(), script.text("ab"), script.broken(grpc.StatusCode.INTERNAL, "it failed"))
    with pytest.raises(ServerFault):
        await make_face(peer.address).whole()
    assert len(peer.requests) == 1


async def test_a_full_server_is_a_refusal_where_nothing_has_begun(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = says(script.broken(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"))
    with pytest.raises(ServerBusy):
        await make_face(peer.address).whole()
    assert len(peer.requests) == 1


async def test_a_stopping_server_is_waited_for(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.broken(UNAVAILABLE, "the server is stopping", "STOPPING")),
        says(script.started(), script.text("ab"), script.finished(generated_count=2)),
    )
    assert await make_face(peer.address).whole() == "ab"


async def test_patience_ends(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.started(), script.text("ab"), script.broken(UNAVAILABLE)), says(script.broken(UNAVAILABLE, "gone"))
    )
    heard = script.heard()
    with pytest.raises(ServerUnavailable, match="gone"):
        await make_face(peer.address, resume_seconds=0.3).hear(heard)
    assert [chunk.text for chunk in heard.chunks] == ["ab"]


async def test_one_deadline_covers_all_calls(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.started(), script.text("ab"), script.broken(UNAVAILABLE)), says(script.broken(UNAVAILABLE, "gone"))
    )
    began = time.monotonic()
    with pytest.raises((DeadlineExceeded, ServerUnavailable)):
        await make_face(peer.address).whole(timeout=0.4)
    assert time.monotonic() - began < 20, "resume_seconds is 30"


def breaks_and_stays_away(peer: Any, script: Any) -> threading.Event:
    """Have the peer break its first text and refuse to go on; return what is set after some tries."""
    tried = threading.Event()

    def refuse(_request: Any) -> Iterator[Any]:
        if len(peer.requests) > 4:
            tried.set()
        raise script.broken(UNAVAILABLE)
        yield

    peer.generate = calls(says(script.started(), script.text("ab"), script.broken(UNAVAILABLE)), refuse)
    return tried


def test_another_thread_may_cancel_while_it_waits(peer: Any, script: Any) -> None:
    tried = breaks_and_stays_away(peer, script)
    with Client(peer.address) as client, client.generate() as generation:
        next(generation)
        threading.Thread(target=lambda: (tried.wait(20), generation.cancel())).start()
        for _ in range(2):
            with pytest.raises(Cancelled):
                next(generation)


async def test_another_task_may_cancel_while_it_waits(peer: Any, script: Any) -> None:
    tried = breaks_and_stays_away(peer, script)
    async with AsyncClient(peer.address) as client:
        generation = await client.generate()
        await anext(generation)

        async def cancel() -> None:
            assert await asyncio.to_thread(tried.wait, 20)
            generation.cancel()

        async with asyncio.TaskGroup() as group:
            group.create_task(cancel())
            for _ in range(2):
                with pytest.raises(Cancelled):
                    await anext(generation)


async def test_a_cancelled_task_stops_waiting(peer: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.started(), script.text("ab"), script.broken(UNAVAILABLE)), says(script.broken(UNAVAILABLE))
    )
    async with AsyncClient(peer.address) as client:
        generation = await client.generate()
        await anext(generation)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(generation), 0.4)


async def test_a_closed_client_does_not_go_on(peer: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.started(), script.text("ab"), script.broken(UNAVAILABLE)), says(script.broken(UNAVAILABLE))
    )
    async with AsyncClient(peer.address) as client:
        generation = await client.generate()
        await anext(generation)
    with pytest.raises((Cancelled, ServerUnavailable)):
        await anext(generation)
    with closing(Client(peer.address)) as sync_client:
        pass
    with pytest.raises(Cancelled, match="closed"):
        sync_client.models()
    with pytest.raises(Cancelled, match="closed"):
        sync_client.generate()


async def test_samples_go_on_each_where_it_stood(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = calls(
        says(
            script.started(seed=9),
            script.text("ab", sample=0),
            script.text("x", sample=2),
            script.text("12", sample=1),
            script.finished(sample=1, generated_count=2, ticket=b"one"),
            script.broken(UNAVAILABLE),
        ),
        says(
            script.started(seed=9),
            script.text("xyz", sample=2),
            script.text("a", sample=0),
            script.finished(sample=2, generated_count=3),
            script.text("1", sample=1),
            script.text("bc", sample=0),
            script.text("2", sample=1),
            script.finished(sample=0, generated_count=3),
            script.finished(sample=1, generated_count=2, ticket=b"another"),
        ),
    )
    heard = script.heard_samples()
    await make_face(peer.address).hear_samples(heard, "Say", 3)
    assert [(sample, chunk.text) for sample, chunk in heard.chunks] == [
        (0, "ab"),
        (2, "x"),
        (1, "12"),
        (2, "yz"),
        (0, "c"),
    ]
    assert [end.generated_count for end in heard.finished[-1]] == [3, 2, 3]
    assert heard.finished[-1][1].ticket == b"one", "a text that has ended stays as it was"
    assert [(request.samples, request.prompt) for request in peer.requests] == [(3, "Say")] * 2
    assert peer.requests[1].sampling.seed == 9


async def test_every_call_says_whose_it_is(peer: Any, make_face: Any) -> None:
    await make_face(peer.address, tenant="mine").whole()
    await make_face(peer.address).whole()
    assert [metadata.get("segue-tenant") for metadata in peer.metadata] == ["mine", None]


async def test_unary_calls_are_repeated_elsewhere(peer: Any, other_peer: Any, make_face: Any) -> None:
    peer.fail(UNAVAILABLE, "gone")
    face = make_face([peer.address, other_peer.address])
    assert (await face.call("model")).name == "toy"
    assert (len(peer.requests), len(other_peer.requests)) == (1, 1)
    assert (await face.call("model")).name == "toy"
    assert (len(peer.requests), len(other_peer.requests)) == (1, 2), "the address that failed is left"


async def test_the_state_before_the_last_characters(peer: Any, make_face: Any, script: Any) -> None:
    """What lies between the last ticket and that state is written once more."""
    peer.generate = calls(
        says(
            script.started(seed=9),
            script.text("abc", ticket=b"three"),
            script.text("defgh"),
            script.finished(generated_count=8),
        ),
        says(script.started(seed=9), script.text("def"), script.finished(generated_count=3, ticket=b"six")),
    )
    generation = await make_face(peer.address).call("generate", "Say", max_characters=8, stop="h", temperature=0.5)
    assert await _text(generation) == "abcdefgh"
    assert generation.rewindable_count == 7
    assert generation.latest_ticket == (3, b"three")
    assert await _maybe(generation.rewind(2)) == b"six"
    again = peer.requests[1]
    assert (again.start.ticket, again.prompt, again.max_characters) == (b"three", "", 3)
    assert (list(again.stop), again.return_ticket, again.sampling.seed) == ([], True, 9)
    assert again.sampling.temperature == 0.5
    assert await _maybe(generation.rewind(5)) == b"three"
    assert len(peer.requests) == 2, "that ticket is here already"


async def test_rewinding_to_before_the_first_ticket_repeats_the_request(peer: Any, make_face: Any, script: Any) -> None:
    peer.generate = calls(
        says(script.started(seed=9), script.text("abcd"), script.finished(generated_count=4)),
        says(script.started(seed=9), script.text("a"), script.finished(generated_count=1, ticket=b"one")),
    )
    generation = await make_face(peer.address).call("generate", "Say", written_before="w")
    await _text(generation)
    assert await _maybe(generation.rewind(3)) == b"one"
    again = peer.requests[1]
    assert (again.prompt, again.max_characters, again.sampling.seed) == ("Say", 1, 9)


async def test_rewinding_too_far_says_how_far_is_possible(peer: Any, make_face: Any) -> None:
    generation = await make_face(peer.address).call("generate", "Say")
    await _text(generation)
    with pytest.raises(NotRewindable, match="0 to 4 characters, not by 5") as caught:
        await _maybe(generation.rewind(5))
    assert isinstance(caught.value, InvalidRequest)
    assert caught.value.rewindable_count == 4
    from_ticket = await make_face(peer.address).call("generate", ticket=b"start")
    await _text(from_ticket)
    assert await _maybe(from_ticket.rewind(5)) == b"start"
    in_session = await make_face(peer.address).call("generate", session="mine")
    await _text(in_session)
    assert in_session.rewindable_count == 0


async def test_rewinding_stops_a_text_that_runs(peer: Any, make_face: Any, script: Any) -> None:
    def endless(_request: Any) -> Iterator[Any]:
        yield script.started()
        yield script.text("ab")
        peer.left.wait(20)

    peer.generate = calls(
        endless, says(script.started(), script.text("ab"), script.finished(generated_count=2, ticket=b"two"))
    )
    generation = await make_face(peer.address).call("generate", "Say")
    await _next(generation)
    assert await _maybe(generation.rewind(0)) == b"two"
    assert await asyncio.to_thread(peer.left.wait, 5)
    with pytest.raises(Cancelled):
        await _next(generation)


async def test_rewinding_on_another_kind_of_host_is_refused(peer: Any, make_face: Any, script: Any) -> None:
    hosts = [{"sha256": "ab", "host_class": each, "exact": True} for each in ("one", "other")]
    peer.generate = calls(
        says(script.started(continuation=hosts[0]), script.text("ab"), script.finished(generated_count=2)),
        says(script.started(continuation=hosts[1]), script.text("a"), script.finished(ticket=b"one")),
    )
    generation = await make_face(peer.address).call("generate", "Say", exact=False)
    await _text(generation)
    with pytest.raises(NotExact):
        await _maybe(generation.rewind(1))


async def _text(generation: Any) -> str:
    return str(await _maybe(generation.text()))


async def _next(generation: Any) -> Any:
    return await anext(generation) if hasattr(generation, "__anext__") else next(generation)


async def _maybe(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value
