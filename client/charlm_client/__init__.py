"""The client of charlm: generate and score text over gRPC.

from charlm_client import Client

with Client("127.0.0.1:50051") as client:
    print(client.generate("Once ").text())
    print(client.score("Once upon a time").perplexity)
"""

from charlm_client.async_client import AsyncClient
from charlm_client.async_generation import AsyncGeneration, AsyncSamples
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
from charlm_client.model import Model
from charlm_client.request import SessionReference, UnknownPolicy
from charlm_client.scoring import Score

__all__ = [
    "Alternative",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncSamples",
    "Cancelled",
    "CharlmError",
    "Chunk",
    "Client",
    "Continuation",
    "DeadlineExceeded",
    "FinishReason",
    "Finished",
    "ForeignSession",
    "Generation",
    "InvalidRequest",
    "Model",
    "ModelNotFound",
    "NotExact",
    "NotRewindable",
    "Samples",
    "Score",
    "ServerBusy",
    "ServerFault",
    "ServerUnavailable",
    "SessionExists",
    "SessionMoved",
    "SessionNotFound",
    "SessionReference",
    "Started",
    "UnknownPolicy",
]
