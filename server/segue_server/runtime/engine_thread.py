"""The one thread that runs an engine, and the event loop's end of each sequence.

Commands go to the thread through a queue; the outputs of a tick come back in one call on the event loop. A stream
buffers what its reader has not taken yet, counted in bytes; a full buffer pauses the sequence, so that a stalled reader
costs some KB, whatever it asks for, and no ticks.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from segue_server.engine.engine import Engine
from segue_server.engine.scores import joined_alternatives
from segue_server.engine.sequence import Sequence, StepOutput
from segue_server.errors import EngineFailed
from segue_server.runtime.backlog import Backlog
from segue_server.runtime.flush_schedule import FlushSchedule
from segue_server.runtime.measured_rate import GUESS, LONG_WINDOW, MeasuredRate
from segue_server.runtime.owner import NOBODY, Owner
from segue_server.runtime.tick_budget import TickBudget
from segue_server.thread_priority import TurnLength, let_others_first

HIGH_WATER: Final = 2**15
"""Bytes that a stream holds for its reader before its sequence is paused; the output that goes beyond adds to it."""
MOST_JOINED: Final = 2**14
"""Bytes of outputs that are read as one, unless a single one is larger: a message is made of them, which the reader
may leave in gRPC's buffers."""

MOST_AT_ONCE: Final = 2**15
"""Bytes of outputs that are delivered in one turn of the event loop: their readers, which all make messages of them in
the next, take some milliseconds."""
LEAST_OUTPUT: Final = 2**11
"""Bytes that an output counts for there at least: to wake its reader takes its time, however little there is to read.
"""

MANY: Final = 64
"""Sequences that write: enough for any of them to wait for the others rather than for a core."""

_log = logging.getLogger(__name__)

Command = Callable[[Engine], None]


@dataclass(slots=True)
class _Group:
    """Outputs that are read as one; only the last may have a state."""

    outputs: list[StepOutput]
    nbytes: int

    def takes(self, nbytes: int) -> bool:
        """Whether an output of `nbytes` may follow."""
        return self.outputs[-1].state is None and self.nbytes + nbytes <= MOST_JOINED


class Stream:
    """The event loop's end of one sequence: its outputs that have not been read yet."""

    def __init__(self, sequence: Sequence, engine_thread: "EngineThread") -> None:
        self._sequence = sequence
        self._engine_thread = engine_thread
        self._arrived = asyncio.Event()
        self._groups: deque[_Group] = deque()
        self._sent = 0
        """Bytes of all outputs; the engine's thread alone writes it."""
        self._taken = 0
        """Bytes of those that were read; the event loop's thread alone writes it."""
        self._paused = False
        self._failed = False

    @property
    def is_paused(self) -> bool:
        """Whether its reader has stalled."""
        return self._paused

    async def next_output(self) -> StepOutput:
        """Wait for output, and return what has arrived up to the first state, or to a bound in bytes, as one.

        Raises EngineFailed if the engine failed.
        """
        await self._arrived.wait()
        if not self._groups:
            raise EngineFailed("the engine failed; the server's log says why")
        group = self._groups.popleft()
        self._taken += group.nbytes
        if not self._groups:
            self._wait_for_more()
        return group.outputs[0] if len(group.outputs) == 1 else _joined(group.outputs)

    def _wait_for_more(self) -> None:
        if not self._failed:
            self._arrived.clear()
        if self._paused:
            self._paused = False
            self._engine_thread.command(lambda engine: engine.resume(self._sequence))

    def count(self, output: StepOutput) -> bool:
        """Count `output` before it is delivered; return whether to pause the sequence. For the engine's thread.

        A pause that waited for the event loop would come ticks too late, just when the loop is busy.
        """
        self._sent += output.nbytes
        if self._paused or output.finish is not None or self._sent - self._taken <= HIGH_WATER:
            return False
        # Seen by the reader no later than with `output`, which it has not got yet: the sequence will be resumed.
        self._paused = True
        return True

    def deliver(self, output: StepOutput) -> int:
        """Buffer `output`; return its bytes."""
        nbytes = output.nbytes
        if self._groups and self._groups[-1].takes(nbytes):
            self._groups[-1].outputs.append(output)
            self._groups[-1].nbytes += nbytes
        else:
            self._groups.append(_Group([output], nbytes))
        self._arrived.set()
        return nbytes

    def fail(self) -> None:
        """Wake the reader with EngineFailed."""
        self._failed = True
        self._arrived.set()


def _joined(group: list[StepOutput]) -> StepOutput:
    """Return consecutive outputs of one sequence as one."""
    return replace(
        group[-1],
        symbols=sum(output.symbols for output in group),
        written=np.concatenate([output.written for output in group]),
        log_probabilities=np.concatenate([output.log_probabilities for output in group]),
        alternatives=joined_alternatives([each.alternatives for each in group if each.alternatives is not None]),
        ranks=np.concatenate([output.ranks for output in group]),
    )


