"""The client's end of a call that streams."""

import asyncio
from typing import Any

import grpc.aio

from segue_server.errors import Stalled


class ResponseStream:
    """Takes one message at a time, of however many tasks."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], stall_timeout: float) -> None:
        """`stall_timeout`: seconds that a client may leave its stream unread once all buffers on the way are full."""
        self._context = context
        self._stall_timeout = stall_timeout
        self._free = asyncio.Lock()

    async def write(self, response: Any) -> None:
        """Send one message; raises Stalled where the client does not make room for it."""
        async with self._free:
            try:
                async with asyncio.timeout(self._stall_timeout):
                    await self._context.write(response)
            except TimeoutError:
                raise Stalled(f"the stream was not read for {self._stall_timeout:g} seconds") from None
