"""What only the asynchronous client does in this way; `_sync/concurrency.py` has the same names."""

import asyncio
import os
from asyncio import Queue, sleep
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import grpc

from segue_client.errors import Cancelled, InvalidRequest, translate
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

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Received_co = TypeVar("_Received_co", covariant=True)

Job: TypeAlias = Callable[[], Coroutine[Any, Any, _Result]]

Lock = nullcontext
"""No lock: one event loop runs everything."""


class Owner:
    """The event loop that uses a client."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def has_changed(self, channels: object) -> bool:
        """Whether another loop took over from one that has ended; raise InvalidRequest if that one still runs.

        The same in a forked process: gRPC's own thread for all loops is missing there. `channels` end with their loop.
        """
        del channels
        loop, before = asyncio.get_running_loop(), self._loop
        if before is not None and self._process != os.getpid():
            raise InvalidRequest(
                "this AsyncClient is in use in the process from which this one was forked, where it stays; start "
                'processes with multiprocessing\'s "spawn", or use Client'
            )
        if before is None or before is loop:
            self._loop, self._process = loop, os.getpid()
            return False
        if before.is_running():
            raise InvalidRequest("this AsyncClient is in use in another event loop; make one for each loop")
        self._loop = loop
        return True


class Event(asyncio.Event):
    """An event that can be awaited for a limited time."""

    async def wait_for(self, seconds: float) -> bool:
        """Wait for at most `seconds`; return whether the event is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), seconds)
        return self.is_set()


class ServerStream(Protocol[_Received_co]):
    """What is used of a gRPC call that returns several messages."""

    async def read(self) -> Any:
        """Return the next message, or grpc.aio.EOF."""

    def cancel(self) -> bool:
        """Cancel the call."""

    def __aiter__(self) -> AsyncIterator[_Received_co]: ...


async def next_message(call: ServerStream[_Result]) -> _Result | None:
    """Return the next message; None after the last one."""
    message = await call.read()
    return None if message is grpc.aio.EOF else cast("_Result", message)


async def invoke(method: Callable[..., Awaitable[_Result]], request: object, **options: object) -> _Result:
    """Make a call that returns one message."""
    return await method(request, **options)


@contextmanager
def translated(address: str, detour_to: Callable[[str], str]) -> Iterator[None]:
    """Raise the errors of a call to `address` as those of `segue_client.errors`; see `translate` for the detour.

    grpc.aio raises asyncio.CancelledError for a call cancelled on this side, even if the task that awaits it was not
    cancelled. That task gets Cancelled and continues.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error, address, detour_to(address)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise Cancelled("the call was cancelled") from error


def iterate(field: str, items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncIterator[_Item]:
    """Return an iterator over `items`; InvalidRequest if they cannot be iterated over."""
    return aiter(items) if isinstance(items, AsyncIterable) else _iterate(iterated(field, items))


async def _iterate(items: Iterator[_Item]) -> AsyncIterator[_Item]:
    for item in items:
        yield item


async def in_order(jobs: AsyncIterator[Job[_Result]], count: int) -> AsyncGenerator[_Result]:
    """Run up to `count` jobs at once, each in a task; yield their results in the order of the jobs.

    At most `count` jobs are running or have results that were not yielded yet. An error of the iterator is raised
    after the results of the jobs before it. If the generator is closed early, the running jobs are cancelled.
    """
    running = deque[asyncio.Task[_Result]]()
    failure: Exception | None = None
    has_more = True
    try:
        while has_more or running:
            if has_more and len(running) < count:
                try:
                    job = await anext(jobs)
                except StopAsyncIteration:
                    has_more = False
                except Exception as error:  # noqa: BLE001 - raised below
                    failure, has_more = error, False
                else:
                    running.append(asyncio.create_task(job()))
            else:
                yield await running[0]
                running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if failure:
        raise failure
