"""Scores: how probable a model finds a text, exactly."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from segue.v1 import scoring_pb2

from segue_client.errors import ServerFault
from segue_client.messages.events import Alternative, Continuation, alternatives_from, continuation_from
from segue_client.messages.policies import ScoringPolicies, policies_from
from segue_client.messages.score_request import ScoreSettings
from segue_client.messages.surprisal import Surprisal
from segue_client.messages.windows import WindowScore, shifted, windows_from


@dataclass(frozen=True, kw_only=True)
class Score(Surprisal):
    """How probable a model finds a text.

    Scores of consecutive parts add up to the score of the whole: `a + b`. Every sum is a multiple of 2^-24,
    so the addition is exact as long as the total stays below 2^29 nats (some 10^8 characters).
    """

    unknown_count: int = 0
    """Characters read as `<unk>`; they are scored like any other."""
    log_probabilities: tuple[float, ...] = ()
    """In nats, one per scored character. Empty unless requested."""
    ranks: tuple[int, ...] = ()
    """For each scored character, 1 + the number of more probable symbols. Empty unless requested."""
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    """For each scored character the most probable ones in its place, best first. Empty unless requested."""
    windows: tuple[WindowScore, ...] = ()
    """The requested parts; their sums and counts add up to those of the text."""
    ticket: bytes | None = None
    """The state after the text. None unless requested, and if nothing was read: an empty text from the zero state,
    unless the model is one of documents."""
    position: int = 0
    """Symbols read up to the end of the text: characters, or bytes for a model of bytes."""
    policies: ScoringPolicies | None = None
    """How the text was read."""
    continuation: Continuation | None = None
    """The state before the text, and how exactly it was continued."""
    text: str = ""
    """The text as it was read: normalized, with the line feed of the end policy. Empty unless requested."""

    def __add__(self, following: "Score") -> "Score":
        if not isinstance(following, Score):
            return NotImplemented
        return Score.merge([self, following])

    def __radd__(self, start: object) -> "Score":
        """Let `sum` add up scores: it begins with 0."""
        return self if isinstance(start, int) and start == 0 else NotImplemented

    @classmethod
    def merge(cls, parts: Iterable["Score"]) -> "Score":
        """Add up consecutive parts; ticket and position are the last one's. No parts give the empty text's score."""
        parts = list(parts)
        return cls(
            sum_log_probability=math.fsum(part.sum_log_probability for part in parts),
            scored_count=sum(part.scored_count for part in parts),
            unknown_count=sum(part.unknown_count for part in parts),
            log_probabilities=tuple(chain.from_iterable(part.log_probabilities for part in parts)),
            ranks=tuple(chain.from_iterable(part.ranks for part in parts)),
            alternatives=tuple(chain.from_iterable(part.alternatives for part in parts)),
            windows=_joined(part.windows for part in parts),
            ticket=parts[-1].ticket if parts else None,
            position=parts[-1].position if parts else 0,
            policies=_policies([part.policies for part in parts]),
            continuation=parts[0].continuation if parts else None,
            text="".join(part.text for part in parts),
        )


def _joined(parts: Iterable[tuple[WindowScore, ...]]) -> tuple[WindowScore, ...]:
    joined: list[WindowScore] = []
    for windows in parts:
        joined += shifted(windows, joined[-1].end if joined else 0)
    return tuple(joined)


def _policies(parts: list[ScoringPolicies | None]) -> ScoringPolicies | None:
    """Return how the whole was read: from the beginning of the first part to the end of the last."""
    if not parts or parts[0] is None or parts[-1] is None:
        return None
    return ScoringPolicies(unknown=parts[0].unknown, begin=parts[0].begin, end=parts[-1].end)


def score_from(
    message: scoring_pb2.TextScore,
    policies: ScoringPolicies,
    continuation: Continuation | None = None,
    *,
    scored_before: int = 0,
) -> Score:
    """Translate the wire's score; raise ServerFault if it contradicts itself.

    Per-character values leave out the first `scored_before` scored characters.
    """
    fresh = message.scored_count - scored_before
    for name, values in (
        ("log_probabilities", message.log_probabilities),
        ("ranks", message.ranks),
        ("alternatives", message.alternatives),
    ):
        if len(values) not in (0, fresh):
            raise ServerFault(f"the server sent {len(values)} {name} for {fresh} scored characters")
    return Score(
        sum_log_probability=message.sum_log_probability,
        scored_count=message.scored_count,
        unknown_count=message.unknown_count,
        log_probabilities=tuple(message.log_probabilities),
        ranks=tuple(message.ranks),
        alternatives=alternatives_from(message.alternatives),
        windows=windows_from(message.windows),
        ticket=message.ticket or None,
        position=message.position,
        policies=policies,
        continuation=continuation,
        text=message.text,
    )


def scores_from(response: scoring_pb2.ScoreResponse, texts: Sequence[str], settings: ScoreSettings) -> list[Score]:
    """Return one score for each text; raise ServerFault if the reply does not fit them."""
    if len(response.scores) != len(texts):
        raise ServerFault(f"the server sent {len(response.scores)} scores for {len(texts)} texts")
    if settings.return_tickets and any(score.scored_count and not score.ticket for score in response.scores):
        raise ServerFault("the server sent no ticket, though one was requested")
    policies, continuation = policies_from(response.policies), continuation_from(response.continuation)
    return [score_from(score, policies, continuation) for score in response.scores]
