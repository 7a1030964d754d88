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
from typing import Final

from charlm_server.engine import Engine
from charlm_server.errors import EngineFailed
from charlm_server.sequence import Advance, Sequence

HIGH_WATER: Final = 4096
"""Characters that a stream buffers before its sequence is paused. Ticks under way add to it."""

_log = logging.getLogger(__name__)

Command = Callable[[Engine], None]


class TickLength:
    """Chooses the steps of a tick so that it takes about `target` seconds, whatever the load.

    Results do not depend on it; it balances the cost of a tick and a message against how evenly text flows.
    """

    SHORTEST: Final = 4
    LONGEST: Final = 128

    def __init__(self, target: float = 0.1) -> None:
        self.steps = self.SHORTEST
        self._target = target

    def observe(self, seconds: float) -> None:
        """Take the duration of the tick that had `steps` steps; growth is gradual, shrinking is not."""
        fitting = int(self.steps * self._target / max(seconds, 1e-6))
        self.steps = max(self.SHORTEST, min(fitting, 2 * self.steps, self.LONGEST))


class Stream:
    """The event loop's end of one sequence: an unbounded wait for a bounded number of characters."""

    def __init__(self, sequence: Sequence, worker: "Worker") -> None:
        self.sequence = sequence
        self._worker = worker
        self._arrived = asyncio.Event()
        self._advances: list[Advance] = []
        self._buffered = 0
        self._paused = False
        self._failed = False

    async def advances(self) -> list[Advance]:
        """Wait for something to have happened and return all of it; raises EngineFailed where the engine broke."""
        await self._arrived.wait()
        if self._failed:
            raise EngineFailed("the engine failed; the server's log says why")
        self._arrived.clear()
        advances, self._advances, self._buffered = self._advances, [], 0
        if self._paused:
            self._paused = False
            self._worker.command(lambda engine: engine.resume(self.sequence))
        return advances

    def deliver(self, advance: Advance) -> None:
        """Take what a tick did."""
        self._advances.append(advance)
        self._buffered += len(advance.written)
        self._arrived.set()
        if self._buffered > HIGH_WATER and not self._paused and advance.finish is None:
            self._paused = True
            self._worker.command(lambda engine: engine.pause(self.sequence))

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

    def close(self, stream: Stream) -> None:
        """Forget the stream; the engine drops its sequence before the next tick."""
        if self._streams.pop(stream.sequence, None) is not None:
            self.command(lambda engine: engine.abort(stream.sequence))

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
        length = TickLength()
        while self._obey_commands():
            if self._engine.idle:
                continue
            started = time.perf_counter()
            advances = self._engine.step(length.steps)
            length.observe(time.perf_counter() - started)
            self._live = len(self._engine)
            self._loop.call_soon_threadsafe(self._deliver, advances)

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
