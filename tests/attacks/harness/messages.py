"""The methods of the server and the requests that attacks send."""

from typing import Final

from segue.v1 import generation_pb2, model_pb2, scoring_pb2, session_pb2

GENERATE: Final = "/segue.v1.GenerationService/Generate"
SCORE: Final = "/segue.v1.ScoringService/Score"
SCORE_STREAM: Final = "/segue.v1.ScoringService/ScoreStream"
SCORE_CANDIDATES: Final = "/segue.v1.ScoringService/ScoreCandidates"
LIST_SESSIONS: Final = "/segue.v1.SessionService/ListSessions"
GET_MODEL: Final = "/segue.v1.ModelService/GetModel"
LARGEST: Final = 9 * 2**19
"""Bytes of a message that the server takes."""
TOO_LARGE: Final = 8_000_000
METHODS: Final = tuple(
    f"/{service.full_name}/{method.name}"
    for file in (generation_pb2, scoring_pb2, session_pb2, model_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""Every method of segue.v1."""


def generate(characters: int = 50, prompt: str = "The ", **fields: object) -> bytes:
    """Ask for a text."""
    request = generation_pb2.GenerateRequest(prompt=prompt, max_characters=characters, **fields)  # type: ignore[arg-type]
    return request.SerializeToString()


def score_with_tickets(texts: int = 256) -> bytes:
    """Ask for a score and a ticket of each of many one-character texts: a small request, a large reply."""
    return scoring_pb2.ScoreRequest(texts=["a"] * texts, return_tickets=True).SerializeToString()


def candidates_with_tickets(candidates: int = 256) -> bytes:
    """The same of candidates."""
    request = scoring_pb2.ScoreCandidatesRequest(context="a", candidates=["a"] * candidates, return_tickets=True)
    return request.SerializeToString()


def list_sessions() -> bytes:
    """Ask for the largest page."""
    return session_pb2.ListSessionsRequest(page_size=1000).SerializeToString()


def get_model() -> bytes:
    """Ask for the only model."""
    return model_pb2.GetModelRequest().SerializeToString()


def score_stream_start() -> bytes:
    """Begin a stream of text."""
    return scoring_pb2.ScoreStreamRequest(start=scoring_pb2.ScoreStreamStart()).SerializeToString()


def score_stream_text(text: str) -> bytes:
    """Continue it."""
    return scoring_pb2.ScoreStreamRequest(text=text).SerializeToString()
