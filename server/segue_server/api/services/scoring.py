"""segue.v1.ScoringService."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from segue.v1 import scoring_pb2 as pb
from segue.v1 import scoring_pb2_grpc

from segue_server.api.calls.call import Call
from segue_server.api.parted_message import PartedMessage, Parts
from segue_server.api.reply_size import reply_bytes
from segue_server.api.score_accumulator import ScoreAccumulator, Wanted
from segue_server.api.score_messages import score_parts
from segue_server.api.scoring_policies import read_policies
from segue_server.api.scoring_request import (
    FEW_TEXTS,
    TextStart,
    TextToScore,
    read_candidates,
    read_context,
    read_texts,
    read_wanted,
)
from segue_server.api.services.score_stream import ScoreStreamCall, next_request
from segue_server.api.services.score_texts import ScoredText, score_all, score_from, score_one, scored
from segue_server.api.start_message import continuation, read_start
from segue_server.engine.model import Model
from segue_server.engine.sequence import State
from segue_server.errors import InvalidRequest
from segue_server.runtime.admission import Admission
from segue_server.runtime.registry import Registry, Served
from segue_server.runtime.time_slices import Steps, in_slices
from segue_server.state.start import StartResolver, StartState

WINDOW: Final = 256
"""How many texts of one call are in the engine at once, sharing its batches."""

_SUMS_ONLY: Final = Wanted(log_probabilities=False, ranks=False, alternatives=0, windows=None, text=False)


class ScoringService(scoring_pb2_grpc.ScoringServiceServicer):
    """Scores each text as a sequence that only prefills."""

    def __init__(self, registry: Registry, admission: Admission, start_resolver: StartResolver) -> None:
        self._registry = registry
        self._admission = admission
        self._start_resolver = start_resolver

    async def Score(  # type: ignore[override] # noqa: N802
        self, request: pb.ScoreRequest, call: Call
    ) -> Parts:
        """Answer one call; see the contract."""
        served, tenant = call.use(self._registry.find(request.model.name, request.model.version)), call.tenant
        with self._admission.some(min(WINDOW, max(1, len(request.texts))), call.owner) as places:
            start = await self._start_resolver.resolve(read_start(request.start), served, tenant)
            policies = read_policies(request.policies, served.model)
            wanted = read_wanted(request, served.model, text=request.return_texts)
            texts = await in_slices(read_texts(request, served.model, TextStart.of(start), policies, wanted))
            call.check_text(served, sum(len(text.prefill_ids) for text in texts))
            call.hold(reply_bytes(texts, wanted, served.model, tickets=request.return_tickets))
            if start.is_session:
                results = [await _score_in_session(texts, wanted, served, start, keep_state=request.return_tickets)]
            else:
                results = await score_all(texts, wanted, served, places, keep_states=request.return_tickets)
        tickets = self._start_resolver.tickets(start, start.sampling, served, tenant)
        reply = _Reply(served.model, tickets)
        response = pb.ScoreResponse(
            model=served.model.name,
            version=served.model.version,
            policies=policies.message(),
            continuation=continuation(start, served.build, reproducible=served.reproducible),
            repeated=start.is_repeated,
        )
        return await in_slices(reply.scored(response, results))

    # The stubs declare a generator; grpc.aio also takes a coroutine that writes to its context.
    async def ScoreStream(  # type: ignore[override] # noqa: N802
        self, request_iterator: AsyncIterator[pb.ScoreStreamRequest], call: Call
    ) -> None:
        """Answer one call; see the contract."""
        requests = aiter(request_iterator)
        with self._admission.exactly(1, call.owner):
            first = await self._first_request(requests, call)
            served, tenant = call.use(self._registry.find(first.model.name, first.model.version)), call.tenant
            start = await self._start_resolver.resolve(read_start(first.start), served, tenant)
            ticket = self._start_resolver.tickets(start, start.sampling, served, tenant)
            await ScoreStreamCall(first, start, served, call, ticket).answer(requests)

    async def _first_request(self, requests: AsyncIterator[pb.ScoreStreamRequest], call: Call) -> pb.ScoreStreamStart:
        """Return the first message of a stream; raises InvalidRequest and Stopping."""
        first = await next_request(requests, call, *(served.engine_thread.draining for served in self._registry))
        if first is None or first.WhichOneof("event") != "start":
            raise InvalidRequest("the first message of the stream is not `start`; send that, then the text")
        return first.start

    async def ScoreCandidates(  # type: ignore[override] # noqa: N802
        self, request: pb.ScoreCandidatesRequest, call: Call
    ) -> Parts:
        """Answer one call; see the contract."""
        served, tenant = call.use(self._registry.find(request.model.name, request.model.version)), call.tenant
        model = served.model
        with self._admission.some(min(WINDOW, max(1, len(request.candidates))), call.owner) as places:
            start = await self._start_resolver.resolve(read_start(request.start), served, tenant)
            policies = read_policies(request.policies, model, begins=True)
            context_start = TextStart.of(start)
            context_text = await in_slices(read_context(request, model, context_start, policies))
            candidates_length = sum(map(len, request.candidates))
            call.check_text(served, len(context_text.prefill_ids) + candidates_length)
            context_scores, state = await score_one(context_text, _SUMS_ONLY, served)
            candidate_start = replace(context_start, state=state)
            wanted = replace(_SUMS_ONLY, log_probabilities=request.log_probabilities)
            texts = await in_slices(read_candidates(request, model, candidate_start, policies))
            call.hold(reply_bytes(texts, wanted, model, tickets=request.return_tickets))
            results = await score_all(texts, wanted, served, places, keep_states=request.return_tickets)

        tickets = self._start_resolver.tickets(start, start.sampling, served, tenant)
        reply = _Reply(model, tickets)
        response = pb.ScoreCandidatesResponse(
            model=model.name,
            version=model.version,
            policies=policies.message(),
            continuation=continuation(start, served.build, reproducible=served.reproducible),
        )
        read = scored(context_text, _SUMS_ONLY, context_scores, state, keep_state=request.return_tickets)
        return await in_slices(reply.ranked(response, await in_slices(read), results, request.ranking))


@dataclass(frozen=True)
class _Reply:
    """Turns scores into messages."""

    model: Model
    ticket: Callable[[State], bytes]

    def scored(self, response: pb.ScoreResponse, results: list[ScoredText]) -> Steps[Parts]:
        """Add the scores of the texts, in order; they are emptied out of the list."""
        parted, unread = PartedMessage(response), dict(enumerate(results))
        results.clear()
        for index in range(len(unread)):
            if index >= FEW_TEXTS:
                yield
            parted.put("scores", (yield from self._score(unread.pop(index))))
        return parted.take()

    def ranked(
        self,
        response: pb.ScoreCandidatesResponse,
        context: ScoredText,
        results: list[ScoredText],
        ranking: pb.CandidateRanking.ValueType,
    ) -> Steps[Parts]:
        """Add the context's score, and the candidates, best first; they are emptied out of the list."""
        parted = PartedMessage(response)
        parted.put("context", (yield from self._score(context)))
        order, shares = _ranked([result.accumulator for result in results], ranking)
        unread = dict(enumerate(results))
        results.clear()
        for number, index in enumerate(order):
            if number >= FEW_TEXTS:
                yield
            candidate = PartedMessage(pb.CandidateScore(index=index, probability=shares[index]))
            candidate.put("score", (yield from self._score(unread.pop(index))))
            parted.put("candidates", candidate.take())
        return parted.take()

    def _score(self, result: ScoredText) -> Steps[Parts]:
        """Return the score of one text, with a ticket if its state is kept."""
        ticket = b"" if result.state is None else self.ticket(result.state)
        return (yield from score_parts(result.accumulator, self.model, result.position, ticket))


async def _score_in_session(
    texts: list[TextToScore], wanted: Wanted, served: Served, start: StartState, *, keep_state: bool
) -> ScoredText:
    """Score the only text of a call and advance its session to the end of it."""
    if len(texts) != 1:
        raise InvalidRequest(f"{len(texts)} texts and a session; a session takes one text at a time")
    [text] = texts
    scores, state = await score_from(start, text, wanted, served)
    await start.advance(state, text.session_ids, start.sampling)
    return await in_slices(scored(text, wanted, scores, state, keep_state=keep_state))


def _ranked(
    accumulators: list[ScoreAccumulator], ranking: pb.CandidateRanking.ValueType
) -> tuple[list[int], list[float]]:
    """Return the indices of the candidates, best first (ties in order), and the share of the probability of each."""
    sums = np.array([each.sum_log_probability for each in accumulators])
    weights = np.exp(sums - sums.max())
    keys = sums
    if ranking == pb.CANDIDATE_RANKING_MEAN:
        keys = sums / np.maximum([each.scored_count for each in accumulators], 1)
    return np.argsort(-keys, kind="stable").tolist(), (weights / weights.sum()).tolist()
