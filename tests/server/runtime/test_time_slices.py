"""Long work is done in slices: one at a time, and one in each pass of the event loop."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest
from segue_server.errors import Overloaded
from segue_server.runtime.owner import NOBODY, Owner
from segue_server.runtime.time_slices import MOST_CALLS, SLICE_SECONDS, Steps, at_once, in_slices

STEP = SLICE_SECONDS / 3.5
"""Four of these are a slice."""


class Clock:
    """Tells the time, which passes only by work."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Passes:
    """Counts the passes of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._tick()

    def _tick(self) -> None:
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._tick)

    def stop(self) -> None:
        self._handle.cancel()


@pytest.fixture
async def passes() -> Iterator[Passes]:
    counted = Passes()
    yield counted
    counted.stop()


def work(name: int, count: int, clock: Clock, passes: Passes, done: list[tuple[int, int]]) -> Steps[int]:
    for _ in range(count):
        yield
        clock.now += STEP
        done.append((passes.count, name))
    return name


def test_all_steps_are_done_and_the_result_is_theirs() -> None:
    done: list[tuple[int, int]] = []

    def steps() -> Steps[str]:
        for i in range(3):
            yield
            done.append((i, i))
        return "result"

    assert at_once(steps()) == "result"
    assert len(done) == 3


async def test_work_that_never_yields_is_done_without_giving_the_loop_back() -> None:
    def steps() -> Steps[str]:
        yield from ()
        return "result"

    coroutine = in_slices(steps())
    with pytest.raises(StopIteration) as result:
        coroutine.send(None)
    assert result.value.value == "result"


async def test_each_pass_of_the_loop_holds_one_slice_however_many_calls_work(passes: Passes) -> None:
    clock, done = Clock(), list[tuple[int, int]]()
    calls = [in_slices(work(name, 10, clock, passes, done), clock) for name in range(50)]
    assert await asyncio.gather(*calls) == list(range(50))
    assert len(done) == 500
    in_pass = [sum(at == number for at, _ in done) for number in range(passes.count + 1)]
    assert max(in_pass) <= 4, "more than one slice in a pass"


async def test_calls_take_turns(passes: Passes) -> None:
    clock, done = Clock(), list[tuple[int, int]]()
    await asyncio.gather(*(in_slices(work(name, 12, clock, passes, done), clock) for name in range(3)))
    turns = [done[i][1] for i in range(0, len(done), 4)]
    assert turns == [0, 0, 1, 2, 0, 1, 2, 1, 2]  # the first one asks again before the others have come


async def test_a_short_call_waits_for_one_slice_of_a_long_one(passes: Passes) -> None:
    clock, done = Clock(), list[tuple[int, int]]()
    long = asyncio.ensure_future(in_slices(work(0, 1_000, clock, passes, done), clock))
    await asyncio.sleep(0)
    await in_slices(work(1, 1, clock, passes, done), clock)
    assert sum(name == 0 for _, name in done) <= 2 * 4
    assert await long == 0


async def test_a_cancelled_call_gives_its_turn_on(passes: Passes) -> None:
    clock, done = Clock(), list[tuple[int, int]]()
    calls = [asyncio.ensure_future(in_slices(work(i, 100, clock, passes, done), clock)) for i in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    calls[0].cancel()
    calls[1].cancel()
    assert await calls[2] == 2


async def test_a_failure_ends_the_call_alone_and_keeps_nothing_alive() -> None:
    class Content:
        pass

    def failing(content: Content) -> Steps[None]:
        yield
        yield
        raise ValueError(content is None)

    async def call() -> weakref.ref[Content]:
        content = Content()
        with pytest.raises(ValueError, match="False"):
            await in_slices(failing(content))
        return weakref.ref(content)

    gc.collect()
    gc.disable()
    try:
        assert (await call())() is None
    finally:
        gc.enable()


def endless() -> Steps[None]:
    while True:
        yield


def long() -> Steps[str]:
    yield
    yield
    return "done"


async def test_new_calls_are_refused_where_many_take_turns_and_begun_ones_are_not() -> None:
    working = [asyncio.create_task(in_slices(endless())) for _ in range(MOST_CALLS)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await in_slices(long(), begins=NOBODY)
    begun = asyncio.create_task(in_slices(long()))
    await asyncio.sleep(0)
    for task in working:
        task.cancel()
    assert await begun == "done"
    await asyncio.gather(*working, return_exceptions=True)
    assert await in_slices(long(), begins=NOBODY) == "done"


async def test_no_client_takes_all_turns_for_long_requests() -> None:
    greedy, other = Owner("ipv4:127.0.0.1:1", ""), Owner("ipv4:127.0.0.1:2", "")
    calls = [asyncio.create_task(in_slices(endless(), begins=greedy)) for _ in range(MOST_CALLS)]
    await asyncio.sleep(0)
    refused = [call for call in calls if call.done()]
    assert len(refused) == MOST_CALLS // 2
    assert all(isinstance(call.exception(), Overloaded) for call in refused)
    begun = asyncio.create_task(in_slices(long(), begins=other))
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    assert await begun == "done"
    await asyncio.gather(*calls, return_exceptions=True)
    assert await in_slices(long(), begins=greedy) == "done"
