"""The methods of one connection to a server."""

import grpc
from segue.v1 import generation_pb2_grpc, model_pb2_grpc, scoring_pb2_grpc, session_pb2_grpc


class Stubs:
    """Those of a synchronous channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self.scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)


class AsyncStubs:
    """Those of an asynchronous channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self.scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
