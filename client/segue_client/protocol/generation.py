"""One request for texts, over as many calls as it takes. No I/O: both clients drive it.

    texts = resumable_texts("Once ", GenerationOptions(), resume=True)
    send(texts.next_request())
    while not texts.has_ended:
        try:
            chunk = texts.receive(message())
        except SegueError:
            ...                                # if it can be retried:
            send(texts.next_request())

A single text resumes from the last ticket received. Before the first ticket, and always for several samples or a
session, it restarts with the seed of the first call. Characters that the caller already has are then written again, the
same: they are compared and dropped, down to the character.
"""

from dataclasses import replace
from hashlib import blake2b
from typing import Final

from segue.v1 import generation_pb2

from segue_client.errors import (
    STOPPING,
    NotExact,
    NotRewindable,
    SegueError,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
)
from segue_client.messages.events import Chunk, Continuation, Finished, FinishReason, Order, Started, event_from
from segue_client.messages.generation_request import WRITTEN_BEFORE, GenerationOptions
from segue_client.protocol.retry import rounding_difference
from segue_client.protocol.ticket_history import TicketHistory
from segue_client.protocol.tries import broken_off

RESUME_INTERVAL: Final = 1000
"""Characters between the tickets that the client requests to resume from; a shorter text is written again."""


def resumable_texts(prompt: str, options: GenerationOptions, samples: int = 1, *, resume: bool) -> "ResumableTexts":
    """Return one request for `samples` texts; raise InvalidRequest for what the wire cannot carry.

    `resume`: whether it survives the end of a call; otherwise a stopping server ends the text.
    """
    shows_tickets = options.ticket_interval is not None
    return ResumableTexts(options.to_request(prompt, samples), resume=resume, shows_tickets=shows_tickets)


