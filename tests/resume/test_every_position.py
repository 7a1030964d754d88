"""A text resumed from a ticket, on another server process, is the uninterrupted one to the bit, wherever it was cut."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from segue.v1 import generation_pb2 as pb

POSITIONS = 200
BEYOND = 40
"""Characters that a text has behind the last of these positions."""
AFTERWARDS = 24
"""Characters by which two last tickets are compared."""
LONG = 800
PLACES = 4
"""At how many places at least a text of this length is seen to be cut on the way."""
AT_ONCE = 48

LIVELY_LINES = {"biases": [pb.CharacterBias(character="\n", bias=-3)]}
NO_CARRIAGE_RETURN = {"forbidden_characters": "\r"}
"""It would be a line feed in a stop string."""

CASES: dict[str, dict[str, Any]] = {
    "characters": {"model": "characters", "sampling": {"temperature": 0.9}, "alternatives": 3},
    "characters, filtered": {"model": "characters", "sampling": {"top_k": 9, "top_p": 0.97, "min_p": 0.01}},
    "greedy": {"model": "characters", "sampling": {"temperature": 0}},
    "layers": {"model": "layers", "sampling": {"temperature": 1.3, "top_p": 0.9}},
    "gru": {"model": "gru", "sampling": {"temperature": 1.1}},
    "int8": {"model": "int8", "sampling": {"temperature": 0.9}, "alternatives": 2},
    "int8, filtered": {"model": "int8", "sampling": {"temperature": 1.2, "top_k": 12, "min_p": 0.02}},
    "bytes": {"model": "bytes", "sampling": {"temperature": 1.1}, "repeated": NO_CARRIAGE_RETURN},
    "lines": {"model": "lines", "sampling": {"temperature": 0.8}, "repeated": LIVELY_LINES},
    "byte-lines": {
        "model": "byte-lines",
        "sampling": {"temperature": 0.9, "top_k": 100},
        "repeated": LIVELY_LINES | NO_CARRIAGE_RETURN,
    },
}

ENDS = [
    *((name, False) for name in CASES if "filtered" not in name),
    *((name, True) for name in CASES if name not in ("greedy", "layers", "gru", "byte-lines")),
]
"""Which of them are written to their own end, and which are ended by a stop string. A greedy text repeats itself: no
string of some length comes up late in it."""

_Result = TypeVar("_Result")


async def all_of(tasks: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """Await them all, some at a time; the first that fails ends the others."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(task: Awaitable[_Result]) -> _Result:
        async with free:
            return await task

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(task)) for task in tasks]
    return [task.result() for task in running]


@pytest.fixture
def company(generates: Any, texts: Any) -> Callable[[], AbstractAsyncContextManager[None]]:
    """Return a context in which both servers write other texts too, so that ticks are of many rows and lengths."""

    async def others(number: int) -> None:
        generator = random.Random(number)
        while True:
            case = texts.case("characters", {"top_k": 5 * (number % 2)}, seed=generator.randrange(1000))
            await texts.told().hear(generates[number % 2], case.request(generator.randrange(1, 3000)))

    @asynccontextmanager
    async def kept() -> Any:
        tasks = [asyncio.create_task(others(number)) for number in range(8)]
        yield
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return kept


@pytest.fixture
async def case(request: pytest.FixtureRequest, generates: Any, texts: Any) -> Any:
    """The case of this name, with a seed that makes its text long enough."""
    return await texts.case(**CASES[request.param]).of_length(generates[0], POSITIONS + 1, POSITIONS + BEYOND)


async def afterwards(generate: Any, case: Any, told: Any, texts: Any) -> Any:
    """What follows from the last ticket of a text: the state behind it, as far as it can be heard."""
    return (await texts.told().hear(generate, replace(case, stops=()).resumed(told.finished[-1].ticket, 24, ""))).heard


def with_long_stop(case: Any, text: str, texts: Any) -> Any:
    """Stop behind the last position by a string that begins long before it."""
    end = min(len(text), POSITIONS + 9)
    return replace(case, stops=("\n\n\n\n", texts.stop_between(text, end - 100, end)))


