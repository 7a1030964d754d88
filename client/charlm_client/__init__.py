"""The client of charlm: generate and score text over gRPC.

from charlm_client import Client

with Client("127.0.0.1:50051") as client:
    print(client.generate("Once ").text())
    print(client.score("Once upon a time").perplexity)
"""

from charlm_client.async_client import AsyncClient, AsyncGeneration, AsyncSamples
from charlm_client.client import Client, Generation, Samples
from charlm_client.errors import (
    Cancelled,
    CharlmError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
)
from charlm_client.events import Alternative, Chunk, Finished, FinishReason, Started
from charlm_client.model import Model
from charlm_client.request import UnknownPolicy
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
    "DeadlineExceeded",
    "FinishReason",
    "Finished",
    "Generation",
    "InvalidRequest",
    "Model",
    "ModelNotFound",
    "Samples",
    "Score",
    "ServerBusy",
    "ServerFault",
    "ServerUnavailable",
    "Started",
    "UnknownPolicy",
]
