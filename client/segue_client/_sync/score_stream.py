"""The score of a text as it comes, for the synchronous client."""

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeAlias

from segue.v1 import scoring_pb2

from segue_client._sync.connection import Connection, MessageStream
from segue_client.errors import Cancelled, SegueError
from segue_client.messages.score import Score
from segue_client.protocol.retry import RetryState
from segue_client.protocol.score_stream import ScoreProgress, Step, StreamScoring

_Messages: TypeAlias = MessageStream[scoring_pb2.ScoreStreamResponse]


class _Outbox(Iterator[scoring_pb2.ScoreStreamRequest]):
    """The messages to one call, which a thread of gRPC takes."""

    def __init__(self) -> None:
        self._queue = SimpleQueue[scoring_pb2.ScoreStreamRequest | None]()

    def put(self, message: scoring_pb2.ScoreStreamRequest) -> None:
        self._queue.put(message)

    def close(self) -> None:
        """There are no more."""
        self._queue.put(None)

    def __next__(self) -> scoring_pb2.ScoreStreamRequest:
        if message := self._queue.get():
            return message
        raise StopIteration


class ScoreStream(Iterator[ScoreProgress]):
    """A text being scored as it comes: an iterator of its progress.

        with client.score_stream(file) as stream:
            for progress in stream:
                print(progress.total.bits_per_character)
        print(stream.finished)

    The text is asked for as it is needed, in the thread that iterates. The server stops as soon as the `with` block is
    left, `cancel` is called, or the object is dropped. Iterating raises the errors of `segue_client.errors`, and what
    the text itself raises; all that was scored before an error comes before it.
    """

    def __init__(
        self, text: Iterable[str], scoring: StreamScoring, connection: Connection, resumption: RetryState
    ) -> None:
        self._scoring = scoring
        self._connection = connection
        self._resumption = resumption
        self._outbox = _Outbox()
        self._call: _Messages | None = None
        self._is_cancelled = self._is_over = False
        self._text = iter(text)

    @property
    def total(self) -> Score:
        """The score so far, without what there is of each character."""
        return self._scoring.total

    @property
    def finished(self) -> Score | None:
        """The score of the whole text, with the ticket behind it where requested; None until the end was read."""
        return self._scoring.finished

    def cancel(self) -> None:
        """Stop scoring, from any thread. Iterating on raises Cancelled; after the end nothing happens."""
        self._is_cancelled = True
        self._leave()

    def __next__(self) -> ScoreProgress:
        if self._is_over:
            raise StopIteration
        try:
            while (step := self._scoring.next_step()) is not Step.DONE:
                if progress := self._take(step):
                    return progress
        except BaseException:
            self._end()
            raise
        self._end()
        raise StopIteration

    def _take(self, step: Step) -> ScoreProgress | None:
        try:
            if self._is_cancelled:
                raise Cancelled("the call was cancelled")
            match step:
                case Step.PULL:
                    self._pull()
                case Step.OPEN:
                    self._open()
                case Step.SEND:
                    self._outbox.put(self._scoring.send())
                case Step.CLOSE:
                    self._outbox.close()
                    self._scoring.close()
                case _:
                    return self._read()
        except SegueError as error:
            self._begin_again(error)
        return None

    def _pull(self) -> None:
        try:
            piece = next(self._text)
        except StopIteration:
            self._scoring.end()
        except Exception as error:  # noqa: BLE001 - `next_step` raises it in its turn
            self._scoring.fail(error)
        else:
            self._scoring.add(piece)

    def _open(self) -> None:
        self._outbox = _Outbox()
        self._outbox.put(self._scoring.start())
        self._call = self._connection.stream(lambda stubs: stubs.scoring.ScoreStream, self._outbox, self._resumption)

    def _read(self) -> ScoreProgress | None:
        assert self._call
        progress = self._scoring.take(next(self._call, None))
        if progress:
            self._resumption.progressed()
        else:
            self._resumption.answered()
        return progress

    def _begin_again(self, error: SegueError) -> None:
        """Go on after a break, after a while; raise `error` where there is to be no other call."""
        self._leave()
        if self._is_cancelled or not self._scoring.can_begin_again:
            raise error
        self._connection.wait_after(error, self._resumption)
        self._scoring.begin_again()

    def _leave(self) -> None:
        """Give the call up; the thread that takes its messages ends."""
        self._outbox.close()
        if self._call:
            self._call.cancel()

    def _end(self) -> None:
        self._is_over = True
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        if not self._is_over:
            self._leave()
