"""segue.v1.ScoringService."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc.aio
import numpy as np
from segue.v1 import scoring_pb2 as pb
from segue.v1 import scoring_pb2_grpc

from segue_server.api.score_accumulator import Reading, ScoreAccumulator, Wanted
from segue_server.api.scoring_policies import read_policies
from segue_server.api.scoring_request import (
    TextStart,
    TextToScore,
    read_context,
    read_texts,
    read_wanted,
    whole_text,
)
from segue_server.api.services.response_stream import ResponseStream
from segue_server.api.services.score_reading import read_all, read_behind, read_one
from segue_server.api.services.score_stream import ScoreStreamCall, next_request
from segue_server.api.tenants import tenant_of
from segue_server.engine.model import Model
from segue_server.engine.sequence import State
from segue_server.errors import InvalidRequest, Stalled
from segue_server.runtime.admission import Admission
from segue_server.runtime.registry import Registry, Served
from segue_server.state.start import StartResolver, StartState

WINDOW: Final = 256
"""How many texts of one call are in the engine at once. They share the matrix products."""

_SUMS_ALONE: Final = Wanted(log_probabilities=False, ranks=False, alternatives=0, windows=None, text=False)

_Context = grpc.aio.ServicerContext[Any, Any]


class ScoringService(scoring_pb2_grpc.ScoringServiceServicer):
    """Scores each text as a sequence that only reads."""

    def __init__(self, registry: Registry, admission: Admission, starts: StartResolver, stall_timeout: float) -> None:
        """`stall_timeout`: seconds that a client may leave a stream of scores unread."""
        self._registry = registry
        self._admission = admission
        self._starts = starts
        self._stall_timeout = stall_timeout

    async def Score(self, request: pb.ScoreRequest, context: _Context) -> pb.ScoreResponse:  # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._registry.find(request.model.name, request.model.version), tenant_of(context)
        with self._admission.places(min(WINDOW, max(1, len(request.texts)))) as places:
            origin = await self._starts.resolve(request.start, served, tenant)
            policies = read_policies(request.policies, served.model)
            wanted = read_wanted(request, served.model, text=request.return_texts)
            texts = read_texts(request, served.model, TextStart.of(origin), policies, wanted)
            if origin.session:
                results = [await _read_in_session(texts, wanted, served, origin)]
            else:
                results = await read_all(texts, wanted, served, places)
        tickets = self._starts.tickets(origin, origin.sampling, served, tenant)
        reply = _Reply(wanted, served.model, tickets if request.return_tickets else None)
        return pb.ScoreResponse(
            scores=[reply.score(text, *result) for text, result in zip(texts, results, strict=True)],
            policies=policies.message(),
            continuation=origin.continuation,
            repeated=origin.repeated,
        )

    # The stubs know generators alone; grpc.aio takes a coroutine that writes to its context too.
    async def ScoreStream(  # type: ignore[override] # noqa: N802
        self, request_iterator: AsyncIterator[pb.ScoreStreamRequest], context: _Context
    ) -> None:
        """Answer one call; see the contract."""
        requests = aiter(request_iterator)
        with self._admission.exactly(1):
            start = await self._start_of(requests)
            served, tenant = self._registry.find(start.model.name, start.model.version), tenant_of(context)
            origin = await self._starts.resolve(start.start, served, tenant)
            ticket = self._starts.tickets(origin, origin.sampling, served, tenant)
            call = ScoreStreamCall(start, origin, served, ResponseStream(context, self._stall_timeout), ticket)
            await call.answer(requests)

    async def _start_of(self, requests: AsyncIterator[pb.ScoreStreamRequest]) -> pb.ScoreStreamStart:
        """Return what the first message of a stream says; raises InvalidRequest, Stalled and Stopping."""
        try:
            async with asyncio.timeout(self._stall_timeout):
                first = await next_request(requests, *(served.engine_thread.draining for served in self._registry))
        except TimeoutError:
            raise Stalled(
                f"no `start` came for {self._stall_timeout:g} seconds; send it first, then the text"
            ) from None
        if first is None or first.WhichOneof("event") != "start":
            raise InvalidRequest("the first message of the stream is not `start`; send that, then the text")
        return first.start

    async def ScoreCandidates(  # noqa: N802
        self, request: pb.ScoreCandidatesRequest, context: _Context
    ) -> pb.ScoreCandidatesResponse:
        """Answer one call; see the contract."""
        served, tenant = self._registry.find(request.model.name, request.model.version), tenant_of(context)
        model = served.model
        with self._admission.places(min(WINDOW, max(1, len(request.candidates)))) as places:
            origin = await self._starts.resolve(request.start, served, tenant)
            policies = read_policies(request.policies, model, begins=True)
            start = TextStart.of(origin)
            context_text = read_context(request, model, start, policies)
            context_reading, state = await read_one(context_text, _SUMS_ALONE, served)
            start = replace(start, state=state)
            wanted = replace(_SUMS_ALONE, log_probabilities=request.log_probabilities)
            texts = [
                whole_text(f"candidates[{i}]", candidate, start, policies, model)
                for i, candidate in enumerate(request.candidates)
            ]
            results = await read_all(texts, wanted, served, places)

        tickets = self._starts.tickets(origin, origin.sampling, served, tenant)
        reply = _Reply(wanted, model, tickets if request.return_tickets else None)
        scores = [reply.score(text, *result) for text, result in zip(texts, results, strict=True)]
        return pb.ScoreCandidatesResponse(
            context=reply.score(context_text, context_reading, state),
            candidates=ranked(scores, request.ranking),
            policies=policies.message(),
            continuation=origin.continuation,
        )


@dataclass(frozen=True)
class _Reply:
    """How scores are told."""

    wanted: Wanted
    model: Model
    ticket: Callable[[State], bytes] | None
    """None where no tickets are asked for."""

    def score(self, text: TextToScore, reading: Reading, state: State | None) -> pb.TextScore:
        """Return the score of one text, behind which `state` stands."""
        tally = ScoreAccumulator(self.wanted, self.model)
        tally.add(text.text, text.unknown_at, reading)
        tally.end()
        if state is None:
            return tally.message(0, b"")
        return tally.message(state.position, self.ticket(state) if self.ticket else b"")


async def _read_in_session(
    texts: list[TextToScore], wanted: Wanted, served: Served, origin: StartState
) -> tuple[Reading, State | None]:
    """Read the one text of a call that advances a session, and have the session stand behind it."""
    if len(texts) != 1:
        raise InvalidRequest(f"{len(texts)} texts and a session; a session reads one text at a time")
    [text] = texts
    reading, state = await read_behind(origin, text, wanted, served)
    await origin.advance(state, text.read, origin.sampling)
    return reading, state


def ranked(scores: list[pb.TextScore], ranking: pb.CandidateRanking.ValueType) -> list[pb.CandidateScore]:
    """Return the candidates, the best first, of equals the first; with their shares of the probability."""
    sums = np.array([score.sum_log_probability for score in scores])
    weights = np.exp(sums - sums.max())
    keys = sums
    if ranking == pb.CANDIDATE_RANKING_MEAN:
        keys = sums / np.maximum([score.scored_count for score in scores], 1)
    order = np.argsort(-keys, kind="stable").tolist()
    shares = (weights / weights.sum()).tolist()
    return [pb.CandidateScore(index=i, score=scores[i], probability=shares[i]) for i in order]
