"""The client of charlm: generate and score text over gRPC.

from charlm_client import Client

with Client("127.0.0.1:50051") as client:
    print(client.generate("Once ").text())
    print(client.score("Once upon a time").perplexity)
"""

from charlm_client.async_client import AsyncClient
from charlm_client.async_generation import AsyncGeneration, AsyncSamples
from charlm_client.async_score_stream import AsyncScoreStream
from charlm_client.async_sessions import AsyncSession
from charlm_client.candidates import Candidate, Ranking
from charlm_client.client import Client
from charlm_client.errors import (
    Cancelled,
    CharlmError,
    DeadlineExceeded,
    ForeignSession,
    InvalidRequest,
    ModelNotFound,
    NotExact,
    NotRewindable,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    SessionExists,
    SessionMoved,
    SessionNotFound,
)
from charlm_client.events import Alternative, Chunk, Continuation, Finished, FinishReason, Started
from charlm_client.generation import Generation, Samples
from charlm_client.language_model import LanguageModel
from charlm_client.model import Model
from charlm_client.policies import BeginPolicy, EndPolicy, ScoringPolicies
from charlm_client.request import SessionReference, UnknownPolicy
from charlm_client.score_settings import CandidateRanking
from charlm_client.scoring import Score
from charlm_client.stream_scoring import ScoreProgress
from charlm_client.sync_score_stream import ScoreStream
from charlm_client.sync_sessions import Session
from charlm_client.windows import WindowScore, WindowSize

__all__ = [
    "Alternative",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncSamples",
    "AsyncScoreStream",
    "AsyncSession",
    "BeginPolicy",
    "Cancelled",
    "Candidate",
    "CandidateRanking",
    "CharlmError",
    "Chunk",
    "Client",
    "Continuation",
    "DeadlineExceeded",
    "EndPolicy",
    "FinishReason",
    "Finished",
    "ForeignSession",
    "Generation",
    "InvalidRequest",
    "LanguageModel",
    "Model",
    "ModelNotFound",
    "NotExact",
    "NotRewindable",
    "Ranking",
    "Samples",
    "Score",
    "ScoreProgress",
    "ScoreStream",
    "ScoringPolicies",
    "ServerBusy",
    "ServerFault",
    "ServerUnavailable",
    "Session",
    "SessionExists",
    "SessionMoved",
    "SessionNotFound",
    "SessionReference",
    "Started",
    "UnknownPolicy",
    "WindowScore",
    "WindowSize",
]
