"""A thread that serves a store, and takes the commands that are waiting together.

The event loop is never blocked, and the store is not kept waiting by an event loop that is busy: its timeouts are its
own. What came while one batch was being served is the next one, so that a hundred calls at the same moment cost a store
one transaction or one round trip. A caller who is cancelled leaves the batch as it is: nobody gets another's answer.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from segue_server.errors import StoreUnavailable

MAX_BATCH: Final = 256
"""Commands."""
_REST_SECONDS: Final = 60.0
"""Without a command, until the backend may tidy up."""
_BUSY_REST_SECONDS: Final = 0.1
"""The same, where it has more to tidy up."""

_log = logging.getLogger(__name__)

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


class Backend(Protocol[C_contra]):
    """What does the work. All methods run in the thread."""

    def open(self) -> None:
        """Get ready; raises StartupError."""

    def run(self, commands: Sequence[C_contra]) -> list[Any]:
        """Return the answer to each command, an exception where it failed; raises StoreUnavailable if all did."""

    def tidy(self) -> bool:
        """Remove some of what has expired; return whether there is more."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True, slots=True)
class _Asked(Generic[C]):
    command: C
    answer: "asyncio.Future[Any]"


class BatchThread(Generic[C]):
    """Runs a backend. All methods are for the event loop's thread."""

    def __init__(self, backend: Backend[C], name: str, max_batch: int = MAX_BATCH) -> None:
        """`name`: of the store, for the log; `max_batch`: how many commands it takes at once."""
        self._backend = backend
        self._name = name
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[_Asked[C] | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[Any] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name=f"sessions in {name}", daemon=True)
        self._reachable = True

    async def start(self) -> None:
        """Start the thread; raises StartupError where the backend does not get ready."""
        self._thread.start()
        _value(await self._opened)

    async def do(self, command: C) -> Any:
        """Return what the backend answers; raises StoreUnavailable and what the backend raises."""
        asked = _Asked(command, self._loop.create_future())
        self._waiting.put(asked)
        return _value(await asked.answer)

    async def close(self) -> None:
        """End the thread behind all commands."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        try:
            self._backend.open()
        except Exception as error:  # noqa: BLE001 - whatever it is, `start` raises it
            self._post([(self._opened, error)])
            return
        self._post([(self._opened, None)])
        rest = _REST_SECONDS
        while True:
            try:
                asked = self._waiting.get(timeout=rest)
            except queue.Empty:
                rest = self._tidy()
                continue
            batch, stopping = self._batch_from(asked)
            if batch:
                self._answer(batch)
            if stopping:
                break
        self._backend.close()

    def _batch_from(self, asked: _Asked[C] | None) -> tuple[list[_Asked[C]], bool]:
        """Return what is waiting, from `asked` on, and whether the thread is to end behind it."""
        batch = list[_Asked[C]]()
        while asked is not None:
            if not asked.answer.cancelled():
                batch.append(asked)
            if len(batch) == self._max_batch or self._waiting.empty():
                return batch, False
            asked = self._waiting.get()
        return batch, True

    def _answer(self, batch: list[_Asked[C]]) -> None:
        try:
            answers = self._backend.run([asked.command for asked in batch])
        except StoreUnavailable as error:
            answers = [error, *(StoreUnavailable() for _ in batch[1:])]
        except Exception as error:  # noqa: BLE001 - a bug must not leave callers waiting
            answers = [error] * len(batch)
        self._note([answer for answer in answers if isinstance(answer, StoreUnavailable)])
        self._post([(asked.answer, answer) for asked, answer in zip(batch, answers, strict=True)])

    def _tidy(self) -> float:
        """Use the quiet; return for how long to wait for commands now."""
        try:
            return _BUSY_REST_SECONDS if self._backend.tidy() else _REST_SECONDS
        except StoreUnavailable as error:
            self._note([error])
        except Exception:  # noqa: BLE001 - a bug must not leave all callers waiting that come later
            _log.exception("sessions in %s could not be tidied", self._name)
        return _REST_SECONDS

    def _note(self, failures: list[StoreUnavailable]) -> None:
        """Tell the log when the store goes and when it comes back."""
        if self._reachable and failures:
            _log.warning("sessions in %s cannot be reached: %s", self._name, failures[0].__cause__)
        elif not (self._reachable or failures):
            _log.info("sessions in %s can be reached again", self._name)
        self._reachable = not failures

    def _post(self, answers: "list[tuple[asyncio.Future[Any], Any]]") -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: "list[tuple[asyncio.Future[Any], Any]]") -> None:
    for future, answer in answers:
        if not future.cancelled():
            future.set_result(answer)


def _value(answer: Any) -> Any:
    """Return an answer, or raise it where it is an exception."""
    if isinstance(answer, Exception):
        raise answer
    return answer
