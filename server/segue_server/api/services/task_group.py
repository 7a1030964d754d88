"""Several tasks of one call, of which the first that fails ends the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def tasks_of_call() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks until all have ended; raises what the first of them raised, by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
