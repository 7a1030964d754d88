"""The score of a text as it arrives, for an AsyncClient."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from segue.v1 import scoring_pb2

from segue_client._async.concurrency import Queue, iterate
from segue_client._async.connection import AsyncConnection, AsyncMessageStream
from segue_client.errors import Cancelled, SegueError
from segue_client.messages.score import Score
from segue_client.protocol.retry import RetryState
from segue_client.protocol.score_stream import ScoreProgress, Step, StreamScoring
from segue_client.protocol.tries import broken_off

_Messages: TypeAlias = AsyncMessageStream[scoring_pb2.ScoreStreamResponse]


class _Outbox(AsyncIterator[scoring_pb2.ScoreStreamRequest]):
    """The messages of one call, which gRPC collects."""

    def __init__(self) -> None:
        self._queue = Queue[scoring_pb2.ScoreStreamRequest | None]()

    def put(self, message: scoring_pb2.ScoreStreamRequest) -> None:
        self._queue.put_nowait(message)

    def close(self) -> None:
        """End the messages."""
        self._queue.put_nowait(None)

    async def __anext__(self) -> scoring_pb2.ScoreStreamRequest:
        if message := await self._queue.get():
            return message
        raise StopAsyncIteration


class AsyncScoreStream(AsyncIterator[ScoreProgress]):
    """A text being scored as it arrives: an asynchronous iterator of its progress.

        async with client.score_stream(lines) as stream:
            async for progress in stream:
                print(progress.total.bits_per_character)
        print(stream.finished)

    The text is read only as it is needed, by the caller of the iterator. The server stops when the `async with` block
    is left, `cancel` is called, or the object is dropped. Iterating raises the errors of `segue_client.errors` and
    those of the text itself, after everything scored before the error.
    """

    def __init__(
        self,
        text: Iterable[str] | AsyncIterable[str],
        scoring: StreamScoring,
        connection: AsyncConnection,
        retry: RetryState,
    ) -> None:
        self._scoring = scoring
        self._connection = connection
        self._retry = retry
        self._outbox = _Outbox()
        self._call: _Messages | None = None
        self._is_cancelled = self._is_over = False
        self._text = iterate("text", text)

    @property
    def total(self) -> Score:
        """The score so far, without the details of each character."""
        return self._scoring.total

    @property
    def finished(self) -> Score | None:
        """The score of the whole text, with the ticket after it if requested; None until the end has been read."""
        return self._scoring.finished

    def cancel(self) -> None:
        """Stop scoring, from its event loop. Iterating on raises Cancelled; after the end this does nothing."""
        self._is_cancelled = True
        self._end_call()

    async def __anext__(self) -> ScoreProgress:
        if self._is_over:
            raise StopAsyncIteration
        try:
            while (step := self._scoring.next_step()) is not Step.DONE:
                if progress := await self._perform(step):
                    return progress
        except BaseException:
            self._end()
            raise
        self._end()
        raise StopAsyncIteration

    async def _perform(self, step: Step) -> ScoreProgress | None:
        try:
            if self._is_cancelled:
                raise Cancelled("the call was cancelled")
            match step:
                case Step.PULL:
                    await self._pull()
                case Step.OPEN:
                    self._begin_call()
                case Step.SEND:
                    self._outbox.put(self._scoring.send())
                case Step.CLOSE:
                    self._outbox.close()
                    self._scoring.close()
                case _:
                    return await self._receive()
        except SegueError as error:
            await self._resume(error)
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

    def _begin_call(self) -> None:
        self._outbox = _Outbox()
        self._outbox.put(self._scoring.start())
        self._call = self._connection.stream(lambda stubs: stubs.scoring.ScoreStream, self._outbox, self._retry)

    async def _receive(self) -> ScoreProgress | None:
        assert self._call
        progress = self._scoring.receive(await self._call.receive())
        if progress:
            self._retry.note_progress()
        else:
            self._retry.note_answer()
        return progress

    async def _resume(self, error: SegueError) -> None:
        """Resume after a delay, or raise `error` if the text cannot be resumed."""
        self._end_call()
        if self._is_cancelled or not self._scoring.can_restart:
            raise error
        try:
            await self._connection.wait_after(error, self._retry)
        except SegueError as last:
            raise broken_off("score", self.total.scored_count, last) from last.__cause__
        self._scoring.restart()

    def _end_call(self) -> None:
        self._outbox.close()  # so that gRPC waits for no more messages
        if self._call:
            self._call.cancel()

    def _end(self) -> None:
        self._is_over = True
        self._end_call()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Otherwise the call keeps its server busy until the garbage collector runs.
        with suppress(RuntimeError):  # its event loop is closed
            if not self._is_over:
                self._end_call()
