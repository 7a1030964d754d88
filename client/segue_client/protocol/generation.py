"""One request for texts, in however many calls it takes. No I/O: both clients drive it.

    texts = resumable_texts("Once ", resume=True)
    send(texts.next_request())
    while not texts.has_ended:
        try:
            chunk = texts.take(receive())
        except SegueError:
            ...                                # where it can be mended:
            send(texts.next_request())

A text alone goes on from the last ticket that came on the way; before the first one, and several samples or a session
always, from the start, with the seed of the first call. What the caller has already is then written once more, the
same: it is compared and left out, down to the character.
"""

from dataclasses import replace
from hashlib import blake2b
from typing import Final, Unpack

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
from segue_client.messages.generation_request import WRITTEN_BEFORE, GenerationOptions, generate_request
from segue_client.protocol.ticket_history import TicketHistory

RESUME_INTERVAL: Final = 1000
"""Characters between the tickets that are asked for in order to go on from them; a shorter text is written anew."""


def resumable_texts(
    prompt: str, samples: int = 1, *, resume: bool, **options: Unpack[GenerationOptions]
) -> "ResumableTexts":
    """Return one request for `samples` texts; raise InvalidRequest for what the wire cannot carry.

    With `resume` it survives the end of a call; otherwise a server that is stopping ends the text.
    """
    request = generate_request(prompt, samples=samples, **options)
    shows_tickets = options.get("ticket_interval") is not None
    return ResumableTexts(request, resume=resume, shows_tickets=shows_tickets)


class ResumableTexts:
    """What the caller has of each text, and how the next call goes on."""

    def __init__(self, request: generation_pb2.GenerateRequest, *, resume: bool, shows_tickets: bool) -> None:
        """`shows_tickets`: whether the caller asked for tickets on the way."""
        self._request = request
        self._resume = resume
        self._shows_tickets = shows_tickets
        self._from_tickets = resume and request.samples == 1 and not request.start.HasField("session")
        if self._from_tickets and not shows_tickets and request.max_characters > RESUME_INTERVAL:
            request.ticket_interval = RESUME_INTERVAL
        self._samples = [_Progress(request.max_characters, request.written_before) for _ in range(request.samples)]
        self._trail = TicketHistory(_first_marks(request))
        self._started: Started | None = None
        self._host: Continuation | None = None
        """What is writing now."""
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
    def exact(self) -> bool:
        """Whether every call so far went on exactly, on one class of hosts."""
        return self._exact

    @property
    def finished(self) -> tuple[Finished | None, ...]:
        """How each text ended; None for those that were not yet read to their ends."""
        return tuple(sample.finished for sample in self._samples)

    @property
    def resumed_count(self) -> int:
        """How many further calls it took until now."""
        return max(0, self._calls - 1)

    @property
    def rewindable_count(self) -> int:
        """How many of the last characters can be taken back."""
        earliest = self._trail.earliest_count
        return 0 if earliest is None else max(0, self._samples[0].delivered - earliest)

    @property
    def latest_ticket(self) -> tuple[int, bytes] | None:
        """The last ticket of the one text, and the number of characters before it; None where none has come."""
        return self._trail.latest

    def rewound(self, characters: int) -> "bytes | ResumableTexts":
        """Return the ticket of the state `characters` before the last one, or what ends with it (see `last_ticket`).

        Raises NotRewindable where that is too far back.
        """
        target, earliest = self._samples[0].delivered - characters, self._trail.earliest_count
        if earliest is None or self._samples[0].delivered < earliest:
            raise NotRewindable(
                "no state is kept that the text could be taken back to: it has not begun, or goes on from a session, "
                "which can be rewound itself",
                rewindable_count=0,
            )
        if characters < 0 or target < earliest:
            raise NotRewindable(
                f"the text can go back by 0 to {self.rewindable_count:,} characters, not by {characters:,}",
                rewindable_count=self.rewindable_count,
            )
        count, ticket = self._trail.before(target)
        if ticket is not None and count == target:
            return ticket
        return self._again(count, ticket, target - count)

    def _again(self, count: int, ticket: bytes | None, characters: int) -> "ResumableTexts":
        """Return the request that writes so many characters once more, from the ticket after the first `count`."""
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
        again._go_on_from(self)
        return again

    def _go_on_from(self, other: "ResumableTexts") -> None:
        """Write what `other` has written: only a host that writes the same will do."""
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
            self._samples[0].go_on(request)
        return request

    def take(self, message: generation_pb2.GenerateResponse | None) -> tuple[int, Chunk] | None:
        """Note the next message, None at the end of the call; return the sample and what is new of its chunk.

        Raises ServerUnavailable where the call has ended before the texts, NotExact where another server cannot go
        on, and ServerFault for whatever the contract does not have.
        """
        if message is None:
            self._take_end()
            return None
        event, sample = event_from(message), message.sample
        self._order.check(event, sample)
        match event:
            case Started():
                self._take_started(event)
            case Chunk():
                return self._take_chunk(event, sample)
            case Finished():
                self._take_finished(event, sample)
        return None

    def give_up(self, error: SegueError) -> None:
        """End texts that no server goes on with by the ticket of the one that stopped; else raise `error`."""
        unfinished = [sample for sample in self._samples if not sample.finished]
        if not isinstance(error, ServerUnavailable | ServerBusy) or not all(sample.drained for sample in unfinished):
            raise error
        for sample in unfinished:
            sample.finished = sample.drained
        self.has_ended = True

    def _take_started(self, started: Started) -> None:
        self._calls += 1
        if self._started is None:
            self._started = started
        elif self._host and (difference := _difference(self._host, started.continuation)):
            if not self._any_host:
                raise NotExact(
                    f"after a break there is only {difference}: it would round differently; exact=False goes on all "
                    "the same"
                )
            self._trail.clear()
            self._exact = False
        self._host = started.continuation
        self._exact = self._exact and started.continuation.exact

    def _take_chunk(self, chunk: Chunk, number: int) -> tuple[int, Chunk] | None:
        sample = self._samples[number]
        fresh = sample.take(chunk, keeps_tickets=self._from_tickets)
        if fresh is None:
            return None
        if sample.finished:
            raise ServerFault("after a break the server went on with a text that had ended before it")
        if fresh.ticket and len(self._samples) == 1:
            self._trail.note(sample.delivered, fresh.ticket)
        return number, fresh if self._shows_tickets else replace(fresh, ticket=None)

    def _take_finished(self, finished: Finished, number: int) -> None:
        sample = self._samples[number]
        if not sample.finished:
            is_final = finished.reason is not FinishReason.DRAINED or not self._resume
            sample.finish(finished, is_final=is_final, keeps_tickets=self._from_tickets)
            last = sample.finished or sample.drained
            if last and last.ticket and len(self._samples) == 1:
                self._trail.note(sample.delivered, last.ticket)

    def _take_end(self) -> None:
        self._order.check_end()
        if not all(self.finished):
            raise ServerUnavailable("the server stopped before the end of the text", reason=STOPPING, was_reached=True)
        self.has_ended = True


