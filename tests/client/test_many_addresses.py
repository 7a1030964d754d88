"""Calls over several addresses, and event loops, of one client: against scripted peers."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from segue_client import AsyncClient, DeadlineExceeded, InvalidRequest, SegueError, ServerUnavailable


async def test_calls_spread_over_all_addresses(peer: Any, other_peer: Any, make_face: Any) -> None:
    face = make_face([peer.address, other_peer.address])
    texts = ["a" * 131_072] * 8  # a call each
    assert len(await face.call("score_many", texts)) == len(texts)
    assert len(peer.requests) + len(other_peer.requests) == len(texts)
    assert peer.requests
    assert other_peer.requests


async def test_a_full_address_is_remembered(peer: Any, other_peer: Any, make_face: Any) -> None:
    peer.fail_busy(600)
    face = make_face([peer.address, other_peer.address])
    for _ in range(5):
        await face.call("score", "abc")
    assert (len(peer.requests), len(other_peer.requests)) == (1, 5)


ENDINGS = ("whole", "refused", "broken", "against the contract", "out of time", "left")


@pytest.mark.parametrize("ending", ENDINGS)
async def test_nothing_counts_as_running_that_has_ended(
    peer: Any, other_peer: Any, make_face: Any, script: Any, ending: str
) -> None:
    """However it ended, calls go on to take turns."""

    def speak(_request: Any) -> Any:
        if ending == "refused":
            raise script.broken(grpc.StatusCode.INVALID_ARGUMENT)
        yield script.started()
        yield script.text("x")
        if ending in ("out of time", "left"):
            peer.left.wait(20)
        if ending == "broken":
            raise script.broken(grpc.StatusCode.INTERNAL)
        if ending == "whole":
            yield script.finished(generated_count=1)

    face = make_face([peer.address, other_peer.address])
    peer.generate = speak
    with suppress(SegueError):
        if ending == "left":
            await face.leave("with")
        else:
            await face.whole(timeout=0.5 if ending == "out of time" else None, resume=False)
    peer.requests.clear()
    for _ in range(6):
        await face.call("score", "abc")
    assert (len(peer.requests), len(other_peer.requests)) == (3, 3)


async def test_a_text_that_ends_while_it_waits_says_where_it_broke_off(peer: Any, make_face: Any, script: Any) -> None:
    def speak(_request: Any) -> Any:
        if len(peer.requests) == 1:
            yield script.started()
            yield script.text("ab")
        raise script.broken(grpc.StatusCode.UNAVAILABLE, "gone")

    peer.generate = speak
    with pytest.raises((DeadlineExceeded, ServerUnavailable), match=r"^the text broke off after 2 characters: .*gone"):
        await make_face(peer.address).whole(timeout=1)
    assert len(peer.requests) > 2


async def test_a_host_of_another_class_is_left_for_the_one_that_comes_back(
    peer: Any, other_peer: Any, make_face: Any, script: Any
) -> None:
    def speak(_request: Any) -> Any:
        yield script.started()
        yield script.text("ab" if len(peer.requests) == 1 else "abcd")
        if len(peer.requests) == 1:
            raise script.broken(grpc.StatusCode.UNAVAILABLE)
        yield script.finished(generated_count=4)

    def speak_otherwise(_request: Any) -> Any:
        yield script.started(continuation={"exact": True, "host_class": "another"})
        other_peer.left.wait(20)

    peer.generate, other_peer.generate = speak, speak_otherwise
    assert await make_face([peer.address, other_peer.address]).whole() == "abcd"
    assert (len(peer.requests), len(other_peer.requests)) == (2, 1)
    assert await asyncio.to_thread(other_peer.left.wait, 5), "its call is cancelled"


def test_one_asynchronous_client_serves_one_event_loop_after_another(peer: Any) -> None:
    client = AsyncClient(peer.address)

    async def use() -> str:
        assert await client.models()
        return await (await client.generate("Say: ")).text()

    assert [asyncio.run(use()) for _ in range(3)] == ["Hello"] * 3
    asyncio.run(client.close())


async def test_but_not_two_event_loops_at_once(peer: Any) -> None:
    async with AsyncClient(peer.address) as client:
        assert await client.models()
        with pytest.raises(InvalidRequest, match="event loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.models()))
        assert await client.models()