@pytest.mark.parametrize(("case", "stopped"), ENDS, indirect=["case"])
async def test_a_text_cut_at_every_position_goes_on_elsewhere_to_the_bit(
    case: Any, stopped: bool, generates: Any, texts: Any
) -> None:
    one, other = generates
    longest = POSITIONS + BEYOND
    whole = await texts.told().hear(one, case.request(longest))
    if stopped:
        case = with_long_stop(case, whole.text, texts)
        whole = await texts.told().hear(one, case.request(longest))
        assert whole.finished[-1].reason == pb.FINISH_REASON_STOP
    assert len(whole.text) > POSITIONS
    then = await afterwards(one, case, whole, texts)

    async def cut_at(position: int) -> None:
        told = await texts.told().hear(one, case.request(position))
        assert told.text == whole.text[:position]
        behind = told.finished[-1].position
        await told.hear(other, case.resumed(told.finished[-1].ticket, longest - position, told.text))
        assert told.heard == whole.heard
        assert await afterwards(one, case, told, texts) == then
        continuation = told.started[-1].continuation
        assert (continuation.exact, continuation.position) == (True, behind)

    await all_of(map(cut_at, range(1, POSITIONS + 1)))


@pytest.mark.parametrize("case", ["characters", "int8, filtered", "bytes", "lines"], indirect=True)
async def test_a_stop_string_may_begin_before_any_position_and_end_behind_it(
    case: Any, generates: Any, texts: Any
) -> None:
    """The text that it ends elsewhere ends within a tick, and its last ticket stands exactly there."""
    one, other = generates
    longest = POSITIONS + BEYOND
    whole = await texts.told().hear(one, case.request(longest))

    async def cut_at(position: int) -> None:
        generator = random.Random(position)
        begin, end = position - generator.randrange(1, 6), position + generator.randrange(1, 6)
        end = min(end, len(whole.text) - 1)
        stopping = replace(case, stops=("\n\n\n", texts.stop_between(whole.text, max(0, begin), end)))
        told = await texts.told().hear(one, case.request(position))
        await told.hear(other, stopping.resumed(told.finished[-1].ticket, longest - position, told.text))
        assert told.text == whole.text[:end]
        assert told.finished[-1].reason == pb.FINISH_REASON_STOP
        assert told.finished[-1].stop == stopping.stops[1]
        await told.hear(one, case.resumed(told.finished[-1].ticket, longest - end, told.text))
        assert told.heard == whole.heard

    await all_of(map(cut_at, range(1, POSITIONS + 1)))


@pytest.mark.parametrize("case", ["characters", "int8, filtered", "bytes", "byte-lines"], indirect=True)
async def test_a_ticket_on_the_way_denotes_exactly_what_came_until_then(
    case: Any, generates: Any, texts: Any, company: Any
) -> None:
    """The same text many times in changing company, so that its messages, and tickets, end wherever its ticks did.

    A busy machine joins what waits for its reader to fewer messages, so it is said again until some places were seen.
    """
    one, other = generates
    whole = await texts.told().hear(one, case.request(LONG))
    cuts: set[int] = set()

    async def hear_all(interval: int) -> None:
        told = await texts.told().hear(one, case.request(LONG, ticket_interval=interval))
        assert told.heard == whole.heard
        for position, ticket in told.tickets.items():
            begun = told.until(position)
            await begun.hear(other, case.resumed(ticket, LONG - position, begun.text))
            assert begun.heard == whole.heard
            cuts.add(position)

    async with company():
        while len(cuts) < PLACES:
            await all_of(hear_all(1 + number % 3) for number in range(24))


async def test_a_chain_of_resumptions_back_and_forth_under_load_is_one_text(
    generates: Any, texts: Any, company: Any
) -> None:
    longest = POSITIONS + BEYOND
    chains = []
    for name, stopped in ENDS:
        case = await texts.case(**CASES[name]).of_length(generates[0], POSITIONS + 1, longest)
        whole = await texts.told().hear(generates[0], case.request(longest))
        if stopped:
            case = with_long_stop(case, whole.text, texts)
            whole = await texts.told().hear(generates[0], case.request(longest))
        chains += [(case, whole, number) for number in range(4)]

    async def follow(case: Any, whole: Any, number: int) -> int:
        generator = random.Random(number)
        cuts = sorted(generator.sample(range(1, len(whole.text)), k=generator.randrange(3, 12)))
        told = await texts.told().hear(generates[number % 2], case.request(cuts[0]))
        for link, cut in enumerate([*cuts[1:], longest], 1):
            asked = case.resumed(told.finished[-1].ticket, cut - len(told.text), told.text)
            await told.hear(generates[(number + link) % 2], asked)
        assert told.heard == whole.heard
        return len(told.started) - 1

    async with company():
        resumptions = await all_of(follow(*chain) for chain in chains)
    assert sum(resumptions) > 5 * len(chains)
