"""Scoring a text of any length as it comes, in memory that does not grow with it. No I/O: both clients drive it.

    while (step := scoring.next_step()) is not Step.DONE:
        match step:
            case Step.PULL:  scoring.add(the next piece of the text), or scoring.end()
            case Step.OPEN:  begin a call, send it scoring.start()
            case Step.SEND:  send scoring.send()
            case Step.CLOSE: send no more; scoring.close()
            case Step.READ:  progress = scoring.take(the next message)

After a break, `scoring.begin_again()` has the next call go on from the last ticket, with the text behind it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from segue.v1 import common_pb2, scoring_pb2

from segue_client.errors import InvalidRequest, NotExact, ServerFault
from segue_client.messages.events import Continuation, continuation_from
from segue_client.messages.generation_request import encodable, unsigned
from segue_client.messages.policies import ScoringPolicies, policies_from
from segue_client.messages.score import Score
from segue_client.messages.score_request import ScoreSettings, stream_start
from segue_client.protocol.score_accumulator import ScoreAccumulator
from segue_client.protocol.send_buffer import SendBuffer

PIECE_CHARACTERS: Final = 16_384
"""How many characters go into a message. Scored in some 0.1 s, they make what a message costs invisible."""

UNANSWERED_PIECES: Final = 4
"""How many pieces the server may have before it: enough that it never waits for the next one."""

RESUME_INTERVAL: Final = 262_144
"""How many characters are kept, at most some more, to be sent again after a break."""

_LINE_ENDS: Final = ("\n", "\r")


class Step(Enum):
    """What is to be done next."""

    PULL = auto()
    OPEN = auto()
    SEND = auto()
    CLOSE = auto()
    READ = auto()
    DONE = auto()


@dataclass(frozen=True, kw_only=True)
class ScoreProgress:
    """How far the scoring of a text has come."""

    total: Score
    """Of all characters so far, without what there is of each of them."""
    latest: Score
    """Of the characters since the last progress: with their windows and, where requested, their text and what there is
    of each of them. These scores add up to the total."""
    sent_count: int
    """How many characters of the text, as it was given, `total` is of: `ticket` stands behind them."""
    ticket: bytes | None = None
    """The state behind them, where one was due."""


class StreamScoring:
    """One text, and what has come of it."""

    def __init__(  # noqa: PLR0913 - what there is to choose
        self,
        settings: ScoreSettings,
        *,
        ticket_interval: int = 0,
        joins: bool = True,
        resume: bool = True,
        piece_characters: int = PIECE_CHARACTERS,
        resume_interval: int = RESUME_INTERVAL,
    ) -> None:
        """`ticket_interval`: after how many characters the caller wants a ticket, some more or less; 0: never.

        `joins`: whether small pieces wait until they make up a large one; otherwise each is sent as it comes, and
        answered before the next one is asked for. `resume`: whether the text goes on from a ticket after a break. That
        of a session cannot: only the call which brings its end advances it.
        """
        self._settings = settings
        self._ticket_interval = unsigned("ticket_interval", ticket_interval, 64)
        self._resumes = resume and not settings.is_session
        self._interval = _interval(ticket_interval, resume_interval) if self._resumes else ticket_interval
        self._pieces = SendBuffer(piece_characters, joins=joins, keeps=self._resumes)
        self._most_kept = 2 * self._interval + (UNANSWERED_PIECES + 1) * piece_characters
        self._goes_ahead = joins and self._resumes
        """Whether pieces are sent before those before them are answered."""
        self._is_careful = False
        """Whether it waits all the same."""
        self._ticket: bytes | None = None
        self._sent_before_ticket = 0
        self._ticket_due = ticket_interval
        """The number of characters behind which the caller gets the next one."""
        self._has_ended = False
        self._failure: Exception | None = None
        self._running: ScoreAccumulator | None = None
        self._started: scoring_pb2.ScoreStreamStarted | None = None
        self.finished: Score | None = None
        """The score of the whole text, once it is known."""
        self._begin_call()

    @property
    def total(self) -> Score:
        """The score so far."""
        return self.finished or (self._running.total if self._running else Score())

    @property
    def resumes(self) -> bool:
        """Whether another call can go on from a ticket."""
        return self._resumes

    @property
    def kept_count(self) -> int:
        """How many characters are kept to be sent again."""
        return self._pieces.unconfirmed_count

    def next_step(self) -> Step:
        """Return what is to be done now; raise what the text has failed with once everything before is answered."""
        if self.finished:
            return Step.DONE
        if self._is_open and (self._policies is None or self._is_closed or self._unanswered == self._most_unanswered):
            return Step.READ
        if self._pieces.is_ready:
            return Step.SEND if self._is_open else Step.OPEN
        if self._failure:
            if self._unanswered:
                return Step.READ
            raise self._failure
        if not self._has_ended:
            return Step.PULL
        return Step.CLOSE if self._is_open else Step.OPEN

    def add(self, text: str) -> None:
        """Take the next piece of the text; what UTF-8 has no bytes for fails it."""
        try:
            self._pieces.add(encodable("text", text))
        except InvalidRequest as error:
            self.fail(error)

    def end(self) -> None:
        """Note that the text has ended."""
        self._has_ended = True
        self._pieces.end()

    def fail(self, error: Exception) -> None:
        """Note that the text goes no further, because of `error`; what is before comes first."""
        self._failure = error
        self._pieces.end()

    def start(self) -> scoring_pb2.ScoreStreamRequest:
        """Begin a call; return its first message."""
        self._is_open = True
        start = stream_start(self._settings, ticket_interval=self._interval)
        if self._started:
            start.model.name, start.model.version = self._started.model, self._started.version
        if self._ticket:
            self._go_on(start)
        return scoring_pb2.ScoreStreamRequest(start=start)

    def send(self) -> scoring_pb2.ScoreStreamRequest:
        """Return the message with the next piece."""
        if self._pieces.unconfirmed_count > self._most_kept:
            raise ServerFault(f"the server sent no ticket in {self._pieces.unconfirmed_count:,} characters")
        piece = self._pieces.send()
        self._unanswered += 1
        self._sent_count += len(piece)
        return scoring_pb2.ScoreStreamRequest(text=piece)

    def close(self) -> None:
        """Note that the server knows of the end."""
        self._is_closed = True

    def take(self, message: scoring_pb2.ScoreStreamResponse | None) -> ScoreProgress | None:
        """Note the next message, None at the end of the call; return what it brings that the caller does not have.

        Raises ServerFault for whatever the contract does not have, and NotExact where another server rounds
        differently.
        """
        if message is None:
            raise ServerFault("the server ended the stream without `finished`")
        event = message.WhichOneof("event")
        if event and (event == "started") is not (self._policies is None):
            raise ServerFault(f"the server sent `{event}` out of order")
        match event:
            case "started":
                self._take_started(message.started)
                return None
            case "progress":
                return self._take_progress(message.progress)
            case "finished":
                return self._take_finished(message.finished)
        raise ServerFault("the server sent an event that this client does not know")

    @property
    def can_begin_again(self) -> bool:
        """Whether another call can go on where the last one has broken."""
        return self._resumes or self._started is None

    def begin_again(self) -> None:
        """Have another call go on from the last ticket."""
        # Who writes to a call that has failed may learn that it failed, and not why. Then the next one tells.
        self._is_careful = True
        self._pieces.again()
        if self._running:
            self._running.begin_call()
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

    def _go_on(self, start: scoring_pb2.ScoreStreamStart) -> None:
        """Have a call begin at the ticket."""
        assert self._running
        assert self._ticket
        exact = start.start.exact if start.start.HasField("exact") else None
        start.start.CopyFrom(common_pb2.Start(ticket=self._ticket, exact=exact))
        if isinstance(self._settings.windows, int):
            start.windows.before = self._running.point.open_window.character_count
        if not self._pieces.is_ready and self._pieces.last_confirmed in _LINE_ENDS:
            # The text has ended with its own line feed, which the server does not see any more.
            start.policies.end = scoring_pb2.END_POLICY_NOTHING

    def _take_started(self, started: scoring_pb2.ScoreStreamStarted) -> None:
        self._policies = policies_from(started.policies)
        self._continuation = continuation_from(started.continuation)
        if self._started is None:
            self._started = started
            is_zero = not (self._settings.start and self._settings.start.WhichOneof("from"))
            self._running = ScoreAccumulator(
                first_is_scored=not is_zero or self._policies.begin == "begin",
                has_windows=self._settings.windows is not None,
            )
        elif self._settings.is_exact:
            _check_same_host(self._started, started)

    def _take_progress(self, progress: scoring_pb2.ScoreStreamProgress) -> ScoreProgress | None:
        sent_count = self._sent_base + progress.sent_count
        if not self._sent_before_ticket <= sent_count <= self._sent_base + self._sent_count:
            raise ServerFault(
                f"the server says that it scored {progress.sent_count:,} of {self._sent_count:,} characters"
            )
        self._unanswered = max(0, self._unanswered - 1)
        latest = self._take_score(progress.total)
        if progress.total.ticket and self._resumes:
            self._keep(progress.total.ticket, sent_count)
        if latest is None:
            return None
        self._is_careful = False
        ticket = self._due_ticket(progress.total.ticket, sent_count)
        return ScoreProgress(
            total=self.total, latest=replace(latest, ticket=ticket), sent_count=sent_count, ticket=ticket
        )

    def _take_finished(self, finished: scoring_pb2.ScoreStreamFinished) -> ScoreProgress:
        if not self._is_closed:
            raise ServerFault("the server ended a stream before the end of the text")
        latest = self._take_score(finished.total, is_last=True)
        assert self._running
        if latest is None:
            raise ServerFault("the server scored less of the text than before the connection broke")
        if self._settings.return_tickets and latest.position and latest.ticket is None:
            raise ServerFault("the server sent no ticket, though one was requested")
        self.finished = replace(self._running.total, ticket=latest.ticket)
        return ScoreProgress(
            total=self.finished,
            latest=latest,
            sent_count=self._sent_base + self._sent_count,
            ticket=latest.ticket,
        )

    def _take_score(self, total: scoring_pb2.TextScore, *, is_last: bool = False) -> Score | None:
        assert self._running
        assert self._policies
        assert self._continuation
        return self._running.take(total, self._policies, self._continuation, is_last=is_last)

    def _keep(self, ticket: bytes, sent_count: int) -> None:
        """Have the next call go on from here."""
        assert self._running
        self._pieces.confirm(sent_count - self._sent_before_ticket)
        self._ticket, self._sent_before_ticket = ticket, sent_count
        self._running.set_point()

    def _due_ticket(self, ticket: bytes, sent_count: int) -> bytes | None:
        if not self._resumes:
            return ticket or None
        if not ticket or not self._ticket_interval or sent_count < self._ticket_due:
            return None
        self._ticket_due = sent_count + self._ticket_interval
        return ticket


def _interval(wanted: int, most: int) -> int:
    """Return an interval of at most `most` characters that meets one of `wanted` every few times."""
    return most if not wanted else -(-wanted // -(-wanted // most))


def _check_same_host(first: scoring_pb2.ScoreStreamStarted, now: scoring_pb2.ScoreStreamStarted) -> None:
    one, other = first.continuation, now.continuation
    if (one.sha256, one.host_class) != (other.sha256, other.host_class):
        raise NotExact(
            f"after a break there is only build {other.sha256[:12]} of the model on a host of class "
            f"{other.host_class}; the text was begun by build {one.sha256[:12]} on one of class {one.host_class}; "
            "exact=False goes on all the same"
        )


def collected(progresses: Iterable[ScoreProgress], finished: Score) -> Score:
    """Return the score of a whole text with everything that came on the way."""
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
