"""Scoring a text of any length as it arrives, in bounded memory. No I/O: both clients drive it.

    while (step := scoring.next_step()) is not Step.DONE:
        match step:
            case Step.PULL:    scoring.add(the next piece of the text), scoring.end() or scoring.fail(its error)
            case Step.OPEN:    begin a call, send it scoring.start()
            case Step.SEND:    send scoring.send()
            case Step.CLOSE:   send no more; scoring.close()
            case Step.RECEIVE: progress = scoring.receive(the next message)

After a break, `scoring.restart()` makes the next call resume from the last ticket, with the text after it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from segue.v1 import common_pb2, scoring_pb2

from segue_client.errors import InvalidRequest, ServerFault
from segue_client.messages.events import Continuation, continuation_from
from segue_client.messages.generation_request import encodable, unsigned
from segue_client.messages.policies import ScoringPolicies, policies_from
from segue_client.messages.score import Score
from segue_client.messages.score_request import ScoreSettings, stream_start
from segue_client.protocol.retry import rounding_difference
from segue_client.protocol.score_accumulator import ScoreAccumulator
from segue_client.protocol.send_buffer import SendBuffer

PIECE_CHARACTERS: Final = 16_384
"""Characters in a message. Scoring them takes about 0.1 s, so the cost of a message is negligible."""

UNANSWERED_PIECES: Final = 4
"""How many pieces are sent ahead: enough that the server never waits for the next one."""

RESUME_INTERVAL: Final = 262_144
"""About how many characters are kept, to be sent again after a break."""

_LINE_ENDS: Final = ("\n", "\r")


class Step(Enum):
    """The next thing to do."""

    PULL = auto()
    OPEN = auto()
    SEND = auto()
    CLOSE = auto()
    RECEIVE = auto()
    DONE = auto()


@dataclass(frozen=True, kw_only=True)
class ScoreProgress:
    """The progress of scoring a text."""

    total: Score
    """Of all characters so far, without the details of each one."""
    latest: Score
    """Of the characters since the last progress: with their windows and, if requested, their text and the details of
    each character. These scores add up to the total."""
    sent_count: int
    """How many characters of the given text `total` and `ticket` cover."""
    ticket: bytes | None = None
    """The state after them, if one was due."""


class StreamScoring:
    """One text, and its score so far."""

    def __init__(  # noqa: PLR0913 - the options of a stream
        self,
        settings: ScoreSettings,
        *,
        ticket_interval: int = 0,
        joins: bool = True,
        resume: bool = True,
        piece_characters: int = PIECE_CHARACTERS,
        resume_interval: int = RESUME_INTERVAL,
    ) -> None:
        """`ticket_interval`: about how many characters apart the caller wants tickets; 0: never.

        `joins`: whether small pieces are joined to large ones; otherwise each is sent at once, and answered before the
        next one is read. `resume`: whether the text resumes from a ticket after a break. The text of a session cannot:
        only the call that sends its end advances the session.
        """
        self._settings = settings
        self._ticket_interval = unsigned("ticket_interval", ticket_interval, 64)
        self._resumes = resume and settings.session is None
        self._interval = _interval(ticket_interval, resume_interval) if self._resumes else ticket_interval
        self._buffer = SendBuffer(piece_characters, joins=joins, keeps=self._resumes)
        self._most_kept = 2 * self._interval + (UNANSWERED_PIECES + 1) * piece_characters
        self._goes_ahead = joins and self._resumes
        """Whether pieces are sent before the previous ones are answered."""
        self._is_careful = False
        """Whether it waits for each answer anyway."""
        self._ticket: bytes | None = None
        self._sent_before_ticket = 0
        self._ticket_due = ticket_interval
        """After how many characters the caller gets the next one."""
        self._has_ended = False
        self._failure: Exception | None = None
        self._accumulator: ScoreAccumulator | None = None
        self._started: scoring_pb2.ScoreStreamStarted | None = None
        self.finished: Score | None = None
        """The score of the whole text, once it is known."""
        self._begin_call()

    @property
    def total(self) -> Score:
        """The score so far."""
        return self.finished or (self._accumulator.total if self._accumulator else Score())

    @property
    def resumes(self) -> bool:
        """Whether another call can resume from a ticket."""
        return self._resumes

    def next_step(self) -> Step:
        """Return the next step. Raise the text source's error once all earlier pieces are answered."""
        if self.finished:
            return Step.DONE
        if self._is_open and (self._policies is None or self._is_closed or self._unanswered == self._most_unanswered):
            return Step.RECEIVE
        if self._buffer.is_ready:
            return Step.SEND if self._is_open else Step.OPEN
        if self._failure:
            if self._unanswered:
                return Step.RECEIVE
            raise self._failure
        if not self._has_ended:
            return Step.PULL
        return Step.CLOSE if self._is_open else Step.OPEN

    def add(self, text: str) -> None:
        """Add the next piece of the text; a piece that UTF-8 cannot encode is an error of the text."""
        try:
            self._buffer.add(encodable("text", text))
        except InvalidRequest as error:
            self.fail(error)

    def end(self) -> None:
        """Note the end of the text."""
        self._has_ended = True
        self._buffer.end()

    def fail(self, error: Exception) -> None:
        """Note an error of the text; `next_step` raises it once everything before it is scored."""
        self._failure = error
        self._buffer.end()

    def start(self) -> scoring_pb2.ScoreStreamRequest:
        """Begin a call; return its first message."""
        self._is_open = True
        start = stream_start(self._settings, ticket_interval=self._interval)
        if self._started:
            start.model.name, start.model.version = self._started.model, self._started.version
        if self._ticket:
            self._resume_in(start)
        return scoring_pb2.ScoreStreamRequest(start=start)

    def send(self) -> scoring_pb2.ScoreStreamRequest:
        """Return the message with the next piece."""
        if self._buffer.unconfirmed_count > self._most_kept:
            raise ServerFault(f"the server sent no ticket in {self._buffer.unconfirmed_count:,} characters")
        piece = self._buffer.next_piece()
        self._unanswered += 1
        self._sent_count += len(piece)
        return scoring_pb2.ScoreStreamRequest(text=piece)

    def close(self) -> None:
        """Note that the server was told of the end."""
        self._is_closed = True

    def receive(self, message: scoring_pb2.ScoreStreamResponse | None) -> ScoreProgress | None:
        """Note the next message, None at the end of the call; return what is new to the caller.

        Raises ServerFault for a violation of the contract, and NotExact if another server rounds differently.
        """
        if message is None:
            raise ServerFault("the server ended the stream without `finished`")
        event = message.WhichOneof("event")
        if event and (event == "started") is not (self._policies is None):
            raise ServerFault(f"the server sent `{event}` out of order")
        match event:
            case "started":
                self._receive_started(message.started)
                return None
            case "progress":
                return self._receive_progress(message.progress)
            case "finished":
                return self._receive_finished(message.finished)
        raise ServerFault("the server sent an event that this client does not know")

    @property
    def can_restart(self) -> bool:
        """Whether another call can resume where the last one broke."""
        return self._resumes or self._started is None

    def restart(self) -> None:
        """Make the next call resume from the last ticket."""
        # Writing to a failed call may only show that it failed. Waiting for each answer shows why the next one fails.
        self._is_careful = True
        self._buffer.resend()
        if self._accumulator:
            self._accumulator.begin_call()
        self._begin_call()

    @property
    def _most_unanswered(self) -> int:
        return UNANSWERED_PIECES if self._goes_ahead and not self._is_careful else 1

    def _begin_call(self) -> None:
        self._is_open = self._is_closed = False
        self._policies: ScoringPolicies | None = None
        self._continuation: Continuation | None = None
        self._unanswered = 0
        self._sent_count = 0
        """In this call."""
        self._sent_base = self._sent_before_ticket

    def _resume_in(self, start: scoring_pb2.ScoreStreamStart) -> None:
        """Make a call begin at the ticket."""
        assert self._accumulator
        assert self._ticket
        exact = start.start.exact if start.start.HasField("exact") else None
        start.start.CopyFrom(common_pb2.Start(ticket=self._ticket, exact=exact))
        if isinstance(self._settings.windows, int):
            start.windows.before = self._accumulator.point.open_window.character_count
        if not self._buffer.is_ready and self._buffer.last_confirmed in _LINE_ENDS:
            # The text ended with its own line feed, which the server does not see again.
            start.policies.end = scoring_pb2.END_POLICY_NOTHING

    def _receive_started(self, started: scoring_pb2.ScoreStreamStarted) -> None:
        self._policies = policies_from(started.policies)
        self._continuation = continuation_from(started.continuation)
        if self._started is None:
            self._started = started
            is_zero = self._settings.ticket is None and self._settings.session is None
            self._accumulator = ScoreAccumulator(
                first_is_scored=not is_zero or self._policies.begin == "begin",
                has_windows=self._settings.windows is not None,
            )
        elif self._settings.exact:
            error = rounding_difference(continuation_from(self._started.continuation), self._continuation)
            if error:
                raise error

    def _receive_progress(self, progress: scoring_pb2.ScoreStreamProgress) -> ScoreProgress | None:
        sent_count = self._sent_base + progress.sent_count
        if not self._sent_before_ticket <= sent_count <= self._sent_base + self._sent_count:
            raise ServerFault(
                f"the server claims to have scored {progress.sent_count:,} of {self._sent_count:,} characters"
            )
        self._unanswered = max(0, self._unanswered - 1)
        latest = self._add_score(progress.total)
        if progress.total.ticket and self._resumes:
            self._set_point(progress.total.ticket, sent_count)
        if latest is None:
            return None
        self._is_careful = False
        ticket = self._due_ticket(progress.total.ticket, sent_count)
        return ScoreProgress(
            total=self.total, latest=replace(latest, ticket=ticket), sent_count=sent_count, ticket=ticket
        )

    def _receive_finished(self, finished: scoring_pb2.ScoreStreamFinished) -> ScoreProgress:
        if not self._is_closed:
            raise ServerFault("the server ended a stream before the end of the text")
        latest = self._add_score(finished.total, is_last=True)
        assert self._accumulator
        if latest is None:
            raise ServerFault("the server scored less of the text than before the connection broke")
        if self._settings.return_tickets and latest.position and latest.ticket is None:
            raise ServerFault("the server sent no ticket, though one was requested")
        self.finished = replace(self._accumulator.total, ticket=latest.ticket)
        return ScoreProgress(
            total=self.finished,
            latest=latest,
            sent_count=self._sent_base + self._sent_count,
            ticket=latest.ticket,
        )

    def _add_score(self, total: scoring_pb2.TextScore, *, is_last: bool = False) -> Score | None:
        assert self._accumulator
        assert self._policies
        assert self._continuation
        return self._accumulator.add(total, self._policies, self._continuation, is_last=is_last)

    def _set_point(self, ticket: bytes, sent_count: int) -> None:
        """Make the next call begin here."""
        assert self._accumulator
        self._buffer.confirm(sent_count - self._sent_before_ticket)
        self._ticket, self._sent_before_ticket = ticket, sent_count
        self._accumulator.set_point()

    def _due_ticket(self, ticket: bytes, sent_count: int) -> bytes | None:
        if not self._resumes:
            return ticket or None
        if not ticket or not self._ticket_interval or sent_count < self._ticket_due:
            return None
        self._ticket_due = sent_count + self._ticket_interval
        return ticket


def _interval(wanted: int, most: int) -> int:
    """Return an interval of at most `most` characters of which `wanted` is about a multiple."""
    return most if not wanted else -(-wanted // -(-wanted // most))


def collected(progresses: Iterable[ScoreProgress], finished: Score) -> Score:
    """Return the score of a whole text, with the details from all its progress."""
    parts = [progress.latest for progress in progresses]
    whole = Score.merge(replace(part, windows=()) for part in parts)
    windows = tuple(window for part in parts for window in part.windows)
    return replace(
        finished,
        log_probabilities=whole.log_probabilities,
        ranks=whole.ranks,
        alternatives=whole.alternatives,
        windows=windows,
        text=whole.text,
    )
