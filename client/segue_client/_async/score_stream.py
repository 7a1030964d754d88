"""The score of a text as it comes, for the asynchronous client."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from segue.v1 import scoring_pb2

from segue_client._async.connection import AsyncConnection, AsyncMessageStream
from segue_client.errors import Cancelled, SegueError
from segue_client.messages.score import Score
from segue_client.protocol.retry import RetryState
from segue_client.protocol.score_stream import ScoreProgress, Step, StreamScoring

_Messages: TypeAlias = AsyncMessageStream[scoring_pb2.ScoreStreamResponse]


class _Outbox(AsyncIterator[scoring_pb2.ScoreStreamRequest]):
    """The messages to one call, which a task of gRPC takes."""

    def __init__(self) -> None:
        self._queue = asyncio.Queue[scoring_pb2.ScoreStreamRequest | None]()

    def put(self, message: scoring_pb2.ScoreStreamRequest) -> None:
        self._queue.put_nowait(message)

    def close(self) -> None:
        """There are no more."""
        self._queue.put_nowait(None)

    async def __anext__(self) -> scoring_pb2.ScoreStreamRequest:
        if message := await self._queue.get():
            return message
        raise StopAsyncIteration


class AsyncScoreStream(AsyncIterator[ScoreProgress]):
    """A text being scored as it comes: an asynchronous iterator of its progress, as `segue_client.ScoreStream`.

    async with client.score_stream(lines) as stream:
        async for progress in stream:
            print(progress.total.bits_per_character)
    """

    def __init__(
        self,
        text: Iterable[str] | AsyncIterable[str],
        scoring: StreamScoring,
        connection: AsyncConnection,
        resumption: RetryState,
    ) -> None:
        self._text = _asynchronous(text)
        self._scoring = scoring
        self._connection = connection
        self._resumption = resumption
        self._outbox: _Outbox | None = None
        self._call: _Messages | None = None
        self._is_cancelled = self._is_over = False

    @property
    def total(self) -> Score:
        """The score so far, without what there is of each character."""
        return self._scoring.total

    @property
    def finished(self) -> Score | None:
        """The score of the whole text, with the ticket behind it where requested; None until the end was read."""
        return self._scoring.finished

    def cancel(self) -> None:
        """Stop scoring. Iterating on raises Cancelled; after the end nothing happens."""
        self._is_cancelled = True
        self._leave()

    async def __anext__(self) -> ScoreProgress:
        if self._is_over:
            raise StopAsyncIteration
        try:
            while (step := self._scoring.next_step()) is not Step.DONE:
                if progress := await self._take(step):
                    return progress
        except BaseException:
            self._end()
            raise
        self._end()
        raise StopAsyncIteration

    async def _take(self, step: Step) -> ScoreProgress | None:
        try:
            if self._is_cancelled:
                raise Cancelled("the call was cancelled")
            match step:
                case Step.PULL:
                    await self._pull()
                case Step.OPEN:
                    self._open()
                case Step.SEND:
                    assert self._outbox
                    self._outbox.put(self._scoring.send())
                case Step.CLOSE:
                    assert self._outbox
                    self._outbox.close()
                    self._scoring.close()
                case _:
                    return await self._read()
        except SegueError as error:
            await self._begin_again(error)
        return None

    async def _pull(self) -> None:
        try:
            piece = await anext(self._text)
        except StopAsyncIteration:
            self._scoring.end()
        except Exception as error:  # noqa: BLE001 - `next_step` raises it in its turn
            self._scoring.fail(error)
        else:
            self._scoring.add(piece)

    def _open(self) -> None:
        self._outbox = _Outbox()
        self._outbox.put(self._scoring.start())
        self._call = self._connection.stream(lambda stubs: stubs.scoring.ScoreStream, self._outbox, self._resumption)

    async def _read(self) -> ScoreProgress | None:
        assert self._call
        progress = self._scoring.take(await anext(self._call, None))
        if progress:
            self._resumption.progressed()
        else:
            self._resumption.answered()
        return progress

    async def _begin_again(self, error: SegueError) -> None:
        """Go on after a break, after a while; raise `error` where there is to be no other call."""
        self._leave()
        if self._is_cancelled or not self._scoring.can_begin_again:
            raise error
        await self._connection.wait_after(error, self._resumption)
        self._scoring.begin_again()

    def _leave(self) -> None:
        """Give the call up; the task that takes its messages ends."""
        if self._outbox:
            self._outbox.close()
        if self._call:
            self._call.cancel()

    def _end(self) -> None:
        self._is_over = True
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # A dropped grpc.aio call waits for the garbage collector, and its server with it.
        with suppress(RuntimeError):  # the event loop is closed, and the call with it
            if not self._is_over:
                self._leave()


async def _asynchronous(text: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(text, AsyncIterable):
        async for piece in text:
            yield piece
    else:
        for piece in text:
            yield piece
