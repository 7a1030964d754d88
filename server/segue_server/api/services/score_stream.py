"""One call of ScoreStream: a text of any length, scored as it arrives, in constant memory."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

import numpy as np
from segue.v1 import scoring_pb2 as pb

from segue_server.api.calls.call import WAITING_CHECK_SECONDS, Call
from segue_server.api.encoding import normalize_piece, normalizer_after
from segue_server.api.parted_message import PartedMessage
from segue_server.api.reply_size import reply_bytes
from segue_server.api.score_accumulator import ScoreAccumulator
from segue_server.api.score_messages import score_parts
from segue_server.api.scoring_policies import read_policies
from segue_server.api.scoring_request import TextStart, max_characters, read_piece, read_wanted
from segue_server.api.services.score_texts import score_from
from segue_server.api.start_message import continuation
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import NO_IDS, State
from segue_server.errors import InvalidRequest, Overloaded, Stalled, Stopping
from segue_server.limits import LIMITS
from segue_server.runtime.registry import Served
from segue_server.runtime.time_slices import at_once, in_slices
from segue_server.state.session_record import snapshot_distance
from segue_server.state.start import StartState
from segue_server.validation import check_at_most


class ScoreStreamCall:
    """Scores piece by piece; each piece continues from the state after the one before."""

    def __init__(
        self,
        request: pb.ScoreStreamStart,
        start: StartState,
        served: Served,
        call: Call,
        ticket: Callable[[State], bytes],
    ) -> None:
        """Check `request`; raises InvalidRequest."""
        model = served.model
        self._request = request
        self._start = start
        self._served = served
        self._call = call
        self._ticket = ticket
        self._policies = read_policies(request.policies, model)
        self._wanted = read_wanted(request, model, text=request.return_text)
        self._max_characters = max_characters(self._wanted)
        if self._wanted.windows is not None:
            self._max_characters = min(self._max_characters, LIMITS.max_windows)
        self._accumulator = ScoreAccumulator(self._wanted)
        self._normalizer = normalizer_after(start.state, model, verbatim=self._policies.verbatim)
        self._state = start.state
        self._seed = TextStart.of(start).seed
        self._tail = _Tail(start.rewind)
        self._last_character = ""
        self._read_count = 0
        """Characters of the normalized text that were read."""
        self._sent_count = 0
        """Characters that the client has sent."""
        self._covered_count = 0
        """How many sent characters `_state` covers; excludes a half-read piece and held-back characters."""
        self._ticket_count = 0
        """The same, at the last ticket."""

    async def answer(self, requests: AsyncIterator[pb.ScoreStreamRequest]) -> None:
        """Send every message."""
        model = self._served.model
        await self._call.write(
            pb.ScoreStreamResponse(
                started=pb.ScoreStreamStarted(
                    model=model.name,
                    version=model.version,
                    policies=self._policies.message(),
                    continuation=continuation(self._start, self._served.build, reproducible=self._served.reproducible),
                )
            )
        )
        self._call.settle()  # it has no work before its first piece
        try:
            async for piece in self._pieces(requests):
                await self._score(await in_slices(normalize_piece("text", piece, self._normalizer)))
                self._sent_count += len(piece)
                self._covered_count = self._sent_count - self._normalizer.held_count
                await self._send_progress()
                self._call.drop_message()
            await self._score_end()
            if self._start.is_session:
                # In grpc.aio a cancelled call looks like one whose text has ended, except that writing fails: the
                # session must not advance after half a text.
                await self._send_progress()
        except (Stopping, Overloaded):
            await self._send_progress(stopping=True)
            raise
        await self._start.advance(self._state, self._tail.ids(), self._start.sampling)
        await self._send_finished()

    async def _pieces(self, requests: AsyncIterator[pb.ScoreStreamRequest]) -> AsyncIterator[str]:
        """Yield the texts of all messages; raises InvalidRequest and Stopping."""
        while (request := await self._next_request(requests)) is not None:
            if request.WhichOneof("event") != "text":
                raise InvalidRequest("a message after `start` is not `text`; send only text after it")
            text = request.text
            check_at_most("characters of a piece", len(text), self._max_characters)
            yield text

    async def _next_request(self, requests: AsyncIterator[pb.ScoreStreamRequest]) -> pb.ScoreStreamRequest | None:
        try:
            return await next_request(requests, self._call, self._served.engine.draining)
        except Stalled:  # the text can go on later, from the ticket
            await self._send_progress(stopping=True)
            raise

    async def _score(self, text: str) -> None:
        """Score the next characters of the normalized text."""
        if not text:
            return
        model = self._served.model
        if self._last_character == "\n" and model.symbols.end is not None:
            raise InvalidRequest(
                f"text: the line feed at position {self._read_count - 1:,} ends a document of this model; "
                "send the next one in another stream"
            )
        start = TextStart(self._state, self._seed, self._read_count)
        piece = await in_slices(read_piece("text", text, start, self._policies, model))
        self._call.hold(reply_bytes([piece], self._wanted, model, tickets=False))
        scores, self._state = await score_from(self._start, piece, self._wanted, self._served)
        await in_slices(self._accumulator.add(text, piece.unknown_at, scores))
        self._last_character = text[-1]
        self._read_count += len(text)
        if self._start.is_session and self._state is not None:
            self._tail.add(piece.session_ids)

    async def _score_end(self) -> None:
        """Score what was held back, and the line feed that the policy adds."""
        rest = self._normalizer.end()
        ended = self._policies.with_line_feed(self._last_character + rest)
        await self._score(ended[len(self._last_character) :])
        self._covered_count = self._sent_count
        if self._state is None and self._policies.with_begin:  # an empty text
            piece = at_once(read_piece("text", "", TextStart(None, self._seed), self._policies, self._served.model))
            self._state = piece.state
            self._tail.add(piece.session_ids)
        self._accumulator.end()

    async def _send_progress(self, *, stopping: bool = False) -> None:
        """Send what the last piece added, with a ticket if one is due or the server is stopping."""
        interval = self._request.ticket_interval
        due = stopping or (interval and self._covered_count >= self._ticket_count + interval)
        ticket = self._ticket(self._state) if due and self._state is not None else b""
        if ticket:
            self._ticket_count = self._covered_count
        progress = pb.ScoreStreamProgress(sent_count=self._covered_count)
        await self._send("progress", PartedMessage(progress), ticket)

    async def _send_finished(self) -> None:
        wants_ticket = self._request.return_ticket and self._state is not None
        ticket = self._ticket(self._state) if wants_ticket and self._state is not None else b""
        await self._send("finished", PartedMessage(pb.ScoreStreamFinished()), ticket)

    async def _send(
        self,
        event: str,
        parted: PartedMessage[pb.ScoreStreamProgress] | PartedMessage[pb.ScoreStreamFinished],
        ticket: bytes,
    ) -> None:
        """Send an event of the stream, with the total so far."""
        position = 0 if self._state is None else self._state.position
        parted.put("total", await in_slices(score_parts(self._accumulator, self._served.model, position, ticket)))
        response = PartedMessage(pb.ScoreStreamResponse())
        response.put(event, parted.take())
        await self._call.write(response.take())


class _Tail:
    """The last symbols that a session read: whole pieces, back to the last snapshot that it may need."""

    def __init__(self, rewind: int) -> None:
        """`rewind`: how many symbols back the session may go; a snapshot may lie a fraction of that earlier."""
        self._reach = rewind + snapshot_distance(rewind)
        self._pieces: deque[Ids] = deque()
        self._count = 0

    def add(self, ids: Ids) -> None:
        """Add the symbols of the next piece."""
        self._pieces.append(ids)
        self._count += len(ids)
        while self._count - len(self._pieces[0]) >= self._reach:
            self._count -= len(self._pieces.popleft())

    def ids(self) -> Ids:
        """Return the symbols."""
        return np.concatenate([NO_IDS, *self._pieces])


async def next_request(
    requests: AsyncIterator[pb.ScoreStreamRequest], call: Call, *draining: asyncio.Event
) -> pb.ScoreStreamRequest | None:
    """Return the next message, None at the end of the stream.

    Raises Stopping once one of the events is set, and what `Call.check_waiting` does.
    """
    began = time.monotonic()
    request = asyncio.ensure_future(anext(requests, None))
    stopping = [asyncio.ensure_future(event.wait()) for event in draining]
    tasks = [request, *stopping]
    try:
        call.check_duration()
        while not request.done():
            await asyncio.wait(tasks, timeout=WAITING_CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if any(event.done() for event in stopping):
                raise Stopping("the server is stopping; continue from the last ticket on another one")
            if not request.done():
                call.check_waiting(time.monotonic() - began)
        return request.result()
    finally:
        while tasks:
            tasks.pop().cancel()
        del request, stopping  # an error keeps this frame alive, and a task its error
