"""One call of ScoreStream: a text of any length, scored as it comes, in memory that does not grow with it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

import numpy as np
from segue.v1 import scoring_pb2 as pb

from segue_server.api.encoding import normalizer
from segue_server.api.score_accumulator import ScoreAccumulator
from segue_server.api.scoring_policies import read_policies
from segue_server.api.scoring_request import TextStart, most_characters, next_text, read_wanted
from segue_server.api.services.response_stream import ResponseStream
from segue_server.api.services.score_reading import read_behind
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import NO_IDS, State
from segue_server.errors import InvalidRequest, Stopping
from segue_server.limits import LIMITS
from segue_server.runtime.registry import Served
from segue_server.state.session_record import snapshot_distance
from segue_server.state.start import StartState
from segue_server.validation import check_at_most


class ScoreStreamCall:
    """Reads piece by piece: each is a text that goes on from the state behind the one before."""

    def __init__(
        self,
        request: pb.ScoreStreamStart,
        origin: StartState,
        served: Served,
        output: ResponseStream,
        ticket: Callable[[State], bytes],
    ) -> None:
        """Check `request`; raises InvalidRequest."""
        model = served.model
        self._request = request
        self._origin = origin
        self._served = served
        self._output = output
        self._ticket = ticket
        self._policies = read_policies(request.policies, model)
        self._wanted = read_wanted(request, model, text=request.return_text)
        self._most = most_characters(self._wanted)
        if self._wanted.windows is not None:
            self._most = min(self._most, LIMITS.max_windows)
        self._tally = ScoreAccumulator(self._wanted, model)
        self._normalizer = normalizer(model, origin.state)
        self._state = origin.state
        self._seed = TextStart.of(origin).seed
        self._tail = Tail(origin.rewind)
        self._last_character = ""
        self._read_count = 0
        """Characters of the normalized text."""
        self._sent_count = 0
        """Characters that the client has sent."""
        self._behind = 0
        """How many of them the state is behind: not those of a piece that was not read to its end, nor what is held."""
        self._ticket_at = 0
        """The same, at the last ticket."""

    async def answer(self, requests: AsyncIterator[pb.ScoreStreamRequest]) -> None:
        """Send every message."""
        model = self._served.model
        await self._output.write(
            pb.ScoreStreamResponse(
                started=pb.ScoreStreamStarted(
                    model=model.name,
                    version=model.version,
                    policies=self._policies.message(),
                    continuation=self._origin.continuation,
                )
            )
        )
        try:
            async for piece in self._pieces(requests):
                await self._read(self._normalizer.feed(piece))
                self._sent_count += len(piece)
                held = self._normalizer.held_count
                check_at_most("characters that a next one may still change", held, LIMITS.max_held_back)
                self._behind = self._sent_count - held
                await self._send_progress()
            await self._read_end()
            if self._origin.session:
                # To grpc.aio a call that its client has given up looks like one whose text has ended; only, it takes
                # no more messages. The session must not advance behind half a text.
                await self._send_progress()
        except Stopping:
            await self._send_progress(stopping=True)
            raise
        await self._origin.advance(self._state, self._tail.ids(), self._origin.sampling)
        await self._output.write(pb.ScoreStreamResponse(finished=self._finished()))

    async def _pieces(self, requests: AsyncIterator[pb.ScoreStreamRequest]) -> AsyncIterator[str]:
        """Yield the texts of all messages; raises InvalidRequest, and Stopping where the server does."""
        while (request := await next_request(requests, self._served.engine_thread.draining)) is not None:
            if request.WhichOneof("event") != "text":
                raise InvalidRequest("a message behind `start` is not `text`; send nothing but text there")
            check_at_most("characters of a piece", len(request.text), self._most)
            yield request.text

    async def _read(self, text: str) -> None:
        """Score the next characters of the normalized text."""
        if not text:
            return
        model = self._served.model
        if self._last_character == "\n" and model.symbols.end is not None:
            raise InvalidRequest(
                f"text: the line feed at position {self._read_count - 1:,} ends a document of this model; "
                "send the next one in a stream of its own"
            )
        start = TextStart(self._state, self._seed, self._read_count)
        piece = next_text("text", text, start, self._policies, model)
        reading, self._state = await read_behind(self._origin, piece, self._wanted, self._served)
        self._tally.add(text, piece.unknown_at, reading)
        self._last_character = text[-1]
        self._read_count += len(text)
        if self._origin.session and self._state is not None:
            self._tail.add(piece.read)

    async def _read_end(self) -> None:
        """Score what was held back, and the end."""
        rest = self._normalizer.end()
        ended = self._policies.ended(self._last_character + rest)[len(self._last_character) :]
        await self._read(ended)
        self._behind = self._sent_count
        if self._state is None and self._policies.with_begin:  # an empty text
            piece = next_text("text", "", TextStart(None, self._seed), self._policies, self._served.model)
            self._state = piece.state
            self._tail.add(piece.read)
        self._tally.end()

    async def _send_progress(self, *, stopping: bool = False) -> None:
        """Send what the last piece has added; with a ticket where one is due, or the server stops."""
        interval = self._request.ticket_interval
        due = stopping or (interval and self._behind >= self._ticket_at + interval)
        ticket = self._ticket(self._state) if due and self._state is not None else b""
        if ticket:
            self._ticket_at = self._behind
        progress = pb.ScoreStreamProgress(total=self._tally.message(self._position, ticket), sent_count=self._behind)
        await self._output.write(pb.ScoreStreamResponse(progress=progress))

    def _finished(self) -> pb.ScoreStreamFinished:
        wants_ticket = self._request.return_ticket and self._state is not None
        ticket = self._ticket(self._state) if wants_ticket and self._state is not None else b""
        return pb.ScoreStreamFinished(total=self._tally.message(self._position, ticket))

    @property
    def _position(self) -> int:
        return 0 if self._state is None else self._state.position


class Tail:
    """The last of the symbols that a session reads: whole pieces, back to the last snapshot that it may need."""

    def __init__(self, rewind: int) -> None:
        """`rewind`: over how many symbols the session may go back; a snapshot stands at most a part of it before."""
        self._reach = rewind + snapshot_distance(rewind)
        self._pieces: deque[Ids] = deque()
        self._count = 0

    def add(self, ids: Ids) -> None:
        """Take the symbols of the next piece."""
        self._pieces.append(ids)
        self._count += len(ids)
        while self._count - len(self._pieces[0]) >= self._reach:
            self._count -= len(self._pieces.popleft())

    def ids(self) -> Ids:
        """Return them."""
        return np.concatenate([NO_IDS, *self._pieces])


async def next_request(
    requests: AsyncIterator[pb.ScoreStreamRequest], *draining: asyncio.Event
) -> pb.ScoreStreamRequest | None:
    """Return the next message, None at the end of the stream; raises Stopping once one of the events has come."""
    request = asyncio.ensure_future(anext(requests, None))
    stopping = [asyncio.ensure_future(event.wait()) for event in draining]
    try:
        await asyncio.wait([request, *stopping], return_when=asyncio.FIRST_COMPLETED)
        if any(event.done() for event in stopping):
            raise Stopping("the server is stopping; go on from the last ticket on another one")
        return request.result()
    finally:
        for waiting in (request, *stopping):
            waiting.cancel()
