"""Scores of texts of any length, exactly.

The wire limits one call; this module cuts longer work into calls and adds their replies up. It does no I/O:
`score_calls` is a generator that yields requests, is sent their responses, and returns the scores. The sync
and the async client drive the same one.
"""

import math
import re
import unicodedata
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from charlm.v1 import scoring_pb2

from charlm_client.errors import ServerFault
from charlm_client.request import UnknownPolicy, encodable, model_reference, start_from, unknown_policy

TEXTS_PER_CALL: Final = 4096
TEXTS_PER_CALL_WITH_TICKETS: Final = 256
"""The client's own limit: a ticket takes kilobytes, and the reply has to fit into one message."""
CHARACTERS_PER_CALL: Final = 1_000_000
CHARACTERS_PER_CALL_WITH_LOG_PROBABILITIES: Final = 250_000

BYTE_ORDER_MARK: Final = "\ufeff"

_LETTER: Final = re.compile("[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class Score:
    """How probable a model finds a text.

    Scores of consecutive parts add up to the score of the whole: `a + b`. Every sum is a multiple of 2^-24,
    so the addition is exact as long as the total stays below 2^29 nats (some 10^8 characters).
    """

    sum_log_probability: float = 0.0
    """Of the scored characters, in nats."""
    scored_count: int = 0
    unknown_count: int = 0
    """How many characters were read as `<unk>`. Scored like any other."""
    log_probabilities: tuple[float, ...] = ()
    """In nats, one for each scored character. Empty unless requested."""
    ticket: bytes | None = None
    """The state after the text. None unless requested, and where nothing was read yet: an empty text from the zero
    state, unless the model is one of documents."""

    @property
    def perplexity(self) -> float | None:
        """The exponential of the mean negative log-probability; None where no character was scored."""
        mean = self._mean_surprisal
        if mean is None:
            return None
        try:
            return math.exp(mean)
        except OverflowError:
            return math.inf

    @property
    def bits_per_character(self) -> float | None:
        """The mean negative log-probability in bits; None where no character was scored."""
        mean = self._mean_surprisal
        return None if mean is None else mean / math.log(2)

    @property
    def _mean_surprisal(self) -> float | None:
        # Subtracted from zero, a sum of zero does not become -0.0.
        return (0.0 - self.sum_log_probability) / self.scored_count if self.scored_count else None

    def __add__(self, following: "Score") -> "Score":
        return Score.merge([self, following])

    @classmethod
    def merge(cls, parts: Iterable["Score"]) -> "Score":
        """Add up consecutive parts; the ticket is the last one's. No parts give the empty text's score."""
        parts = list(parts)
        return cls(
            sum_log_probability=math.fsum(part.sum_log_probability for part in parts),
            scored_count=sum(part.scored_count for part in parts),
            unknown_count=sum(part.unknown_count for part in parts),
            log_probabilities=tuple(chain.from_iterable(part.log_probabilities for part in parts)),
            ticket=parts[-1].ticket if parts else None,
        )


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What every call of one scoring shares."""

    model: str
    version: int
    ticket: bytes | None
    log_probabilities: bool
    unknown: UnknownPolicy
    return_tickets: bool

    @property
    def characters_per_call(self) -> int:
        """How many characters the contract allows."""
        return CHARACTERS_PER_CALL_WITH_LOG_PROBABILITIES if self.log_probabilities else CHARACTERS_PER_CALL

    @property
    def texts_per_call(self) -> int:
        """How many texts fit into a call and its reply."""
        return TEXTS_PER_CALL_WITH_TICKETS if self.return_tickets else TEXTS_PER_CALL


Calls: TypeAlias = Generator[scoring_pb2.ScoreRequest, scoring_pb2.ScoreResponse, list[Score]]
"""Yields requests, is sent their responses, returns one score for each text."""


def score_calls(texts: Sequence[str], settings: ScoreSettings) -> Calls:
    """Score every text from the same start state, in calls that respect the limits."""
    if isinstance(texts, str):
        raise TypeError("score_many takes a sequence of texts; score takes one")
    scores: list[Score] = []
    for group in group_texts(texts, settings.characters_per_call, settings.texts_per_call):
        if len(group[0]) > settings.characters_per_call:
            scores += yield from _long_text(group[0], settings)
        else:
            scores += yield from _call(group, settings, ticket=settings.ticket, tickets=settings.return_tickets)
    return scores


def _long_text(text: str, settings: ScoreSettings) -> Calls:
    """Score one text in parts, each from the ticket of the part before."""
    parts: list[Score] = []
    ticket, left = settings.ticket, len(text)
    for part in cut(text, settings.characters_per_call):
        left -= len(part)
        parts += yield from _call([part], settings, ticket=ticket, tickets=left > 0 or settings.return_tickets)
        ticket = parts[-1].ticket
    return [Score.merge(parts)]


def _call(texts: Sequence[str], settings: ScoreSettings, *, ticket: bytes | None, tickets: bool) -> Calls:
    response = yield scoring_pb2.ScoreRequest(
        model=model_reference(settings.model, settings.version),
        start=start_from(ticket),
        texts=[encodable("text", text) for text in texts],
        log_probabilities=settings.log_probabilities,
        policies=scoring_pb2.ScoringPolicies(unknown=unknown_policy(settings.unknown)),
        return_tickets=tickets,
    )
    if len(response.scores) != len(texts):
        raise ServerFault(f"the server sent {len(response.scores)} scores for {len(texts)} texts")
    if tickets and any(score.scored_count and not score.ticket for score in response.scores):
        raise ServerFault("the server sent no ticket, though one was requested")
    return [_score_from(score) for score in response.scores]


def _score_from(score: scoring_pb2.TextScore) -> Score:
    return Score(
        sum_log_probability=score.sum_log_probability,
        scored_count=score.scored_count,
        unknown_count=score.unknown_count,
        log_probabilities=tuple(score.log_probabilities),
        ticket=score.ticket or None,
    )


def group_texts(texts: Sequence[str], max_characters: int, max_texts: int) -> Iterator[list[str]]:
    """Yield the texts in order, in groups that fit into one call; a text that is too long stands alone."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and (characters + len(text) > max_characters or len(group) == max_texts):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def cut(text: str, limit: int) -> Iterator[str]:
    """Yield `text` in parts of up to `limit` characters, which are normalized as they are in the whole."""
    start = 0
    while len(text) - start > limit:
        end = _cut_before(text, start, start + limit)
        yield text[start:end]
        start = end
    yield text[start:]


def _cut_before(text: str, start: int, latest: int) -> int:
    """Return the last harmless place up to `latest`; `latest` itself where a whole part offers none.

    Before a letter A-Z or a-z no normalization looks across the cut. Where there is none, the place is chosen as
    well as can be without knowing the normalization.
    """
    places = range(latest, start, -1)
    letter = next((end for end in places if _LETTER.match(text, end)), None)
    return letter or next((end for end in places if _is_harmless(text, end)), latest)


def _is_harmless(text: str, at: int) -> bool:
    """Whether a cut here splits no CR LF, one line end, and puts no byte order mark or accent at a part's front."""
    return text[at] != BYTE_ORDER_MARK and text[at - 1 : at + 1] != "\r\n" and not unicodedata.combining(text[at])
