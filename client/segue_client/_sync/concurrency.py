"""What only the synchronous client does in this way; `_async/concurrency.py` has the same names.

Python cannot cancel a thread, so `in_order` cancels the calls that its threads wait for in `invoke` and `next_message`.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from queue import SimpleQueue as Queue
from threading import Lock
from time import sleep
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

import grpc

from segue_client.errors import translate
from segue_client.messages.generation_request import iterated

__all__ = [
    "Event",
    "Job",
    "Lock",
    "Owner",
    "Queue",
    "ServerStream",
    "in_order",
    "invoke",
    "iterate",
    "next_message",
    "sleep",
    "translated",
]

_Result = TypeVar("_Result")
_Received_co = TypeVar("_Received_co", covariant=True)

Job: TypeAlias = Callable[[], _Result]

iterate = iterated


class Owner:
    """The process whose threads use a client."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._inherited: list[object] = []

    def has_changed(self, channels: object) -> bool:
        """Whether another process took over, forked from the one before, whose `channels` it must not use.

        It keeps them: to close them would close the connections of the other process.
        """
        if self._process == os.getpid():
            return False
        self._process = os.getpid()
        self._inherited.append(channels)
        return True


class Event(threading.Event):
    """An event that can be waited for."""

    wait_for = threading.Event.wait


class ServerStream(Protocol[_Received_co]):
    """What is used of a gRPC call that returns several messages."""

    def __next__(self) -> _Received_co: ...

    def cancel(self) -> object:
        """Cancel the call."""


class _CallsInFlight:
    """The calls that the threads of one `in_order` wait for."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._calls: set[Any] = set()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Cancel them all, and every call that follows; their threads get CancelledError."""
        with self._lock:
            self._is_cancelled = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    @contextmanager
    def holding(self, call: Any) -> Iterator[None]:
        """Have `cancel` cancel `call` while the block waits for it."""
        with self._lock:
            self._calls.add(call)
        if self._is_cancelled:
            call.cancel()
        try:
            yield
        except grpc.RpcError:
            if self._is_cancelled:  # so that nobody retries it
                raise CancelledError from None
            raise
        finally:
            with self._lock:
                self._calls.discard(call)


_IN_FLIGHT: Final = ContextVar[_CallsInFlight | None]("_IN_FLIGHT", default=None)
"""Those of this thread's `in_order`; None in a thread of the caller."""


def next_message(call: ServerStream[_Result]) -> _Result | None:
    """Return the next message; None after the last one."""
    calls = _IN_FLIGHT.get()
    with calls.holding(call) if calls else nullcontext():
        return next(cast("Iterator[_Result]", call), None)


def invoke(method: Callable[..., _Result], request: object, **options: object) -> _Result:
    """Make a call that returns one message."""
    calls = _IN_FLIGHT.get()
    if calls is None:
        return method(request, **options)
    call = cast("Any", method).future(request, **options)
    with calls.holding(call):
        return cast("_Result", call.result())


@contextmanager
def translated(address: str, detour_to: Callable[[str], str]) -> Iterator[None]:
    """Raise the errors of a call to `address` as those of `segue_client.errors`; see `translate` for the detour."""
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error, address, detour_to(address)) from error


def in_order(jobs: Iterator[Job[_Result]], count: int) -> Generator[_Result]:
    """Run up to `count` jobs at once, each in a thread; yield their results in the order of the jobs.

    At most `count` jobs are running or have results that were not yielded yet. The iterator runs in the caller's
    thread; its error is raised after the results of the jobs before it. If the generator is closed early, the running
    calls are cancelled.
    """
    calls, running = _CallsInFlight(), deque[Future[_Result]]()
    failure: Exception | None = None
    has_more = True
    with ThreadPoolExecutor(count, "segue-call", _IN_FLIGHT.set, (calls,)) as threads:
        try:
            while has_more or running:
                if has_more and len(running) < count:
                    try:
                        running.append(threads.submit(next(jobs)))
                    except StopIteration:
                        has_more = False
                    except Exception as error:  # noqa: BLE001 - raised below
                        failure, has_more = error, False
                else:
                    yield running.popleft().result()
        except BaseException:
            calls.cancel()
            for job in running:
                job.cancel()
            raise
    if failure:
        raise failure
