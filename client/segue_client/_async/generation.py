"""Texts being generated, as the asynchronous client reads them."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from segue.v1 import generation_pb2

from segue_client._async.connection import AsyncConnection, AsyncMessageStream
from segue_client.errors import Cancelled, SegueError
from segue_client.messages.events import Chunk, Finished, Started, joined
from segue_client.protocol.generation import ResumableTexts, last_ticket

_Messages: TypeAlias = AsyncMessageStream[generation_pb2.GenerateResponse]


class _Answer:
    """What comes of one request for texts."""

    def __init__(
        self, texts: ResumableTexts, connection: AsyncConnection, timeout: float | None, *, resume: bool | None
    ) -> None:
        self._texts = texts
        self._connection = connection
        self._resumption = connection.resumption(timeout, resume=resume)
        self._cancelled = asyncio.Event()
        self._call = self._open()

    @classmethod
    async def open(
        cls, texts: ResumableTexts, connection: AsyncConnection, limit: float | None, *, resume: bool | None = None
    ) -> Self:
        """Return once a server has accepted the request; `limit`: seconds for the whole of it."""
        answer = cls(texts, connection, limit, resume=resume)
        while texts.started is None:
            await answer._advance()
        return answer

    @property
    def started(self) -> Started:
        """What the server resolved the request to."""
        assert self._texts.started
        return self._texts.started

    @property
    def exact(self) -> bool:
        """Whether what has come is, to the bit, what the host that the start is from would have brought.

        `started` tells this of the beginning; a break may have had another kind of host go on.
        """
        return self._texts.exact

    @property
    def resumed_count(self) -> int:
        """How many times it went on after a break."""
        return self._texts.resumed_count

    def cancel(self) -> None:
        """Stop generating. Reading on raises Cancelled; after the end nothing happens."""
        self._cancelled.set()
        self._call.cancel()

    def __aiter__(self) -> Self:
        return self

    async def _next(self) -> tuple[int, Chunk]:
        while not self._texts.has_ended:
            if chunk := await self._advance():
                return chunk
        raise StopAsyncIteration

    async def _advance(self) -> tuple[int, Chunk] | None:
        """Take one message, or go on after a break."""
        try:
            chunk = self._texts.take(await anext(self._call, None))
        except SegueError as error:
            await self._go_on(error)
            return None
        if chunk:
            self._resumption.progressed()
        else:
            self._resumption.answered()
        return chunk

    async def _go_on(self, error: SegueError) -> None:
        """Begin another call, after a while; raise `error` where there is to be none."""
        if self._cancelled.is_set():
            raise Cancelled("the call was cancelled") from error
        if self._connection.is_closed:
            raise error
        try:
            delay = self._resumption.delay_after(error)
        except SegueError as last:
            self._texts.give_up(last)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), delay)
        if self._cancelled.is_set():
            raise Cancelled("the call was cancelled")
        self._call = self._open()

    def _open(self) -> _Messages:
        request = self._texts.next_request()
        return self._connection.stream(lambda stubs: stubs.generation.Generate, request, self._resumption)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # A dropped grpc.aio call waits for the garbage collector, and its server with it.
        with suppress(RuntimeError, AttributeError):  # the event loop is closed, and the call with it; or there is none
            self.cancel()


class AsyncGeneration(_Answer):
    """A text being generated: an asynchronous iterator of its chunks.

        async with await client.generate("Once ") as generation:
            async for chunk in generation:
                print(chunk.text, end="", flush=True)

    The server stops as soon as the `async with` block is left, `cancel` is called, the reading task is
    cancelled, or the object is dropped. Reading raises the errors of `segue_client.errors`; every chunk
    before an error was delivered.
    """

    @property
    def finished(self) -> Finished | None:
        """How the text ended; None until it was read to its end."""
        return self._texts.finished[0]

    async def text(self) -> str:
        """Read to the end; return the text from here on."""
        return "".join([chunk.text async for chunk in self])

    @property
    def rewindable_count(self) -> int:
        """How many of the characters that have come `rewind` can take back now; see `Generation`."""
        return self._texts.rewindable_count

    @property
    def latest_ticket(self) -> tuple[int, bytes] | None:
        """How many characters had come when the last ticket came, and the ticket; None where none has come."""
        return self._texts.latest_ticket

    async def rewind(
        self,
        characters: int,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> bytes:
        """Stop the text; return a ticket to the state `characters` before the last one, as `Generation.rewind`."""
        self.cancel()
        again = self._texts.rewound(characters)
        if isinstance(again, bytes):
            return again
        async for _ in await AsyncGeneration.open(again, self._connection, timeout):
            pass
        return last_ticket(again)

    async def __anext__(self) -> Chunk:
        _, chunk = await self._next()
        return chunk


class AsyncSamples(_Answer):
    """Several texts being generated at once: an asynchronous iterator of (sample, chunk), as `segue_client.Samples`.

    async with await client.generate_samples("Once ", 3) as samples:
        async for sample, chunk in samples:
            print(sample, chunk.text)
    """

    @property
    def finished(self) -> tuple[Finished | None, ...]:
        """How the text of each sample ended; None for those that were not yet read to their ends."""
        return self._texts.finished

    async def texts(self) -> list[str]:
        """Read to the end; return the text of each sample from here on."""
        return joined(len(self.finished), [chunk async for chunk in self])

    async def __anext__(self) -> tuple[int, Chunk]:
        return await self._next()
