"""Several calls of the asynchronous client on their way at once."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def in_order(
    jobs: AsyncIterator[Callable[[], Coroutine[Any, Any, _Result]]], count: int
) -> AsyncGenerator[_Result]:
    """Run up to `count` jobs at once, each in a task; yield their results in the order of the jobs.

    Jobs are asked for only as many as are running or have results that nobody took. What the iteration over them raises
    comes behind the results before it. Those that are running when their results are not wanted any more are cancelled.
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
                except Exception as error:  # noqa: BLE001 - it is raised below
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
