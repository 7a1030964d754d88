"""The engine's thread: what it does with stalled readers, and when the engine breaks."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from segue_server.engine.decode_batch import MOST_GATHERED
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.sequence import OBJECTS, Finish, Sequence, State, StepOutput
from segue_server.errors import EngineFailed
from segue_server.runtime import engine_thread
from segue_server.runtime.engine_thread import HIGH_WATER, MANY, MOST_AT_ONCE, MOST_JOINED, EngineThread, Stream
from segue_server.runtime.tick_budget import TickBudget
from segue_server.thread_priority import TurnLength

FOREVER = 2**40
PATIENCE = 60
"""Seconds until a test is given up as hanging."""


def sequence(
    model: Model, seed: int, max_characters: int = FOREVER, prefill_ids: int = 0, **fields: object
) -> Sequence:
    state = State.after_first(1, model.state_shape, seed)
    return Sequence(state, np.ones(prefill_ids, dtype=np.int64), max_characters, **fields)


@asynccontextmanager
async def working(engine: Engine) -> AsyncIterator[EngineThread]:
    """A thread that runs `engine` until the end of the block."""
    thread = EngineThread(engine, asyncio.get_running_loop(), "test")
    thread.start()
    try:
        async with asyncio.timeout(PATIENCE):
            yield thread
    finally:
        thread.stop()


async def heard_by(thread: EngineThread) -> None:
    """Wait until every command so far is carried out, the tick after it run, and what that gave delivered."""
    loop = asyncio.get_running_loop()
    for _ in range(2):
        heard = asyncio.Event()
        thread.command(lambda _, heard=heard: loop.call_soon_threadsafe(heard.set))
        await heard.wait()


async def until_the_end(stream: Stream) -> list[StepOutput]:
    outputs = [await stream.next_output()]
    while outputs[-1].finish is None:
        outputs.append(await stream.next_output())
    return outputs


def text_of(outputs: list[StepOutput]) -> list[int]:
    return [symbol for output in outputs for symbol in output.written.tolist()]


def alone(model: Model, what: Sequence, steps: int = 16) -> list[StepOutput]:
    engine, outputs = Engine(model), list[StepOutput]()
    engine.add(what)
    while len(engine):
        outputs += engine.step(steps, 1000)
    return outputs


async def test_a_stalled_reader_stops_the_stream_and_loses_nothing(model: Model) -> None:
    engine, endless = Engine(model), sequence(model, seed=1)
    async with working(engine) as thread:
        stalled = thread.open(endless)
        while not stalled._paused:
            await asyncio.sleep(0.01)
        await heard_by(thread)
        while not engine.idle:  # what was written until then is still handed out
            await asyncio.sleep(0.01)
        paused_at = endless.state
        assert len(text_of(await until_the_end(thread.open(sequence(model, seed=2, max_characters=200))))) == 200
        assert endless.state is paused_at, "a tick was spent on a stream that nobody reads"
        assert stalled._sent - stalled._taken > HIGH_WATER
        text = list[int]()
        while len(text) + 1 < paused_at.position:
            assert len(stalled._groups) > 0
            text += text_of([await stalled.next_output()])
        while len(text) < 4 * paused_at.position:  # read again, it goes on
            text += text_of([await stalled.next_output()])
        thread.close(endless)
    assert text == text_of(alone(model, sequence(model, seed=1, max_characters=len(text)), steps=64))


def hold(stream: Stream, output: StepOutput) -> bool:
    """What the two threads do with an output; return whether the sequence is to be paused."""
    pause = stream.count(output)
    stream.deliver(output)
    return pause


async def test_one_that_reads_without_end_is_stopped_where_nobody_takes_its_scores(model: Model) -> None:
    """Each output counts, also one without symbols."""
    stream = Stream(sequence(model, 1), EngineThread(Engine(model), asyncio.get_running_loop(), "test"))
    nothing = StepOutput(stream._sequence, np.empty(0, dtype=np.int64), np.empty(0), 1)
    held = HIGH_WATER // nothing.nbytes
    assert not any(hold(stream, nothing) for _ in range(held))
    assert hold(stream, nothing)
    assert not hold(stream, nothing), "one pause is enough"
    while stream._groups:
        await stream.next_output()
    assert not any(hold(stream, nothing) for _ in range(held))
    assert hold(stream, nothing)


async def test_its_turns_are_long_as_long_as_many_write(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = Engine(model), list[tuple[int, bool]]()

    class Noted(TurnLength):
        def lengthen(self, wanted: bool) -> None:
            seen.append((engine.decoding, wanted))

    monkeypatch.setattr(engine_thread, "TurnLength", Noted)
    async with working(engine) as thread:
        streams = [thread.open(sequence(model, seed, 50 if seed else 5000)) for seed in range(MANY)]
        for stream in streams:
            await until_the_end(stream)
    assert all(wanted == (writing >= MANY) for writing, wanted in seen)
    assert {wanted for _, wanted in seen} == {True, False}
    assert not seen[-1][1]


@pytest.mark.parametrize("fails_in", ["step", "collect"])
async def test_when_the_engine_breaks_every_stream_ends_and_none_begins(model: Model, fails_in: str) -> None:
    class Breaking(Engine):
        """Fails at its third call."""

        calls = 0

        def count(self, where: str) -> None:
            self.calls += where == fails_in
            if self.calls == 3:
                raise MemoryError

        def step(self, steps: int, prefill_work: int) -> list[StepOutput]:
            self.count("step")
            return super().step(steps, prefill_work)

        def collect(self) -> list[StepOutput]:
            self.count("collect")
            return super().collect()

    thread = EngineThread(Breaking(model), asyncio.get_running_loop(), "test")
    streams = [thread.open(sequence(model, seed)) for seed in range(3)]
    thread.start()
    async with asyncio.timeout(PATIENCE):
        for stream in streams:
            with pytest.raises(EngineFailed):
                while True:
                    await stream.next_output()
    assert thread.failed.is_set()
    assert thread.live == 0
    with pytest.raises(EngineFailed):
        await thread.open(sequence(model, 9)).next_output()
    thread.stop()


async def test_a_closed_stream_leaves_the_engine(model: Model) -> None:
    engine, leaving = Engine(model), sequence(model, 2)
    async with working(engine) as thread:
        kept, closed = thread.open(sequence(model, 1, max_characters=50)), thread.open(leaving)
        await closed.next_output()
        thread.close(leaving)
        thread.close(leaving)  # once more is no harm
        outputs = await until_the_end(kept)
        assert (len(text_of(outputs)), outputs[-1].finish) == (50, Finish.LENGTH)
        while thread.live:
            await asyncio.sleep(0.01)
    assert len(engine) == 0


async def test_draining_ends_every_stream_with_its_state(model: Model) -> None:
    async with working(Engine(model)) as thread:
        streams = [thread.open(sequence(model, seed, prefill_ids=3)) for seed in range(5)]
        begun = [await stream.next_output() for stream in streams]
        thread.drain()
        for seed, (stream, first) in enumerate(zip(streams, begun, strict=True)):
            outputs = [first, *await until_the_end(stream)]
            assert outputs[-1].finish is Finish.DRAINED
            assert outputs[-1].state is not None
            text = text_of(outputs)
            assert outputs[-1].state.position == 1 + 3 + len(text)
            assert text == text_of(alone(model, sequence(model, seed, max_characters=len(text), prefill_ids=3)))


async def test_many_streams_that_come_and_go_each_get_their_own_text(model: Model) -> None:
    """The thread, its queue and the event loop between them mix nothing up."""

    async def read(thread: EngineThread, seed: int) -> list[int]:
        await asyncio.sleep(0.001 * (seed % 7))
        what = sequence(model, seed, max_characters=1 + 37 * seed % 400, prefill_ids=seed % 30)
        text = text_of(await until_the_end(thread.open(what)))
        thread.close(what)
        return text

    async with working(Engine(model, rows=8)) as thread:
        texts = await asyncio.gather(*(read(thread, seed) for seed in range(40)))
    for seed, text in enumerate(texts):
        again = sequence(model, seed, max_characters=1 + 37 * seed % 400, prefill_ids=seed % 30)
        assert text == text_of(alone(model, again))


async def test_what_waits_for_a_reader_is_one_output(model: Model) -> None:
    """With all symbols, scores and alternatives in order, and the position and the end of the last."""

    def reads_and_writes() -> Sequence:
        return sequence(model, 0, 60, prefill_ids=200, score_prefill=True, score_decode=True, alternatives=1)

    waits, engine = reads_and_writes(), Engine(model)
    stream = Stream(waits, EngineThread(engine, asyncio.get_running_loop(), "test"))
    engine.add(waits)
    delivered = 0
    while len(engine):
        for output in [*engine.step(6, 500), *engine.collect()]:
            hold(stream, output)
            delivered += 1
    assert delivered > 8
    merged = await stream.next_output()
    expected = alone(model, reads_and_writes(), steps=64)
    assert text_of([merged]) == text_of(expected)
    assert merged.log_probabilities.tolist() == [p for a in expected for p in a.log_probabilities.tolist()]
    assert len(merged.log_probabilities) == 260
    assert merged.alternatives is not None
    parts = [a.alternatives for a in expected if a.alternatives is not None]
    assert merged.alternatives.ids.tolist() == [row for part in parts for row in part.ids.tolist()]
    assert merged.alternatives.log_probabilities.shape == (60, 1)
    assert (merged.position, merged.finish) == (261, Finish.LENGTH)
    assert merged.state is not None
    assert expected[-1].state is not None
    assert merged.state.h.tobytes() == expected[-1].state.h.tobytes()


async def test_a_stalled_stream_can_be_ended_and_what_it_holds_is_still_read(model: Model) -> None:
    """Though the engine has nothing else to do."""
    engine, endless = Engine(model), sequence(model, seed=1)
    async with working(engine) as thread:
        stream = thread.open(endless)
        while not (stream._paused and engine.idle):
            await asyncio.sleep(0.01)
        thread.end(endless)
        outputs = await until_the_end(stream)
        assert len(engine) == thread.live == 0
    text = text_of(outputs)
    assert text == text_of(alone(model, sequence(model, seed=1, max_characters=len(text)), steps=64))
    assert outputs[-1].finish is Finish.DRAINED
    assert outputs[-1].state is not None
    assert outputs[-1].state.position == 1 + len(text)


async def test_what_was_taken_does_not_come_again(model: Model) -> None:
    engine, what = Engine(model), sequence(model, 0, 30, score_decode=True, alternatives=1)
    stream = Stream(what, EngineThread(engine, asyncio.get_running_loop(), "test"))
    engine.add(what)
    taken = []
    while len(engine):
        for output in [*engine.step(2, 1), *engine.collect()]:
            hold(stream, output)
            taken.append(await stream.next_output())
    assert text_of(taken) == text_of(alone(model, sequence(model, 0, 30)))
    assert sum(len(a.log_probabilities) for a in taken) == 30
    assert sum(len(a.alternatives.ids) for a in taken if a.alternatives) == 30


SYMBOL = 8
"""Bytes of an id, or of a log-probability."""


@pytest.mark.parametrize(
    "fields",
    [{}, {"score_decode": True}, {"score_decode": True, "alternatives": 20}, {"state_interval": 1}],
    ids=["text", "log-probabilities", "alternatives", "states"],
)
async def test_a_stalled_stream_holds_little_whatever_it_asks_for(model: Model, fields: dict[str, object]) -> None:
    """Also while the event loop is busy, and counting what its arrays are views of."""
    engine, endless = Engine(model), [sequence(model, seed, **fields) for seed in range(3)]
    async with working(engine) as thread:
        streams = [thread.open(each) for each in endless]
        while not (all(stream._paused for stream in streams) and engine.idle):
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251 - the loop delivers nothing meanwhile
        await heard_by(thread)
        held = [[output for group in stream._groups for output in group.outputs] for stream in streams]
        assert [held_by(outputs) for outputs in held] == [stream._sent - stream._taken for stream in streams], (
            "what is held is not what is counted"
        )
        assert all(HIGH_WATER < held_by(outputs) < HIGH_WATER + LARGEST for outputs in held)
        for group in (group for stream in streams for group in stream._groups):
            assert len(group.outputs) == 1 or held_by(group.outputs) <= MOST_JOINED
    assert HIGH_WATER + LARGEST < 64 * 1024


LARGEST = MOST_GATHERED + TickBudget.LONGEST * (2 + 2 * 20) * SYMBOL
"""Bytes of one output, at most: what was gathered before a tick, and what the tick adds."""


def held_by(outputs: list[StepOutput]) -> int:
    """What outputs keep alive, in bytes."""
    total = 0
    for output in outputs:
        arrays = [output.written, output.log_probabilities, output.ranks]
        if output.alternatives is not None:
            arrays += [output.alternatives.ids, output.alternatives.log_probabilities]
        if output.state is not None:
            arrays += [output.state.h, output.state.c]
        total += OBJECTS + sum((array if array.base is None else array.base).nbytes for array in arrays)
    return total


async def test_many_outputs_leave_the_event_loop_its_turns(model: Model) -> None:
    """They are delivered in order, in parts; what comes meanwhile comes after them."""
    thread, turns = EngineThread(Engine(model), asyncio.get_running_loop(), "test"), [0]
    streams = [thread.open(sequence(model, seed)) for seed in range(600)]
    rounds = [
        [StepOutput(stream._sequence, np.full(50, turn), np.empty(0), 1, finish=finish) for stream in streams]
        for turn, finish in enumerate((None, None, Finish.LENGTH))
    ]
    assert sum(output.nbytes for output in rounds[0]) > 10 * MOST_AT_ONCE
    thread._deliver(rounds[0])
    thread._deliver(rounds[1])
    while thread._arrived:
        before = len(thread._arrived)
        await asyncio.sleep(0)
        turns.append(before - len(thread._arrived))
        if len(turns) == 3:
            thread._deliver(rounds[2])
    assert max(turns) <= MOST_AT_ONCE // rounds[0][0].nbytes + 1
    assert len(thread._streams) == 0
    for stream in streams:
        assert text_of(await until_the_end(stream)) == [0] * 50 + [1] * 50 + [2] * 50


async def test_a_few_outputs_are_delivered_at_once(model: Model) -> None:
    thread = EngineThread(Engine(model), asyncio.get_running_loop(), "test")
    stream = thread.open(sequence(model, 1))
    thread._deliver([StepOutput(stream._sequence, np.ones(50, dtype=np.int64), np.empty(0), 1)])
    assert stream._groups


async def test_what_came_before_the_engine_broke_is_delivered(model: Model) -> None:
    thread = EngineThread(Engine(model), asyncio.get_running_loop(), "test")
    streams = [thread.open(sequence(model, seed)) for seed in range(200)]
    thread._deliver([StepOutput(stream._sequence, np.ones(50, dtype=np.int64), np.empty(0), 1) for stream in streams])
    thread._fail()
    for stream in streams:
        assert text_of([await stream.next_output()]) == [1] * 50
        with pytest.raises(EngineFailed):
            await stream.next_output()


async def test_a_device_is_paced_by_the_wall_clock_and_gives_the_same(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread only waits: by its own CPU time, ticks would seem to cost nothing."""
    calls = list[str]()

    def thread_time() -> float:
        calls.append("thread_time")
        return time.monotonic()

    monkeypatch.setattr(engine_thread.time, "thread_time", thread_time)
    texts = dict[str, list[int]]()
    for name in ("characters", "characters on a device"):
        calls.clear()
        async with working(Engine(models[name])) as thread:
            outputs = await until_the_end(thread.open(sequence(models[name], 3, 300)))
        texts[name] = text_of(outputs)
        assert bool(calls) == (name == "characters")
    assert texts["characters"] == texts["characters on a device"]
