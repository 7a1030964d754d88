"""Texts that outlive the server that began them: real processes, ended by SIGKILL and SIGTERM."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from segue_client import AsyncClient, Client, FinishReason

LONG = 12_000
"""Characters; no server is done with them when the first thousand are read."""

DETAILS: dict[str, Any] = {
    "seed": 3,
    "temperature": 0.9,
    "top_p": 0.95,
    "max_characters": LONG,
    "log_probabilities": True,
    "return_ticket": True,
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of servers that continue each other's tickets and share their sessions."""
    folder = tmp_path_factory.mktemp("shared")
    return ["--keys", str(folder / "keys"), "--sessions", f"sqlite:{folder / 'sessions'}"]


@pytest.fixture(scope="module")
def other(start_server: Any, shared: list[str]) -> Iterator[Any]:
    """A server that stays."""
    with start_server(*shared) as running:
        yield running


@pytest.fixture
def lost(start_server: Any, shared: list[str]) -> Iterator[Any]:
    """One that will be lost."""
    with start_server(*shared, "--drain-grace", "0") as running:
        yield running


def heard(generation: Any, lose: Callable[[], object] | None = None, after: int = 0) -> dict[str, Any]:
    """Read to the end; have the server lost once so many characters have come."""
    texts, log_probabilities, positions = [], [], []
    for chunk in generation:
        texts.append(chunk.text)
        log_probabilities += chunk.log_probabilities
        positions.append(chunk.position)
        if lose and sum(map(len, texts)) >= after:
            lose()
            lose = None
    assert lose is None
    finished = generation.finished
    assert positions == sorted(positions)
    return {
        "text": "".join(texts),
        "log_probabilities": log_probabilities,
        "position": positions[-1],
        "finished": (finished.reason, finished.stop, finished.generated_count, finished.position),
    }


def beyond(client: Client, ticket: bytes | None) -> str:
    """What follows a ticket: the same after equal states."""
    return client.generate(ticket=ticket, max_characters=80).text()


@pytest.mark.parametrize(
    ("options", "after"),
    [({}, 1), ({"ticket_interval": 100}, 1500), ({"ticket_interval": 0}, 2000)],
    ids=["before the first ticket", "many tickets", "no tickets"],
)
def test_a_killed_server_leaves_no_trace(lost: Any, other: Any, options: dict[str, Any], after: int) -> None:
    with Client(other.address) as client:
        undisturbed = client.generate("The ", **DETAILS, **options)
        expected = heard(undisturbed)
        with Client([lost.address, other.address]) as changing:
            disturbed = changing.generate("The ", **DETAILS, **options)
            assert heard(disturbed, lost.process.kill, after) == expected
        assert disturbed.resumed_count == 1
        assert disturbed.started.continuation == undisturbed.started.continuation
        assert beyond(client, disturbed.finished.ticket) == beyond(client, undisturbed.finished.ticket)


def test_a_stop_string_is_found_across_the_break(lost: Any, other: Any) -> None:
    """Wherever the break falls: every hundredth place is the end of a string that stops the text, but for the first."""
    options = DETAILS | {"ticket_interval": 1}
    with Client(other.address) as client:
        text = client.generate("The ", **options).text()
        stops = [text[end - 128 : end] for end in range(9000, LONG, 200)]
        expected = heard(client.generate("The ", **options, stop=stops))
        with Client([lost.address, other.address]) as changing:
            disturbed = changing.generate("The ", **options, stop=stops)
            assert heard(disturbed, lost.process.kill, 4000) == expected
    assert expected["finished"][0] is FinishReason.STOP
    assert disturbed.resumed_count == 1


def test_a_server_that_stops_hands_its_texts_over(lost: Any, other: Any) -> None:
    with Client(other.address) as client, Client([lost.address, other.address]) as changing:
        expected = heard(client.generate("The ", **DETAILS))
        disturbed = changing.generate("The ", **DETAILS)
        assert heard(disturbed, lost.process.terminate, 1000) == expected
    assert disturbed.resumed_count == 1


async def test_samples_outlive_their_server(lost: Any, other: Any) -> None:
    async def read(client: AsyncClient, lose: Callable[[], object] | None = None) -> list[dict[str, Any]]:
        options = DETAILS | {"max_characters": 4000}
        texts: list[dict[str, Any]] = [{"text": "", "log_probabilities": []} for _ in range(3)]
        async with await client.generate_samples("The ", 3, **options) as samples:
            async for sample, chunk in samples:
                texts[sample]["text"] += chunk.text
                texts[sample]["log_probabilities"] += chunk.log_probabilities
                if lose and len(texts[1]["text"]) > 500:
                    lose()
                    lose = None
        assert lose is None
        for text, finished in zip(texts, samples.finished, strict=True):
            assert finished
            text["finished"] = (finished.reason, finished.generated_count, finished.position)
        return texts

    async with AsyncClient(other.address) as client, AsyncClient([lost.address, other.address]) as changing:
        expected = await read(client)
        assert await read(changing, lost.process.kill) == expected
    assert len({text["text"] for text in expected}) == 3


def test_a_session_outlives_its_server_and_advances_once(lost: Any, other: Any) -> None:
    with Client(other.address) as client, Client([lost.address, other.address]) as changing:
        undisturbed, disturbed = client.open_session("one", seed=5), changing.open_session("two", seed=5)
        assert heard(disturbed.generate("The ", **DETAILS), lost.process.kill, 1000) == heard(
            undisturbed.generate("The ", **DETAILS)
        )
        assert disturbed.position == undisturbed.position == client.session("two").position
        assert disturbed.generate().text() == undisturbed.generate().text()


def test_a_server_that_comes_back_at_its_address_is_found_again(start_server: Any, shared: list[str]) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(start_server(*shared))
        port = first.address.rpartition(":")[2]
        with Client(first.address) as client:
            expected = heard(client.generate("The ", **DETAILS))

            def restart() -> None:
                first.process.kill()
                first.process.wait()
                stack.enter_context(start_server(*shared, "--port", port))

            disturbed = client.generate("The ", **DETAILS)
            assert heard(disturbed, restart, 1000) == expected
            assert disturbed.resumed_count == 1


@pytest.mark.parametrize("characters", [0, 1, 700, 1800, 2999])
def test_a_text_can_be_taken_back_to_any_character(server_address: str, characters: int) -> None:
    with Client(server_address) as client:
        options: dict[str, Any] = {"seed": 3, "max_characters": 3000}
        generation = client.generate("The ", **options)
        text = generation.text()
        ticket = generation.rewind(characters)
        again = client.generate(ticket=ticket, max_characters=max(1, characters)).text()
        if characters:
            assert again == text[-characters:]
        else:
            assert again == client.generate("The ", seed=3, max_characters=3001).text()[-1]
        other = client.generate(ticket=ticket, seed=4, max_characters=60).text()
        assert other != text[len(text) - characters :][:60]
