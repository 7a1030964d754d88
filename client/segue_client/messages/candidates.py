"""Ranked continuations of a context."""

from collections.abc import Sequence
from dataclasses import dataclass

from segue.v1 import scoring_pb2

from segue_client.errors import ServerFault
from segue_client.messages.events import continuation_from
from segue_client.messages.policies import policies_from
from segue_client.messages.score import Score, score_from


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One possible continuation."""

    text: str
    index: int
    """Its place in the request, from 0."""
    score: Score
    """Given the context."""
    probability: float
    """Its share of the probability of all candidates."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates, the best first; equal ones in the order of the request."""

    context: Score
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The first candidate."""
        return self.candidates[0]


def ranking_from(response: scoring_pb2.ScoreCandidatesResponse, candidates: Sequence[str]) -> Ranking:
    """Translate the wire's ranking; raise ServerFault unless it ranks each of `candidates` once."""
    if sorted(each.index for each in response.candidates) != list(range(len(candidates))):
        raise ServerFault(f"the server did not rank each of the {len(candidates)} candidates once")
    policies, continuation = policies_from(response.policies), continuation_from(response.continuation)
    return Ranking(
        context=score_from(response.context, policies, continuation),
        candidates=tuple(
            Candidate(
                text=candidates[each.index],
                index=each.index,
                score=score_from(each.score, policies, continuation),
                probability=each.probability,
            )
            for each in response.candidates
        ),
    )
