"""The one thread that runs an engine, and the event loop's ends of its sequences.

Commands go to the thread through a queue; what a tick did comes back in one posting to the event loop. A stream
buffers what its reader has not taken yet; a full buffer pauses the sequence, so that a stalled reader costs a few
KB and no ticks.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from segue_server.engine.engine import Engine
from segue_server.engine.sequence import Sequence, StepOutput, joined_alternatives
from segue_server.errors import EngineFailed
from segue_server.runtime.tick_budget import TickBudget

HIGH_WATER: Final = 4096
"""Symbols that a stream buffers before its sequence is paused; an advance counts as one at least. What is under way
adds to it."""

_log = logging.getLogger(__name__)

Command = Callable[[Engine], None]


class Stream:
    """The event loop's end of one sequence: what has come and was not read yet, and nothing more."""

    def __init__(self, sequence: Sequence, worker: "EngineThread") -> None:
        self._sequence = sequence
        self._worker = worker
        self._arrived = asyncio.Event()
        self._groups: deque[list[StepOutput]] = deque()
        """What has come, to be read group by group; only the last one of a group may bring a state."""
        self._buffered = 0
        self._paused = False
        self._failed = False

    async def advance(self) -> StepOutput:
        """Wait for something to have come and return it all, up to the first state that came with it.

        Raises EngineFailed where the engine broke.
        """
        await self._arrived.wait()
        if not self._groups:
            raise EngineFailed("the engine failed; the server's log says why")
        group = self._groups.popleft()
        self._buffered -= sum(map(_symbols, group))
        if not self._groups:
            self._wait_for_more()
        return group[0] if len(group) == 1 else _joined(group)

    def _wait_for_more(self) -> None:
        if not self._failed:
            self._arrived.clear()
        if self._paused:
            self._paused = False
            self._worker.command(lambda engine: engine.resume(self._sequence))

    def deliver(self, advance: StepOutput) -> None:
        """Take what the engine did."""
        if self._groups and self._groups[-1][-1].state is None:
            self._groups[-1].append(advance)
        else:
            self._groups.append([advance])
        self._buffered += _symbols(advance)
        self._arrived.set()
        if self._buffered > HIGH_WATER and not self._paused and advance.finish is None:
            self._paused = True
            self._worker.command(lambda engine: engine.pause(self._sequence))

    def fail(self) -> None:
        """Wake the reader with EngineFailed."""
        self._failed = True
        self._arrived.set()


def _symbols(advance: StepOutput) -> int:
    """Return what an advance counts for in a stream's buffer."""
    return max(1, len(advance.written))


def _joined(group: list[StepOutput]) -> StepOutput:
    """Return consecutive advances of one sequence as one."""
    return replace(
        group[-1],
        written=np.concatenate([advance.written for advance in group]),
        log_probabilities=np.concatenate([advance.log_probabilities for advance in group]),
        alternatives=joined_alternatives([each.alternatives for each in group if each.alternatives is not None]),
        ranks=np.concatenate([advance.ranks for advance in group]),
    )


class EngineThread:
    """Owns an engine and the thread that runs it. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.failed = asyncio.Event()
        """Set when the engine broke: every stream has ended, and no new one will start."""
        self.draining = asyncio.Event()
        """Set when every sequence is being ended where it stands."""
        self._engine = engine
        self._loop = loop
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._streams: dict[Sequence, Stream] = {}
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._live = 0

    @property
    def live(self) -> int:
        """How many sequences the engine held after its latest tick or command."""
        return self._live

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the tick under way and wait for it."""
        self._commands.put(None)
        self._thread.join()

    def open(self, sequence: Sequence) -> Stream:
        """Add `sequence` to the engine. `close` must follow, however the stream ends."""
        stream = Stream(sequence, self)
        if self.failed.is_set():
            stream.fail()
            return stream
        self._streams[sequence] = stream
        self.command(lambda engine: engine.add(sequence))
        return stream

    def close(self, sequence: Sequence) -> None:
        """Forget the stream of `sequence`; the engine drops it before the next tick."""
        if self._streams.pop(sequence, None) is not None:
            self.command(lambda engine: engine.abort(sequence))

    def drain(self) -> None:
        """End every sequence where it stands, with its state."""
        self.draining.set()
        self.command(Engine.drain)

    def command(self, command: Command) -> None:
        """Have the engine's thread carry out `command` before its next tick."""
        self._commands.put(command)

    def _run(self) -> None:
        try:
            self._tick_until_stopped()
        except Exception:  # noqa: BLE001 - whatever broke it, every stream must hear of it
            _log.exception("the engine failed")
            self._loop.call_soon_threadsafe(self._fail)

    def _tick_until_stopped(self) -> None:
        pace, flushed = TickBudget(), time.monotonic()
        while self._obey_commands():
            advances = self._tick(pace)
            if time.monotonic() >= flushed + pace.flush_interval(self._engine.writing):
                advances += self._engine.collect()
                flushed = time.monotonic()
            self._live = len(self._engine)
            if advances:
                self._loop.call_soon_threadsafe(self._deliver, advances)

    def _tick(self, pace: TickBudget) -> list[StepOutput]:
        # Of this thread alone: time spent waiting for the interpreter would shorten the ticks, and so make more of
        # them, just when the interpreter is busy.
        engine, started = self._engine, time.thread_time()
        advances = engine.step(pace.steps(engine.rows), pace.reading_work(alone=not engine.writing))
        pace.observe(time.thread_time() - started, engine.work)
        return advances

    def _obey_commands(self) -> bool:
        """Carry out every command that has come, waiting for one if the engine is idle. False: stop."""
        while self._engine.idle or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command(self._engine)
            self._live = len(self._engine)
        return True

    def _deliver(self, advances: list[StepOutput]) -> None:
        for advance in advances:
            stream = self._streams.get(advance.sequence)
            if stream is None:
                continue
            if advance.finish is not None:
                del self._streams[advance.sequence]
            stream.deliver(advance)

    def _fail(self) -> None:
        self.failed.set()
        for stream in self._streams.values():
            stream.fail()
        self._streams.clear()
        self._live = 0
