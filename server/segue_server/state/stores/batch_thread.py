"""A thread that runs a store's commands in batches.

The store never blocks the event loop, and a busy event loop does not delay the store's timeouts. Commands that arrive
during one batch form the next, so a hundred simultaneous calls cost a store one transaction or one round trip. A
cancelled caller does not change its batch, so nobody gets another caller's answer.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from segue_server.errors import StoreLost, StoreUnavailable
from segue_server.telemetry.rate_limited_log import RateLimitedLog

MAX_BATCH: Final = 256
"""Commands."""
_REST_SECONDS: Final = 60.0
"""Idle time before the backend tidies up."""
_BUSY_REST_SECONDS: Final = 0.1
"""The same, if there is more to tidy up."""
_LOG_SECONDS: Final = 60.0
"""Least time between two lines about commands that failed alone."""

_log = logging.getLogger(__name__)

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


class Backend(Protocol[C_contra]):
    """Runs the commands. All methods are called in the thread."""

    def open(self) -> None:
        """Prepare; raises StartupError."""

    def run(self, commands: Sequence[C_contra]) -> list[Any]:
        """Return the answer to each command, or its exception; raises StoreUnavailable if the store serves nobody."""

    def tidy(self) -> bool:
        """Remove some expired sessions; return whether there are more."""

    def close(self) -> None:
        """Release everything."""


@dataclass(frozen=True, slots=True)
class _Pending(Generic[C]):
    command: C
    answer: "asyncio.Future[Any]"


class BatchThread(Generic[C]):
    """Runs a backend. All methods must be called in the event loop's thread."""

    def __init__(self, backend: Backend[C], name: str, max_batch: int = MAX_BATCH) -> None:
        """`name`: of the store, for the log; `max_batch`: in commands."""
        self._backend = backend
        self._name = name
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[_Pending[C] | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[Any] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name=f"sessions in {name}", daemon=True)
        self._failing: type[StoreUnavailable] | None = None
        self._failures = RateLimitedLog(_log, _LOG_SECONDS)

    async def start(self) -> None:
        """Start the thread; raises StartupError if the backend cannot open."""
        self._thread.start()
        _value_of(await self._opened)

    async def do(self, command: C) -> Any:
        """Run a command and return its answer; raises StoreUnavailable and what the backend raises."""
        pending = _Pending(command, self._loop.create_future())
        self._waiting.put(pending)
        try:
            return _value_of(await pending.answer)
        finally:
            del pending  # an error's traceback holds this frame: no circle back to the error

    async def close(self) -> None:
        """End the thread after all waiting commands."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        try:
            self._backend.open()
        except Exception as error:  # noqa: BLE001 - `start` raises it
            self._post([(self._opened, error)])
            return
        self._post([(self._opened, None)])
        rest = _REST_SECONDS
        while True:
            try:
                pending = self._waiting.get(timeout=rest)
            except queue.Empty:
                rest = self._tidy()
                continue
            batch, stopping = self._batch_from(pending)
            if batch:
                self._answer(batch)
            if stopping:
                break
        self._backend.close()

    def _batch_from(self, pending: _Pending[C] | None) -> tuple[list[_Pending[C]], bool]:
        """Return the waiting commands from `pending` on, and whether to stop after them."""
        batch = list[_Pending[C]]()
        while pending is not None:
            if not pending.answer.cancelled():
                batch.append(pending)
            if len(batch) == self._max_batch or self._waiting.empty():
                return batch, False
            pending = self._waiting.get()
        return batch, True

    def _answer(self, batch: list[_Pending[C]]) -> None:
        try:
            answers = self._backend.run([pending.command for pending in batch])
        except StoreUnavailable as error:
            self._note(error)
            answers = [type(error)() for _ in batch]
        except Exception as error:  # noqa: BLE001 - a bug must not leave callers waiting
            answers = [error] * len(batch)
        else:
            self._note(None)
            self._note_failures([answer for answer in answers if isinstance(answer, StoreUnavailable)])
        self._post([(pending.answer, answer) for pending, answer in zip(batch, answers, strict=True)])

    def _tidy(self) -> float:
        """Let the backend tidy up; return the idle time before the next time."""
        try:
            return _BUSY_REST_SECONDS if self._backend.tidy() else _REST_SECONDS
        except StoreUnavailable as error:
            self._note(error)
        except Exception:  # noqa: BLE001 - a bug must not end the thread
            _log.exception("sessions in %s could not be tidied", self._name)
        return _REST_SECONDS

    def _note(self, failure: StoreUnavailable | None) -> None:
        """Log when the store begins to fail everybody, and when it serves again."""
        before, self._failing = self._failing, type(failure) if failure else None
        if self._failing is before:
            return
        if failure is None:
            _log.info("sessions in %s can be reached again", self._name)
        elif isinstance(failure, StoreLost):
            _log.error("SESSIONS IN %s ARE REFUSED, or they would be lost: %s", self._name, failure.__cause__)
        else:
            _log.warning("sessions in %s cannot be reached: %s", self._name, failure.__cause__)

    def _note_failures(self, failures: list[StoreUnavailable]) -> None:
        """Log, seldom, that commands failed while others may have been answered."""
        for failure in failures:
            self._failures.warn("command", "sessions in %s: a command failed: %s", self._name, failure.__cause__)

    def _post(self, answers: "list[tuple[asyncio.Future[Any], Any]]") -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: "list[tuple[asyncio.Future[Any], Any]]") -> None:
    for future, answer in answers:
        if not future.cancelled():
            future.set_result(answer)


def _value_of(answer: Any) -> Any:
    """Return an answer, or raise it if it is an exception."""
    try:
        if isinstance(answer, Exception):
            raise answer
        return answer
    finally:
        del answer  # the traceback holds this frame: no circle back to the error
