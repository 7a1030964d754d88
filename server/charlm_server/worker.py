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
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from charlm_server.engine import Engine
from charlm_server.errors import EngineFailed
from charlm_server.pace import Pace
from charlm_server.sampling import Floats, Ids
from charlm_server.sequence import Advance, Alternatives, Sequence, joined_alternatives

HIGH_WATER: Final = 4096
"""Symbols that a stream buffers before its sequence is paused; an advance counts as one at least. What is under way
adds to it."""

_log = logging.getLogger(__name__)

Command = Callable[[Engine], None]


class Stream:
    """The event loop's end of one sequence: what has come and was not read yet, and nothing more."""

    def __init__(self, sequence: Sequence, worker: "Worker") -> None:
        self._sequence = sequence
        self._worker = worker
        self._arrived = asyncio.Event()
        self._latest: Advance | None = None
        self._written: list[Ids] = []
        self._log_probabilities: list[Floats] = []
        self._alternatives: list[Alternatives] = []
        self._buffered = 0
        self._paused = False
        self._failed = False

    async def advance(self) -> Advance:
        """Wait for something to have come and return all of it; raises EngineFailed where the engine broke."""
        await self._arrived.wait()
        if self._failed or self._latest is None:
            raise EngineFailed("the engine failed; the server's log says why")
        self._arrived.clear()
        advance = replace(
            self._latest,
            written=np.concatenate(self._written),
            log_probabilities=np.concatenate(self._log_probabilities),
            alternatives=joined_alternatives(self._alternatives),
        )
        self._written, self._log_probabilities, self._alternatives, self._buffered = [], [], [], 0
        if self._paused:
            self._paused = False
            self._worker.command(lambda engine: engine.resume(self._sequence))
        return advance

    def deliver(self, advance: Advance) -> None:
        """Take what the engine did."""
        self._latest = advance
        self._written.append(advance.written)
        self._log_probabilities.append(advance.log_probabilities)
        if advance.alternatives is not None:
            self._alternatives.append(advance.alternatives)
        self._buffered += max(1, len(advance.written))
        self._arrived.set()
        if self._buffered > HIGH_WATER and not self._paused and advance.finish is None:
            self._paused = True
            self._worker.command(lambda engine: engine.pause(self._sequence))

    def fail(self) -> None:
        """Wake the reader with EngineFailed."""
        self._failed = True
        self._arrived.set()


class Worker:
    """Owns an engine and the thread that runs it. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.failed = asyncio.Event()
        """Set when the engine broke: every stream has ended, and no new one will start."""
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
        pace, flushed = Pace(), time.monotonic()
        while self._obey_commands():
            advances = self._tick(pace)
            if time.monotonic() >= flushed + pace.flush_interval(self._engine.writing):
                advances += self._engine.collect()
                flushed = time.monotonic()
            self._live = len(self._engine)
            if advances:
                self._loop.call_soon_threadsafe(self._deliver, advances)

    def _tick(self, pace: Pace) -> list[Advance]:
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

    def _deliver(self, advances: list[Advance]) -> None:
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
