"""What `import segue_client` offers, in one place; the package imports it when the first name is used."""

import logging

from segue_client._async.client import AsyncClient
from segue_client._async.generation import AsyncGeneration, AsyncSamples
from segue_client._async.score_stream import AsyncScoreStream
from segue_client._async.sessions import AsyncSession
from segue_client._sync.client import Client
from segue_client._sync.generation import Generation, Samples
from segue_client._sync.score_stream import ScoreStream
from segue_client._sync.sessions import Session
from segue_client.errors import (
    Cancelled,
    DeadlineExceeded,
    ForeignSession,
    InvalidRequest,
    ModelNotFound,
    NotExact,
    NotRewindable,
    SegueError,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    SessionExists,
    SessionMoved,
    SessionNotFound,
)
from segue_client.language_model import LanguageModel
from segue_client.messages.candidates import Candidate, Ranking
from segue_client.messages.events import Alternative, Chunk, Continuation, Finished, FinishReason, Started
from segue_client.messages.generation_request import SessionReference, UnknownPolicy
from segue_client.messages.model import Model
from segue_client.messages.policies import BeginPolicy, EndPolicy, ScoringPolicies
from segue_client.messages.score import Score
from segue_client.messages.score_request import CandidateRanking
from segue_client.messages.windows import WindowScore, WindowSize
from segue_client.protocol.score_stream import ScoreProgress

logging.getLogger("segue_client").addHandler(logging.NullHandler())  # silent unless the program asks

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
    "SegueError",
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