class EngineThread:
    """Owns an engine and the thread that runs it. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, name: str, rate: float = GUESS) -> None:
        """`rate`: symbols a second to begin with; see `calibrate`."""
        self.failed = asyncio.Event()
        """Set when the engine failed: every stream has ended, and no new one will start."""
        self.draining = asyncio.Event()
        """Set when every sequence is being ended at its current character."""
        self._engine = engine
        self._loop = loop
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._streams: dict[Sequence, Stream] = {}
        self._arrived: deque[StepOutput] = deque()
        """Outputs that have come from the engine's thread and are not delivered yet."""
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._live = 0
        self._measured_rate, self._long_rate = MeasuredRate(rate), MeasuredRate(rate, LONG_WINDOW)
        self.backlog = Backlog(lambda: self.rate, lambda: self._long_rate.rate)
        self._busy_since = 0.0
        """When what has not been observed yet began, by the monotonic clock."""

    @property
    def rate(self) -> float:
        """Symbols a second that the engine reads and writes while its batches are full, as measured lately."""
        return self._measured_rate.rate

    @property
    def live(self) -> int:
        """How many sequences the engine held after its latest tick or command."""
        return self._live

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current tick and wait for it."""
        self._commands.put(None)
        self._thread.join()

    def open(self, sequence: Sequence, owner: Owner = NOBODY) -> Stream:
        """Add `sequence` of `owner` to the engine. `close` must follow, however the stream ends."""
        stream = Stream(sequence, self)
        if self.failed.is_set():
            stream.fail()
            return stream
        self._streams[sequence] = stream
        sequence.tenant = owner.group
        self.backlog.enter(sequence, owner)
        self.command(lambda engine: engine.add(sequence))
        return stream

    def close(self, sequence: Sequence) -> None:
        """Forget the stream of `sequence`; the engine drops the sequence before the next tick."""
        self.backlog.leave(sequence)
        if self._streams.pop(sequence, None) is not None:
            self.command(lambda engine: engine.abort(sequence))

    def end(self, sequence: Sequence) -> None:
        """End a sequence at its current character, with its state."""
        self.command(lambda engine: engine.end(sequence))

    def drain(self) -> None:
        """End every sequence at its current character, with its state."""
        self.draining.set()
        self.command(Engine.drain)

    def command(self, command: Command) -> None:
        """Have the engine's thread run `command` before its next tick."""
        self._commands.put(command)

    def _run(self) -> None:
        try:
            let_others_first()
            self._tick_until_stopped()
        except Exception:  # noqa: BLE001 - whatever the reason, every stream must end
            _log.exception("the engine failed")
            self._loop.call_soon_threadsafe(self._fail)

    def _tick_until_stopped(self) -> None:
        budget, flushes, turn_length = TickBudget(self._engine.capacity), FlushSchedule(time.monotonic()), TurnLength()
        while self._run_commands():
            turn_length.lengthen(self._engine.decoding >= MANY)
            outputs = self._tick(budget)
            streams = self._engine.decoding
            if parts := flushes.due(time.monotonic(), budget.flush_interval(streams), streams):
                outputs += self._engine.collect(parts)
            self._pause_unread(outputs)
            self._live = len(self._engine)
            if outputs:
                self._loop.call_soon_threadsafe(self._deliver, outputs)
            self._observe_rate()

    def _tick(self, budget: TickBudget) -> list[StepOutput]:
        # On the CPU, the CPU time of this thread alone: time spent waiting for the interpreter lock would shorten the
        # ticks, and so make more of them, just when the interpreter is busy. A device takes none of it.
        engine = self._engine
        clock = time.monotonic if engine.capacity.on_device else time.thread_time
        started = clock()
        writing = engine.decoding
        outputs = engine.step(budget.steps(engine.rows, writing), budget.prefill_work(writing))
        budget.observe(clock() - started, engine.work)
        return outputs

    def _pause_unread(self, outputs: list[StepOutput]) -> None:
        """Pause each sequence whose stream holds too much with its output."""
        for output in outputs:
            stream = self._streams.get(output.sequence)
            if stream is not None and stream.count(output):
                self._engine.pause(output.sequence)

    def _observe_rate(self) -> None:
        now, engine = time.monotonic(), self._engine
        for rate in (self._measured_rate, self._long_rate):
            rate.observe(engine.symbols, now - self._busy_since, engine.fullness)
        self._busy_since = now

    def _run_commands(self) -> bool:
        """Run every waiting command; wait for one if the engine is idle. False: stop."""
        while self._engine.idle or not self._commands.empty():
            idle = self._engine.idle
            command = self._commands.get()
            if idle:
                self._busy_since = time.monotonic()
            if command is None:
                return False
            command(self._engine)
            self._live = len(self._engine)
        return True

    def _deliver(self, outputs: list[StepOutput]) -> None:
        """Deliver outputs in order, a part in each turn of the event loop, so that others get theirs in between."""
        busy = bool(self._arrived)
        self._arrived.extend(outputs)
        if not busy:
            self._deliver_next()

    def _deliver_next(self) -> None:
        left = MOST_AT_ONCE
        while self._arrived and left > 0:
            left -= max(LEAST_OUTPUT, self._deliver_one(self._arrived.popleft()))
        if self._arrived:
            self._loop.call_soon(self._deliver_next)

    def _deliver_one(self, output: StepOutput) -> int:
        """Deliver one output to its stream, if that is still there; return its bytes."""
        stream = self._streams.get(output.sequence)
        if stream is None:
            return 0
        self.backlog.advance(output.sequence, output.position)
        if stream.is_paused:
            self.backlog.pause(output.sequence)
        if output.finish is not None:
            del self._streams[output.sequence]
            self.backlog.leave(output.sequence)
        return stream.deliver(output)

    def _fail(self) -> None:
        self.failed.set()
        while self._arrived:
            self._deliver_one(self._arrived.popleft())
        for stream in self._streams.values():
            stream.fail()
        self._streams.clear()
        self._live = 0
