"""Texts being generated, as an AsyncClient reads them."""

from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from segue.v1 import generation_pb2

from segue_client._async.concurrency import Event
from segue_client._async.connection import AsyncConnection, AsyncMessageStream
from segue_client.errors import Cancelled, SegueError
from segue_client.messages.events import Chunk, Finished, Started, joined
from segue_client.protocol.generation import ResumableTexts, last_ticket

_Messages: TypeAlias = AsyncMessageStream[generation_pb2.GenerateResponse]


class _TextStream:
    """The answer to one request for texts, over as many calls as it takes."""

    def __init__(
        self, texts: ResumableTexts, connection: AsyncConnection, timeout: float | None, *, resume: bool | None
    ) -> None:
        self._texts = texts
        self._connection = connection
        self._retry = connection.retry_state(timeout, resume=resume, in_session=texts.in_session)
        self._cancelled = Event()
        self._call = self._begin_call()

    @classmethod
    async def start(
        cls, texts: ResumableTexts, connection: AsyncConnection, timeout: float | None, *, resume: bool | None = None
    ) -> Self:
        """Return once a server has accepted the request. `timeout`: seconds for the whole text."""
        stream = cls(texts, connection, timeout, resume=resume)
        while texts.started is None:
            await stream._advance()
        return stream

    @property
    def started(self) -> Started:
        """What the server resolved the request to."""
        assert self._texts.started
        return self._texts.started

    @property
    def exact(self) -> bool:
        """Whether the text so far is, to the bit, what the host that the start state is from would have written.

        `started` says this of the beginning; after a break another class of host may have continued.
        """
        return self._texts.exact

    @property
    def resumed_count(self) -> int:
        """How many times the text was resumed after a break."""
        return self._texts.resumed_count

    def cancel(self) -> None:
        """Stop generating, from its event loop. Reading on raises Cancelled; after the end this does nothing."""
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
        """Receive one message, or resume after a break."""
        try:
            chunk = self._texts.receive(await self._call.receive())
        except SegueError as error:
            await self._resume(error)
            return None
        if chunk:
            self._retry.note_progress()
        else:
            self._retry.note_answer()
        return chunk

    async def _resume(self, error: SegueError) -> None:
        """Begin another call after a delay, or raise `error` if there are no retries left."""
        self._call.cancel()  # which may still run, if its server cannot continue the text
        if self._cancelled.is_set():
            raise Cancelled("the call was cancelled") from error
        if self._connection.is_closed:
            raise error
        try:
            delay = self._connection.delay_after(error, self._retry)
        except SegueError as last:
            self._texts.finish_drained(last)
            return
        if await self._cancelled.wait_for(delay):
            raise Cancelled("the call was cancelled")
        try:
            self._call = self._begin_call()
        except SegueError as last:
            self._texts.finish_drained(last)
            return
        if self._cancelled.is_set():  # meanwhile, by another thread, which may have cancelled the call before this one
            self._call.cancel()

    def _begin_call(self) -> _Messages:
        request = self._texts.next_request()
        return self._connection.stream(lambda stubs: stubs.generation.Generate, request, self._retry)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Otherwise the call keeps its server busy until the garbage collector runs.
        with suppress(RuntimeError, AttributeError):  # its event loop is closed, or __init__ failed
            self.cancel()


class AsyncGeneration(_TextStream):
    """A text being generated: an asynchronous iterator of its chunks.

        async with await client.generate("Once ") as generation:
            async for chunk in generation:
                print(chunk.text, end="", flush=True)

    The server stops when the `async with` block is left, `cancel` is called, the reading task is cancelled, or the
    object is dropped. Reading raises the errors of `segue_client.errors`, after every chunk before the error.
    """

    @property
    def finished(self) -> Finished | None:
        """How the text ended; None until it has been read to its end."""
        return self._texts.finished[0]

    async def text(self) -> str:
        """Read to the end; return the text from here on."""
        return "".join([chunk.text async for chunk in self])

    @property
    def rewindable_count(self) -> int:
        """How many of the characters received so far `rewind` can take back now.

        All characters of a text that began from a ticket without a prompt; otherwise all but the first. Of a long text
        at least the last 4,096, as far as tickets arrived on the way. Of a text in a session those after the first
        ticket that `ticket_interval` brought, without it none: rewind the session itself.
        """
        return self._texts.rewindable_count

    @property
    def latest_ticket(self) -> tuple[int, bytes] | None:
        """The last ticket received, after the number of characters before it; None before the first one."""
        return self._texts.latest_ticket

    async def rewind(self, characters: int, *, timeout: float | None = None) -> bytes:
        """Stop, and return a ticket for the state `characters` before the last received character (0: after it).

        From there the same seed writes the same text again. The server rewrites the text between the nearest ticket and
        that state. Raises NotRewindable beyond `rewindable_count`.
        """
        self.cancel()
        again = self._texts.rewound(characters)
        if isinstance(again, bytes):
            return again
        async for _ in await AsyncGeneration.start(again, self._connection, timeout):
            pass
        return last_ticket(again)

    async def __anext__(self) -> Chunk:
        _, chunk = await self._next()
        return chunk


class AsyncSamples(_TextStream):
    """Several texts being generated at once: an asynchronous iterator of (sample, chunk), in order of arrival.

        async with await client.generate_samples("Once ", 3) as samples:
            async for sample, chunk in samples:
                print(sample, chunk.text)

    Samples are counted from 0; sample i is what `generate` returns with the seed `started.seed` + i. Otherwise like
    AsyncGeneration.
    """

    @property
    def finished(self) -> tuple[Finished | None, ...]:
        """How the text of each sample ended; None until it has been read to its end."""
        return self._texts.finished

    async def texts(self) -> list[str]:
        """Read to the end; return the text of each sample from here on."""
        return joined(len(self.finished), [chunk async for chunk in self])

    async def __anext__(self) -> tuple[int, Chunk]:
        return await self._next()
