"""Texts being generated, as the synchronous client reads them."""

from threading import Event
from types import TracebackType
from typing import Self, TypeAlias

from segue.v1 import generation_pb2

from segue_client._sync.connection import Connection, MessageStream
from segue_client.errors import Cancelled, SegueError
from segue_client.messages.events import Chunk, Finished, Started, joined
from segue_client.protocol.generation import ResumableTexts, last_ticket

_Messages: TypeAlias = MessageStream[generation_pb2.GenerateResponse]


class _Answer:
    """What comes of one request for texts."""

    def __init__(
        self, texts: ResumableTexts, connection: Connection, timeout: float | None, *, resume: bool | None = None
    ) -> None:
        """Return once a server has accepted the request."""
        self._texts = texts
        self._connection = connection
        self._resumption = connection.resumption(timeout, resume=resume)
        self._cancelled = Event()
        self._call = self._open()
        while texts.started is None:
            self._advance()

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
        """Stop generating, from any thread. Reading on raises Cancelled; after the end nothing happens."""
        self._cancelled.set()
        self._call.cancel()

    def __iter__(self) -> Self:
        return self

    def _next(self) -> tuple[int, Chunk]:
        while not self._texts.has_ended:
            if chunk := self._advance():
                return chunk
        raise StopIteration

    def _advance(self) -> tuple[int, Chunk] | None:
        """Take one message, or go on after a break."""
        try:
            chunk = self._texts.take(next(self._call, None))
        except SegueError as error:
            self._go_on(error)
            return None
        if chunk:
            self._resumption.progressed()
        else:
            self._resumption.answered()
        return chunk

    def _go_on(self, error: SegueError) -> None:
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
        if self._cancelled.wait(delay):
            raise Cancelled("the call was cancelled")
        self._call = self._open()
        if self._cancelled.is_set():  # by another thread, which may have seen the call before this one
            self._call.cancel()

    def _open(self) -> _Messages:
        request = self._texts.next_request()
        return self._connection.stream(lambda stubs: stubs.generation.Generate, request, self._resumption)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class Generation(_Answer):
    """A text being generated: an iterator of its chunks.

        with client.generate("Once ") as generation:
            for chunk in generation:
                print(chunk.text, end="", flush=True)

    The server stops as soon as the `with` block is left, `cancel` is called, or the object is dropped.
    Reading raises the errors of `segue_client.errors`; every chunk before an error was delivered.
    """

    @property
    def finished(self) -> Finished | None:
        """How the text ended; None until it was read to its end."""
        return self._texts.finished[0]

    def text(self) -> str:
        """Read to the end; return the text from here on."""
        return "".join([chunk.text for chunk in self])

    @property
    def rewindable_count(self) -> int:
        """How many of the characters that have come `rewind` can take back now.

        All of a text that began from a ticket without a prompt, all but the first character of another one; of a long
        one the last 4,096 and often some more, as far as tickets have come on the way. Of a text in a session those
        behind the first ticket that `ticket_interval` has brought, without it none: the session itself can be rewound.
        """
        return self._texts.rewindable_count

    @property
    def latest_ticket(self) -> tuple[int, bytes] | None:
        """How many characters had come when the last ticket came, and the ticket; None where none has come."""
        return self._texts.latest_ticket

    def rewind(self, characters: int, *, timeout: float | None = None) -> bytes:
        """Stop the text; return a ticket to the state `characters` before the last one that has come; 0: behind it.

        From there the same seed writes the same text again. Raises NotRewindable beyond `rewindable_count`. The server
        writes what lies between the last ticket on the way and that state once more.
        """
        self.cancel()
        again = self._texts.rewound(characters)
        if isinstance(again, bytes):
            return again
        for _ in Generation(again, self._connection, timeout):
            pass
        return last_ticket(again)

    def __next__(self) -> Chunk:
        _, chunk = self._next()
        return chunk


class Samples(_Answer):
    """Several texts being generated at once: an iterator of (sample, chunk), as the chunks of any of them come.

        with client.generate_samples("Once ", 3) as samples:
            for sample, chunk in samples:
                print(sample, chunk.text)

    Samples are counted from 0; sample i is what `generate` brings with the seed `started.seed` + i. In all else this
    is a `Generation`.
    """

    @property
    def finished(self) -> tuple[Finished | None, ...]:
        """How the text of each sample ended; None for those that were not yet read to their ends."""
        return self._texts.finished

    def texts(self) -> list[str]:
        """Read to the end; return the text of each sample from here on."""
        return joined(len(self.finished), self)

    def __next__(self) -> tuple[int, Chunk]:
        return self._next()
