"""The engine's thread: what it does with stalled readers, and when the engine breaks."""

import asyncio
import weakref

import numpy as np
import pytest
from charlm_server.engine import Engine
from charlm_server.errors import EngineFailed
from charlm_server.model import Model
from charlm_server.sequence import Advance, Finish, Sequence, State
from charlm_server.worker import HIGH_WATER, Stream, TickLength, Worker

LONG = 3 * HIGH_WATER


def sequence(model: Model, seed: int, budget: int = LONG) -> Sequence:
    return Sequence(State.after_first(1, model.state_shape, seed), np.empty(0, dtype=np.int64), budget)


async def test_a_stalled_reader_costs_bounded_memory_and_loses_nothing(model: Model) -> None:
    engine = Engine(model, max_running=4)
    worker = Worker(engine, asyncio.get_running_loop(), "test")
    worker.start()
    endless = sequence(model, seed=1)
    stalled = worker.open(endless)
    async with asyncio.timeout(20):
        while not engine.idle or not worker.live:  # until it is paused, the engine has work
            await asyncio.sleep(0.01)
    state = endless.state
    await asyncio.sleep(0.1)
    assert endless.state is state, "a tick was spent on a stream that nobody reads"
    assert state.position < HIGH_WATER + 6 * TickLength.LONGEST
    advances: list[Advance] = []
    while not advances or advances[-1].finish is None:
        advances.append(await stalled.advance())
    worker.stop()
    unhindered = Engine(model, max_running=1)
    unhindered.add(sequence(model, seed=1))
    expected = []
    while len(unhindered):
        expected += [advance.written for advance in unhindered.step(16)]
    assert np.array_equal(np.concatenate([a.written for a in advances]), np.concatenate(expected))


async def test_when_the_engine_breaks_every_stream_ends_and_none_begins(model: Model) -> None:
    class Breaking(Engine):
        """Fails at its third tick."""

        ticks = 0

        def step(self, steps: int) -> list[Advance]:
            self.ticks += 1
            if self.ticks == 3:
                raise MemoryError
            return super().step(steps)

    worker = Worker(Breaking(model, max_running=4), asyncio.get_running_loop(), "test")
    streams = [worker.open(sequence(model, seed)) for seed in range(3)]
    worker.start()
    for stream in streams:
        with pytest.raises(EngineFailed):
            async with asyncio.timeout(10):
                while True:
                    await stream.advance()
    assert worker.failed.is_set()
    assert worker.live == 0
    with pytest.raises(EngineFailed):
        await worker.open(sequence(model, 9)).advance()


async def test_a_closed_stream_leaves_the_engine(model: Model) -> None:
    engine = Engine(model, max_running=4)
    worker = Worker(engine, asyncio.get_running_loop(), "test")
    worker.start()
    leaving = sequence(model, 2)
    kept, closed = worker.open(sequence(model, 1, budget=50)), worker.open(leaving)
    await closed.advance()
    worker.close(leaving)
    finish = None
    while finish is None:
        finish = (await kept.advance()).finish
    worker.stop()
    assert finish is Finish.LENGTH
    assert len(engine) == 0


def test_the_tick_grows_gradually_and_shrinks_at_once() -> None:
    length = TickLength(target=0.05, per_row=0.002)
    lengths = []
    for _ in range(10):
        lengths.append(length.steps(rows=1))
        length.observe(seconds=0.0001 * lengths[-1], rows=1)
    assert lengths == [4, 8, 16, 32, 64, *[TickLength.LONGEST] * 5]
    assert length.steps(rows=25) == 20  # 25 rows may take 2.5 ms a step: 20 fit
    assert length.steps(rows=100) == 20  # 10 ms a step, but 100 messages at the end: 200 ms are due
    length.observe(seconds=5.0, rows=100)
    assert length.steps(rows=100) == TickLength.SHORTEST


async def test_what_waits_for_a_reader_is_one_advance_with_the_latest_state(model: Model) -> None:
    reads = Sequence(State.after_first(1, model.state_shape, 0), np.ones(500, dtype=np.int64), 90, score_free=True)
    engine = Engine(model, max_running=1)
    stream = Stream(reads, Worker(engine, asyncio.get_running_loop(), "test"))
    states = []
    engine.add(reads)
    while len(engine):
        for advance in engine.step(4):
            stream.deliver(advance)
            states.append(weakref.ref(advance.state.h))
        del advance
    assert sum(state() is not None for state in states) == 1, "the states of earlier ticks are kept alive"
    merged = await stream.advance()
    assert len(merged.written) == len(merged.log_probabilities) == 90
    assert merged.state is reads.state
    assert merged.finish is Finish.LENGTH