def last_ticket(texts: ResumableTexts) -> bytes:
    """Return the ticket at the end of one text; raise ServerUnavailable where the end was not reached."""
    [finished] = texts.finished
    if finished is None or finished.reason is FinishReason.DRAINED:
        raise ServerUnavailable("the server stopped before it had come to the state", reason=STOPPING, was_reached=True)
    if finished.ticket is None:
        raise ServerFault("the server sent no ticket, though one was requested")
    return finished.ticket


class _Progress:
    """How far one text has come. Counts are of its characters, from its beginning."""

    def __init__(self, budget: int, written_before: str) -> None:
        self._budget = budget
        self.finished: Finished | None = None
        self.drained: Finished | None = None
        """How a server that stopped ended it, where that is how it stands now."""
        self.delivered = 0
        """What the caller has."""
        self._end = written_before
        """The last of it."""
        self._point = 0
        """Where the next call goes on from."""
        self._ticket: bytes | None = None
        """The state there; None: the start of the request."""
        self._before_point = written_before
        self._since_point = blake2b()
        """Of what the caller has behind that point."""
        self.begin_call()

    def begin_call(self) -> None:
        self._base = self._point
        """Where the call began."""
        self._heard = self._point
        """What it has brought up to."""
        self._known = self._since_point.digest()
        self._again = blake2b()

    def go_on(self, request: generation_pb2.GenerateRequest) -> None:
        """Make `request` begin where the call does."""
        if self._ticket is None:
            return
        request.start.ticket = self._ticket
        request.prompt = ""
        request.max_characters -= self._point
        request.written_before = self._before_point

    def take(self, chunk: Chunk, *, keeps_tickets: bool) -> Chunk | None:
        """Return what the caller does not have yet; None where that is nothing."""
        known = min(len(chunk.text), self.delivered - self._heard)
        self._heard += len(chunk.text)
        if known > 0:
            self._compare(chunk.text[:known])
            chunk = chunk.without_first(known)
            if not chunk.text:
                return None
        self._deliver(chunk)
        if keeps_tickets and chunk.ticket:
            self._keep(chunk.ticket)
        return chunk

    def finish(self, finished: Finished, *, is_final: bool, keeps_tickets: bool) -> None:
        """Note how the call ends the text; the text itself ends with it only if that is final."""
        finished = replace(finished, generated_count=self._base + finished.generated_count)
        if is_final and self._heard < self.delivered:
            raise ServerFault(f"the server wrote {self._heard:,} characters of the {self.delivered:,} that it had")
        if is_final:
            self.finished = finished
        elif self._heard == self.delivered and finished.ticket:
            self.drained = finished
            if keeps_tickets:
                self._keep(finished.ticket)

    def _deliver(self, chunk: Chunk) -> None:
        self.delivered += len(chunk.text)
        self._end = (self._end + chunk.text)[-WRITTEN_BEFORE:]
        self._since_point.update(chunk.text.encode())
        self.drained = None

    def _keep(self, ticket: bytes) -> None:
        """Have the next call go on from here, where there is something left to write."""
        if self.delivered >= self._budget:
            return
        self._point, self._ticket, self._before_point = self.delivered, ticket, self._end
        self._since_point = blake2b()

    def _compare(self, again: str) -> None:
        self._again.update(again.encode())
        if self._heard >= self.delivered and self._again.digest() != self._known:
            raise NotExact("after a break the server wrote another text than before it; begin anew from a ticket")


def _first_marks(request: generation_pb2.GenerateRequest) -> list[tuple[int, bytes | None]]:
    """Return the states that a text can be taken back to before any ticket has come."""
    if request.samples > 1 or request.start.HasField("session"):  # which the text may have advanced meanwhile
        return []
    has_ticket = request.start.HasField("ticket") and not request.prompt
    return [(0, request.start.ticket if has_ticket else None)]


def _difference(before: Continuation, now: Continuation) -> str:
    """Say in what the host that a text is to go on at is another one; "" where it is in nothing that matters."""
    if before.sha256 != now.sha256:
        return f"build {now.sha256[:12]} of the model, the text was being written by build {before.sha256[:12]}"
    if before.host_class != now.host_class:
        return f"a host of class {now.host_class}, the text was being written on one of class {before.host_class}"
    return ""
