"""Ends calls whose client leaves a message unread, so that no status can reach it.

A status waits behind the message before it, and grpc.aio has no way to reset a call. But gRPC resets a call that
nothing refers to any more. Two tasks refer to it: one runs the handler, the other, which created it, waits for the
client to close the call. With both cancelled, the client is told CANCELLED and the memory is free. (The newest call of
the server goes when the next one arrives: grpc.aio still refers to it.)
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Final

_HANDLER: Final = "_handle_exceptions"
"""The coroutine of grpc.aio that a call's handler runs in."""

_waiting_for_close: Final[dict[asyncio.Task[Any], asyncio.Task[Any]]] = {}
"""By the task that runs a handler: the one that waits for the client."""


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Note from now on which two tasks belong to a call."""
    loop.set_task_factory(_make_task)


def current_task() -> asyncio.Task[Any]:
    """Return the task that runs this: in a handler, its call's."""
    task = asyncio.current_task()
    assert task is not None
    return task


def abandon(handler: asyncio.Task[Any]) -> None:
    """Reset the call whose handler runs, or has run, in this task; nothing else may hold its context."""
    handler.cancel()
    if (waiting := _waiting_for_close.pop(handler, None)) is not None:
        waiting.cancel()


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    if getattr(coroutine, "__name__", "") == _HANDLER and (creator := asyncio.current_task(loop)) is not None:
        _waiting_for_close[task] = creator
        task.add_done_callback(_forget)
    return task


def _forget(handler: asyncio.Task[Any]) -> None:
    _waiting_for_close.pop(handler, None)
