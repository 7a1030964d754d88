"""What the calls of one scoring share, and what fits into one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from segue_client.messages.policies import DEFAULT_POLICIES, BeginPolicy, EndPolicy, ScoringPolicies, policies_message
from segue_client.messages.windows import WindowSize, windows_message

TEXTS_PER_CALL: Final = 4096
TEXTS_PER_CALL_WITH_TICKETS: Final = 256
"""With tickets or texts in the reply."""
CHARACTERS_PER_CALL: Final = 1_000_000
CHARACTERS_PER_CALL_IN_DETAIL: Final = 250_000
"""With log-probabilities or ranks."""
CHARACTERS_PER_CALL_WITH_ALTERNATIVES: Final = 20_000
WINDOWS_PER_CALL: Final = 65_536

CandidateRanking = Literal["sum", "mean"]
"""Which candidate comes first: by the log-probability of the whole, or by the mean of its characters, which does not
favour short ones."""

_RANKINGS: Final[dict[CandidateRanking, scoring_pb2.CandidateRanking.ValueType]] = {
    "sum": scoring_pb2.CANDIDATE_RANKING_SUM,
    "mean": scoring_pb2.CANDIDATE_RANKING_MEAN,
}


class ReadingOptions(TypedDict, total=False):
    """From where and how a text is read; see `Client.score`."""

    model: str
    version: int
    ticket: bytes | None
    session: str | SessionReference | None
    exact: bool
    unknown: UnknownPolicy
    begin: BeginPolicy | None
    end: EndPolicy
    log_probabilities: bool


class ScoreOptions(ReadingOptions, total=False):
    """What a scoring can be told, beside the texts; see `Client.score`."""

    ranks: bool
    top_alternatives: int
    windows: WindowSize | None


class TextOptions(ScoreOptions, total=False):
    """What the scoring of one text can be told."""

    return_ticket: bool
    return_text: bool


class TextsOptions(ScoreOptions, total=False):
    """What the scoring of several texts can be told."""

    return_tickets: bool
    return_texts: bool


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What every call of one scoring shares."""

    model: str = ""
    version: int = 0
    start: common_pb2.Start | None = None
    log_probabilities: bool = False
    ranks: bool = False
    top_alternatives: int = 0
    windows: WindowSize | None = None
    policies: ScoringPolicies = DEFAULT_POLICIES
    return_tickets: bool = False
    return_texts: bool = False

    @property
    def characters_per_call(self) -> int:
        """How many characters the contract allows."""
        if self.top_alternatives:
            return CHARACTERS_PER_CALL_WITH_ALTERNATIVES
        return CHARACTERS_PER_CALL_IN_DETAIL if self.log_probabilities or self.ranks else CHARACTERS_PER_CALL

    @property
    def texts_per_call(self) -> int:
        """How many texts the contract allows."""
        return TEXTS_PER_CALL_WITH_TICKETS if self.return_tickets or self.return_texts else TEXTS_PER_CALL

    def windows_in(self, text: str) -> int:
        """Return how many windows `text` has at most."""
        if self.windows is None:
            return 0
        if self.windows == "lines":
            return text.count("\n") + text.count("\r") + 1
        return -(-(len(text) + (self.policies.end == "line-feed")) // self.windows)

    def fits(self, text: str) -> bool:
        """Whether one call can score `text`."""
        return len(text) <= self.characters_per_call and self.windows_in(text) <= WINDOWS_PER_CALL

    @property
    def is_session(self) -> bool:
        """Whether the text advances a session."""
        return self.start is not None and self.start.HasField("session")

    @property
    def is_exact(self) -> bool:
        """Whether only an exact continuation will do."""
        return self.start is None or not self.start.HasField("exact") or self.start.exact


def score_settings(  # noqa: PLR0913 - the fields of the request
    *,
    model: str = "",
    version: int = 0,
    ticket: bytes | None = None,
    session: str | SessionReference | None = None,
    exact: bool = True,
    unknown: UnknownPolicy = "replace",
    begin: BeginPolicy | None = None,
    end: EndPolicy = "nothing",
    log_probabilities: bool = False,
    ranks: bool = False,
    top_alternatives: int = 0,
    windows: WindowSize | None = None,
    return_tickets: bool = False,
    return_texts: bool = False,
) -> ScoreSettings:
    """Gather what a scoring was told; raise InvalidRequest for what cannot be."""
    settings = ScoreSettings(
        model=model,
        version=version,
        start=start_from(ticket, session, exact=exact),
        log_probabilities=log_probabilities,
        ranks=ranks,
        top_alternatives=unsigned("top_alternatives", top_alternatives, 32),
        windows=windows,
        policies=ScoringPolicies(unknown=unknown, begin=begin, end=end),
        return_tickets=return_tickets,
        return_texts=return_texts,
    )
    windows_message(windows)
    policies_message(settings.policies)
    return settings


def text_settings(
    *, return_ticket: bool = False, return_text: bool = False, **options: Unpack[ScoreOptions]
) -> ScoreSettings:
    """Gather what the scoring of one text was told, as `score_settings` does."""
    return score_settings(**options, return_tickets=return_ticket, return_texts=return_text)


def score_request(texts: Sequence[str], settings: ScoreSettings) -> scoring_pb2.ScoreRequest:
    """Return the request for some texts; raise InvalidRequest for what the wire cannot carry."""
    return scoring_pb2.ScoreRequest(
        model=model_reference(settings.model, settings.version),
        start=settings.start,
        texts=[encodable("text", text) for text in texts],
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
    candidates: Sequence[str],
    *,
    ranking: CandidateRanking = "sum",
    return_tickets: bool = False,
    **options: Unpack[ReadingOptions],
) -> scoring_pb2.ScoreCandidatesRequest:
    """Return the request that ranks `candidates`; raise InvalidRequest for what the wire cannot carry."""
    if isinstance(candidates, str):
        raise TypeError("candidates is a sequence of texts")
    if ranking not in _RANKINGS:
        raise InvalidRequest(f"ranking is {ranking!r}; choose one of {', '.join(_RANKINGS)}")
    settings = score_settings(**options)
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