class ResumableTexts:
    """How much of each text the caller has, and where the next call begins."""

    def __init__(self, request: generation_pb2.GenerateRequest, *, resume: bool, shows_tickets: bool) -> None:
        """`shows_tickets`: whether the caller asked for tickets on the way."""
        self._request = request
        self._resume = resume
        self._shows_tickets = shows_tickets
        self._from_tickets = resume and request.samples == 1 and not self.in_session
        if self._from_tickets and not shows_tickets and request.max_characters > RESUME_INTERVAL:
            request.ticket_interval = RESUME_INTERVAL
        self._samples = [_Progress(request.max_characters, request.written_before) for _ in range(request.samples)]
        self._history = TicketHistory(_first_marks(request))
        self._started: Started | None = None
        self._host: Continuation | None = None
        """The build and the host that write now."""
        self._exact = True
        self._any_host = request.start.HasField("exact") and not request.start.exact
        self._calls = 0
        self.has_ended = False
        """Whether all texts have been read to their ends."""

    @property
    def started(self) -> Started | None:
        """What the first server resolved the request to; None before it did."""
        return self._started

    @property
    def in_session(self) -> bool:
        """Whether the text continues a session."""
        return self._request.start.HasField("session")

    @property
    def exact(self) -> bool:
        """Whether every call so far continued exactly, on one class of hosts."""
        return self._exact

    @property
    def finished(self) -> tuple[Finished | None, ...]:
        """How each text ended; None until it has been read to its end."""
        return tuple(sample.finished for sample in self._samples)

    @property
    def resumed_count(self) -> int:
        """The number of calls after the first one."""
        return max(0, self._calls - 1)

    @property
    def rewindable_count(self) -> int:
        """How many of the last characters can be taken back."""
        earliest = self._history.earliest_count
        return 0 if earliest is None else max(0, self._samples[0].delivered - earliest)

    @property
    def latest_ticket(self) -> tuple[int, bytes] | None:
        """The last ticket of a single text, after the number of characters before it; None before the first one."""
        return self._history.latest

    def rewound(self, characters: int) -> "bytes | ResumableTexts":
        """Return the ticket `characters` before the last one, or a request that ends with it (see `last_ticket`).

        Raises NotRewindable if that is too far back.
        """
        target, earliest = self._samples[0].delivered - characters, self._history.earliest_count
        if earliest is None or self._samples[0].delivered < earliest:
            raise NotRewindable(
                "the text has no earlier state to return to: it has not begun, or it continues a session, which can be "
                "rewound itself",
                rewindable_count=0,
            )
        if characters < 0 or target < earliest:
            raise NotRewindable(
                f"the text can be rewound by 0 to {self.rewindable_count:,} characters, not by {characters:,}",
                rewindable_count=self.rewindable_count,
            )
        count, ticket = self._history.before(target)
        if ticket is not None and count == target:
            return ticket
        return self._rewrite(count, ticket, target - count)

    def _rewrite(self, count: int, ticket: bytes | None, characters: int) -> "ResumableTexts":
        """Return a request that writes `characters` again, from the ticket after the first `count`."""
        request = generation_pb2.GenerateRequest()
        request.CopyFrom(self._request)
        request.max_characters, request.return_ticket = characters, True
        request.log_probabilities, request.top_alternatives, request.ticket_interval = False, 0, 0
        del request.stop[:]
        if ticket is not None:
            request.start.ticket = ticket
        if count:
            request.prompt = ""
        again = ResumableTexts(request, resume=True, shows_tickets=False)
        again._require_host_of(self)
        return again

    def _require_host_of(self, other: "ResumableTexts") -> None:
        """Accept only a host that writes what `other` has written."""
        self._started, self._host = other._started, other._host  # noqa: SLF001
        self._any_host = False

    def next_request(self) -> generation_pb2.GenerateRequest:
        """Begin a call; return its request."""
        self._order = Order(len(self._samples))
        for sample in self._samples:
            sample.begin_call()
        request = generation_pb2.GenerateRequest()
        request.CopyFrom(self._request)
        if self._started:
            request.model.name, request.model.version = self._started.model, self._started.version
            request.sampling.seed = self._started.seed
        if self._from_tickets:
            self._samples[0].resume_in(request)
        return request

    def receive(self, message: generation_pb2.GenerateResponse | None) -> tuple[int, Chunk] | None:
        """Note the next message, None at the end of the call; return the sample and the new part of its chunk.

        Raises ServerUnavailable if the call ended before the texts, NotExact if another server cannot resume them, and
        ServerFault for a violation of the contract.
        """
        if message is None:
            self._receive_end()
            return None
        event, sample = event_from(message), message.sample
        self._order.check(event, sample)
        match event:
            case Started():
                self._receive_started(event)
            case Chunk():
                return self._receive_chunk(event, sample)
            case Finished():
                self._receive_finished(event, sample)
        return None

    def finish_drained(self, error: SegueError) -> None:
        """Finish drained texts with their last ticket; otherwise raise `error`, and say where the text broke off."""
        unfinished = [sample for sample in self._samples if not sample.finished]
        if not isinstance(error, ServerUnavailable | ServerBusy) or not all(sample.drained for sample in unfinished):
            raise broken_off("text", sum(sample.delivered for sample in unfinished), error)
        for sample in unfinished:
            sample.finished = sample.drained
        self.has_ended = True

    def _receive_started(self, started: Started) -> None:
        self._calls += 1
        if self._started is None:
            self._started = started
        elif self._host and (error := rounding_difference(self._host, started.continuation)):
            if not self._any_host:
                raise error
            self._history.clear()
            self._exact = False
        self._host = started.continuation
        self._exact = self._exact and started.continuation.exact

    def _receive_chunk(self, chunk: Chunk, number: int) -> tuple[int, Chunk] | None:
        sample = self._samples[number]
        fresh = sample.receive_chunk(chunk, keeps_tickets=self._from_tickets)
        if fresh is None:
            return None
        if sample.finished:
            raise ServerFault("after a break the server continued a text that had ended before it")
        if fresh.ticket and len(self._samples) == 1:
            self._history.add(sample.delivered, fresh.ticket)
        return number, fresh if self._shows_tickets else replace(fresh, ticket=None)

    def _receive_finished(self, finished: Finished, number: int) -> None:
        sample = self._samples[number]
        if not sample.finished:
            is_final = finished.reason is not FinishReason.DRAINED or not self._resume
            sample.finish(finished, is_final=is_final, keeps_tickets=self._from_tickets)
            last = sample.finished or sample.drained
            if last and last.ticket and len(self._samples) == 1:
                self._history.add(sample.delivered, last.ticket)

    def _receive_end(self) -> None:
        self._order.check_end()
        if not all(self.finished):
            raise ServerUnavailable("the server stopped before the end of the text", reason=STOPPING, was_reached=True)
        self.has_ended = True


