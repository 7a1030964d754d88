"""What may follow a context, ranked."""

from collections.abc import Sequence
from dataclasses import dataclass

from segue.v1 import scoring_pb2

from segue_client.errors import ServerFault
from segue_client.messages.events import continuation_from
from segue_client.messages.policies import policies_from
from segue_client.messages.score import Score, score_from


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the texts that may follow."""

    text: str
    index: int
    """Which one of those given, counted from 0."""
    score: Score
    """Behind the context."""
    probability: float
    """Its share of the probability of all candidates together."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates, the best first; equal ones in the order in which they were given."""

    context: Score
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The first one."""
        return self.candidates[0]


def ranking_from(response: scoring_pb2.ScoreCandidatesResponse, candidates: Sequence[str]) -> Ranking:
    """Translate the wire's ranking; raise ServerFault where it is not one of all `candidates`."""
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
