"""charlm.v1.ScoringService."""

import math
from typing import Final

import grpc.aio
import numpy as np
from charlm.v1 import scoring_pb2 as pb
from charlm.v1 import scoring_pb2_grpc

from charlm_server.admission import Admission
from charlm_server.errors import EngineFailed, Stopping
from charlm_server.registry import Registry, Served
from charlm_server.sampling import Floats
from charlm_server.scoring_requests import TextToScore, read_texts
from charlm_server.sequence import Finish, State
from charlm_server.services.tasks import tasks_of_call
from charlm_server.tickets import write_ticket

WINDOW: Final = 64
"""How many texts of one call are in the engine at once. They share the matrix products."""

_LARGEST_EXPONENT: Final = 709.0
"""exp of more does not fit into a float64."""

_NOTHING: Final = np.empty(0)


class ScoringService(scoring_pb2_grpc.ScoringServiceServicer):
    """Scores each text as a sequence that only reads."""

    def __init__(self, registry: Registry, admission: Admission) -> None:
        self._registry = registry
        self._admission = admission

    async def Score(  # noqa: N802 - the contract's name
        self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext[pb.ScoreRequest, pb.ScoreResponse]
    ) -> pb.ScoreResponse:
        """Answer one call; see the contract."""
        del context
        served = self._registry.find(request.model.name, request.model.version)
        with self._admission.places(min(WINDOW, max(1, len(request.texts)))) as places:
            texts = read_texts(request, served.model)
            scores: list[pb.TextScore] = [pb.TextScore()] * len(texts)
            waiting = iter(enumerate(texts))

            async def score_from_queue() -> None:
                for i, text in waiting:
                    log_probabilities, state = await _score(text, served)
                    scores[i] = _text_score(text, log_probabilities, state, request, served)

            async with tasks_of_call() as group:
                for _ in range(places):
                    group.create_task(score_from_queue())
        return pb.ScoreResponse(scores=scores)


async def _score(text: TextToScore, served: Served) -> tuple[Floats, State | None]:
    """Return the log-probability of each character and the state after them."""
    if not len(text.forced):
        return _NOTHING, text.state
    sequence, parts = text.sequence(), list[Floats]()
    stream = served.worker.open(sequence)
    try:
        while True:
            advance = await stream.advance()
            parts.append(advance.log_probabilities)
            match advance.finish:
                case Finish.LENGTH:
                    return np.concatenate(parts), advance.state
                case Finish.DRAINED:
                    raise Stopping("the server is stopping; score the text on another one")
                case Finish.FAULT:
                    raise EngineFailed("the model gave no finite probabilities for a text")
    finally:
        served.worker.close(sequence)


def _text_score(
    text: TextToScore, log_probabilities: Floats, state: State | None, request: pb.ScoreRequest, served: Served
) -> pb.TextScore:
    total, count = float(log_probabilities.sum()), len(log_probabilities)
    score = pb.TextScore(sum_log_probability=total, scored_count=count, unknown_count=text.unknown_count)
    if count:
        mean = -total / count
        score.perplexity = math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf
        score.bits_per_character = mean / math.log(2)
    if request.log_probabilities:
        score.log_probabilities.extend(log_probabilities.tolist())
    if request.return_tickets and state is not None:
        score.ticket = write_ticket(state, served.model)
    return score