def last_ticket(texts: ResumableTexts) -> bytes:
    """Return the ticket at the end of one text; raise ServerUnavailable if the end was not reached."""
    [finished] = texts.finished
    if finished is None or finished.reason is FinishReason.DRAINED:
        raise ServerUnavailable("the server stopped before it reached the state", reason=STOPPING, was_reached=True)
    if finished.ticket is None:
        raise ServerFault("the server sent no ticket, though one was requested")
    return finished.ticket


class _Progress:
    """The progress of one text. Counts are of its characters, from its beginning."""

    def __init__(self, max_characters: int, written_before: str) -> None:
        self._max_characters = max_characters
        self.finished: Finished | None = None
        self.drained: Finished | None = None
        """How a stopping server ended the text, as long as nothing was added to it since."""
        self.delivered = 0
        """What the caller has."""
        self._end = written_before
        """The last characters of that, in which a stop string may begin."""
        self._point = 0
        """Where the next call begins."""
        self._ticket: bytes | None = None
        """The state there; None: the start of the request."""
        self._before_point = written_before
        self._since_point = blake2b()
        """Of the characters delivered after `_point`."""
        self.begin_call()

    def begin_call(self) -> None:
        self._base = self._point
        """Where the call began."""
        self._heard = self._point
        """Up to where it has written."""
        self._known = self._since_point.digest()
        self._again = blake2b()

    def resume_in(self, request: generation_pb2.GenerateRequest) -> None:
        """Make `request` begin where the call does."""
        if self._ticket is None:
            return
        request.start.ticket = self._ticket
        request.prompt = ""
        request.max_characters -= self._point
        request.written_before = self._before_point

    def receive_chunk(self, chunk: Chunk, *, keeps_tickets: bool) -> Chunk | None:
        """Return the part that the caller does not have yet; None if it has everything."""
        known = min(len(chunk.text), self.delivered - self._heard)
        self._heard += len(chunk.text)
        if known > 0:
            self._compare(chunk.text[:known])
            chunk = chunk.without_first(known)
            if not chunk.text:
                return None
        self._deliver(chunk)
        if keeps_tickets and chunk.ticket:
            self._set_point(chunk.ticket)
        return chunk

    def finish(self, finished: Finished, *, is_final: bool, keeps_tickets: bool) -> None:
        """Note the end of the text in this call; the text itself ends only if that `is_final`."""
        finished = replace(finished, generated_count=self._base + finished.generated_count)
        if is_final and self._heard < self.delivered:
            raise ServerFault(f"the server wrote {self._heard:,} characters of the {self.delivered:,} before the break")
        if is_final:
            self.finished = finished
        elif self._heard == self.delivered and finished.ticket:
            self.drained = finished
            if keeps_tickets:
                self._set_point(finished.ticket)

    def _deliver(self, chunk: Chunk) -> None:
        self.delivered += len(chunk.text)
        self._end = (self._end + chunk.text)[-WRITTEN_BEFORE:]
        self._since_point.update(chunk.text.encode())
        self.drained = None

    def _set_point(self, ticket: bytes) -> None:
        """Make the next call begin here, unless nothing is left to write."""
        if self.delivered >= self._max_characters:
            return
        self._point, self._ticket, self._before_point = self.delivered, ticket, self._end
        self._since_point = blake2b()

    def _compare(self, again: str) -> None:
        self._again.update(again.encode())
        if self._heard >= self.delivered and self._again.digest() != self._known:
            raise NotExact("after a break the server wrote another text than before it; start again from a ticket")


def _first_marks(request: generation_pb2.GenerateRequest) -> list[tuple[int, bytes | None]]:
    """Return the states to which a text can be rewound before any ticket has arrived."""
    if request.samples > 1 or request.start.HasField("session"):  # which the text may have advanced meanwhile
        return []
    has_ticket = request.start.HasField("ticket") and not request.prompt
    return [(0, request.start.ticket if has_ticket else None)]
