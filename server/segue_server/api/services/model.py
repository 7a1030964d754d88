"""segue.v1.ModelService."""

from typing import Final

import grpc.aio
from segue.v1 import model_pb2 as pb
from segue.v1 import model_pb2_grpc

from segue_server.prefix_cache.cache import PrefixCache
from segue_server.runtime.registry import Registry, Served
from segue_server.runtime.time_slices import Steps, in_slices
from segue_server.state.tickets import ticket_bytes

_CHARACTERS_OF_A_STEP: Final = 2_048


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Describes the loaded models."""

    def __init__(self, registry: Registry, prefixes: PrefixCache) -> None:
        self._registry = registry
        self._prefixes = prefixes

    async def ListModels(  # noqa: N802 - the contract's name
        self,
        request: pb.ListModelsRequest,
        context: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],
    ) -> pb.ListModelsResponse:
        """Answer one call; see the contract."""
        del request, context
        response = pb.ListModelsResponse()
        for served in self._registry:
            await in_slices(self._describe(response.models.add(), served))
        return response

    async def GetModel(  # noqa: N802 - the contract's name
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.GetModelResponse]
    ) -> pb.GetModelResponse:
        """Answer one call; see the contract."""
        del context
        served = self._registry.find(request.model.name, request.model.version)
        response = pb.GetModelResponse(model=pb.Model())
        await in_slices(self._describe(response.model, served))
        return response

    def _describe(self, message: pb.Model, served: Served) -> Steps[None]:
        model, manifest, cache = served.model, served.model.manifest, self._prefixes.counts(served.model)
        vocabulary = manifest.characters if manifest.alphabet == "characters" else ()
        for begin in range(0, len(vocabulary), _CHARACTERS_OF_A_STEP):
            if begin:
                yield
            message.vocabulary.extend(vocabulary[begin : begin + _CHARACTERS_OF_A_STEP])
        described = pb.Model(
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            architecture=manifest.architecture,
            layers=manifest.layers,
            hidden=manifest.hidden,
            begin=manifest.begin,
            normalization=manifest.normalization,
            corpus=manifest.corpus.name,
            validation_loss=manifest.validation_loss,
            provider=model.provider,
            reproducible=served.reproducible,
            live_sequences=served.engine_thread.live,
            alphabet=manifest.alphabet,
            documents=manifest.documents,
            host_class=served.build.host_class.hex(),
            ticket_bytes=ticket_bytes(model),
            prefix_cache=pb.PrefixCache(
                hits=cache.hits,
                misses=cache.misses,
                symbols_saved=cache.symbols_saved,
                states=cache.states,
                bytes=cache.bytes,
            ),
        )
        message.MergeFrom(described)
