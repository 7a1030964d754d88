"""charlm.v1.ModelService."""

import grpc.aio
from charlm.v1 import model_pb2 as pb
from charlm.v1 import model_pb2_grpc

from charlm_server.registry import Registry, Served


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Describes the loaded models."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def ListModels(  # noqa: N802 - the contract's name
        self,
        request: pb.ListModelsRequest,
        context: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],
    ) -> pb.ListModelsResponse:
        """Answer one call; see the contract."""
        del request, context
        return pb.ListModelsResponse(models=[_describe(served) for served in self._registry])

    async def GetModel(  # noqa: N802 - the contract's name
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.GetModelResponse]
    ) -> pb.GetModelResponse:
        """Answer one call; see the contract."""
        del context
        served = self._registry.find(request.model.name, request.model.version)
        return pb.GetModelResponse(model=_describe(served))


def _describe(served: Served) -> pb.Model:
    model, manifest = served.model, served.model.manifest
    return pb.Model(
        name=model.name,
        version=model.version,
        sha256=model.sha256,
        architecture=manifest.architecture,
        layers=manifest.layers,
        hidden=manifest.hidden,
        vocabulary=manifest.characters if manifest.alphabet == "characters" else (),
        begin=manifest.begin,
        normalization=manifest.normalization,
        corpus=manifest.corpus.name,
        validation_loss=manifest.validation_loss,
        provider=model.provider,
        reproducible=served.reproducible,
        live_sequences=served.worker.live,
        alphabet=manifest.alphabet,
        documents=manifest.documents,
    )
