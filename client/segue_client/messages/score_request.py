"""The requests of one scoring, and what fits into one of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypedDict, Unpack

from segue.v1 import common_pb2, scoring_pb2

from segue_client.errors import InvalidRequest
from segue_client.messages.generation_request import (
    SessionReference,
    UnknownPolicy,
    encodable,
    model_reference,
    start_from,
    unsigned,
)
from segue_client.messages.policies import BeginPolicy, EndPolicy, ScoringPolicies, policies_message
from segue_client.messages.windows import WindowSize, windows_message

TEXTS_PER_CALL: Final = 4096
TEXTS_PER_CALL_WITH_TICKETS: Final = 256
"""With tickets or texts in the response."""
CHARACTERS_PER_CALL: Final = 1_000_000
CHARACTERS_PER_CALL_IN_DETAIL: Final = 250_000
"""With log-probabilities or ranks."""
CHARACTERS_PER_CALL_WITH_ALTERNATIVES: Final = 20_000
WINDOWS_PER_CALL: Final = 65_536

CandidateRanking = Literal["sum", "mean"]
"""What candidates are ranked by: the log-probability of the whole, or the mean of its characters, which does not favour
short candidates."""

_RANKINGS: Final[dict[CandidateRanking, scoring_pb2.CandidateRanking.ValueType]] = {
    "sum": scoring_pb2.CANDIDATE_RANKING_SUM,
    "mean": scoring_pb2.CANDIDATE_RANKING_MEAN,
}


class ReadingOptions(TypedDict, total=False):
    """Where a text starts and how it is read; see `Client.score`."""

    model: str
    version: int
    ticket: bytes | None
    session: str | SessionReference | None
    exact: bool
    unknown: UnknownPolicy
    begin: BeginPolicy | None
    end: EndPolicy
    verbatim: bool
    log_probabilities: bool


class ScoreOptions(ReadingOptions, total=False):
    """The options of every scoring; see `Client.score`."""

    ranks: bool
    top_alternatives: int
    windows: WindowSize | None


class TextOptions(ScoreOptions, total=False):
    """The options of the scoring of one text."""

    return_ticket: bool
    return_text: bool


class TextsOptions(ScoreOptions, total=False):
    """The options of the scoring of several texts."""

    return_tickets: bool
    return_texts: bool


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What every call of one scoring shares; see `Client.score`. Raises InvalidRequest for what cannot be requested."""

    model: str = ""
    version: int = 0
    ticket: bytes | None = None
    session: str | SessionReference | None = None
    exact: bool = True
    unknown: UnknownPolicy = "replace"
    begin: BeginPolicy | None = None
    end: EndPolicy = "nothing"
    verbatim: bool = False
    log_probabilities: bool = False
    ranks: bool = False
    top_alternatives: int = 0
    windows: WindowSize | None = None
    return_tickets: bool = False
    return_texts: bool = False

    def __post_init__(self) -> None:
        start_from(self.ticket, self.session, exact=self.exact)
        unsigned("top_alternatives", self.top_alternatives, 32)
        windows_message(self.windows)
        policies_message(self.policies)

    @cached_property
    def start(self) -> common_pb2.Start | None:
        """Where the scoring starts: with one request key, if it is a session."""
        return start_from(self.ticket, self.session, exact=self.exact)

    @property
    def policies(self) -> ScoringPolicies:
        """How the text is read."""
        return ScoringPolicies(unknown=self.unknown, begin=self.begin, end=self.end, verbatim=self.verbatim)

    @property
    def characters_per_call(self) -> int:
        """The most characters that the contract allows in one call."""
        if self.top_alternatives:
            return CHARACTERS_PER_CALL_WITH_ALTERNATIVES
        return CHARACTERS_PER_CALL_IN_DETAIL if self.log_probabilities or self.ranks else CHARACTERS_PER_CALL

    @property
    def texts_per_call(self) -> int:
        """The most texts that the contract allows in one call."""
        return TEXTS_PER_CALL_WITH_TICKETS if self.return_tickets or self.return_texts else TEXTS_PER_CALL

    def windows_in(self, text: str) -> int:
        """Return how many windows `text` has at most; none if it is no text."""
        if self.windows is None or not isinstance(text, str):
            return 0
        if self.windows == "lines":
            return text.count("\n") + text.count("\r") + 1
        return -(-(len(text) + (self.end == "line-feed")) // self.windows)

    def fits(self, text: object) -> bool:
        """Whether one call can score `text`; what is no text is refused there."""
        return not isinstance(text, str) or (
            len(text) <= self.characters_per_call and self.windows_in(text) <= WINDOWS_PER_CALL
        )


def text_settings(
    *, return_ticket: bool = False, return_text: bool = False, **options: Unpack[ScoreOptions]
) -> ScoreSettings:
    """Return the settings of the scoring of one text."""
    return ScoreSettings(**options, return_tickets=return_ticket, return_texts=return_text)


def score_request(texts: Sequence[str], settings: ScoreSettings) -> scoring_pb2.ScoreRequest:
    """Return the request for some texts; raise InvalidRequest for what the wire cannot carry."""
    return scoring_pb2.ScoreRequest(
        model=model_reference(settings.model, settings.version),
        start=settings.start,
        texts=[encodable(f"texts[{number}]", text) for number, text in enumerate(texts)],
        log_probabilities=settings.log_probabilities,
        policies=policies_message(settings.policies),
        return_tickets=settings.return_tickets,
        ranks=settings.ranks,
        top_alternatives=settings.top_alternatives,
        windows=windows_message(settings.windows),
        return_texts=settings.return_texts,
    )


def stream_start(settings: ScoreSettings, *, ticket_interval: int) -> scoring_pb2.ScoreStreamStart:
    """Return the first message of a stream."""
    return scoring_pb2.ScoreStreamStart(
        model=model_reference(settings.model, settings.version),
        start=settings.start,
        policies=policies_message(settings.policies),
        windows=windows_message(settings.windows),
        ticket_interval=unsigned("ticket_interval", ticket_interval, 64),
        return_ticket=settings.return_tickets,
        log_probabilities=settings.log_probabilities,
        ranks=settings.ranks,
        top_alternatives=settings.top_alternatives,
        return_text=settings.return_texts,
    )


def candidates_request(
    context: str,
    candidates: Iterable[str],
    *,
    ranking: CandidateRanking = "sum",
    return_tickets: bool = False,
    **options: Unpack[ReadingOptions],
) -> scoring_pb2.ScoreCandidatesRequest:
    """Return the request that ranks `candidates`; raise InvalidRequest for what the wire cannot carry."""
    if isinstance(candidates, str):
        raise TypeError("candidates is one text; pass a sequence of texts")
    if ranking not in _RANKINGS:
        raise InvalidRequest(f"ranking is {ranking!r}; choose one of {', '.join(_RANKINGS)}")
    settings = ScoreSettings(**options)
    return scoring_pb2.ScoreCandidatesRequest(
        model=model_reference(settings.model, settings.version),
        start=settings.start,
        context=encodable("context", context),
        candidates=[encodable("candidate", candidate) for candidate in candidates],
        policies=policies_message(settings.policies),
        ranking=_RANKINGS[ranking],
        log_probabilities=settings.log_probabilities,
        return_tickets=return_tickets,
    )
