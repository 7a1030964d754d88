"""The asynchronous client. One AsyncClient belongs to one event loop."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc
from segue.v1 import model_pb2

from segue_client._async.connection import AsyncConnection
from segue_client._async.generation import AsyncGeneration, AsyncSamples
from segue_client._async.scoring import AsyncScoringCalls
from segue_client._async.sessions import AsyncSessionCalls
from segue_client.messages.generation_request import GenerationOptions, model_reference
from segue_client.messages.model import Model, model_from
from segue_client.protocol.generation import resumable_texts
from segue_client.protocol.retry import RESUME_SECONDS
from segue_client.transport.channel import DEFAULT_TARGET, MAX_MESSAGE_BYTES
from segue_client.transport.settings import ConnectionSettings


class AsyncClient(AsyncScoringCalls, AsyncSessionCalls):
    """A connection to a segue server or to several, as `segue_client.Client` for asyncio.

    async with AsyncClient("127.0.0.1:50051") as client:
        generation = await client.generate("Once ")
        print(await generation.text())
    """

    def __init__(  # noqa: PLR0913 - what there is to choose
        self,
        target: str | Sequence[str] = DEFAULT_TARGET,
        *,
        timeout: float | None = None,
        tenant: str = "",
        resume: bool = True,
        resume_seconds: float = RESUME_SECONDS,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        settings = ConnectionSettings(
            target=target,
            timeout=timeout,
            tenant=tenant,
            resume=resume,
            resume_seconds=resume_seconds,
            max_message_bytes=max_message_bytes,
            credentials=credentials,
        )
        self._connection = AsyncConnection(settings)

    async def generate(
        self,
        prompt: str = "",
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        resume: bool | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncGeneration:
        """Continue `prompt`, as `Client.generate` does; return once the request is accepted."""
        texts = resumable_texts(prompt, resume=self._connection.settings.resumes(resume), **options)
        return await AsyncGeneration.open(texts, self._connection, timeout, resume=resume)

    async def generate_samples(
        self,
        prompt: str,
        samples: int,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        resume: bool | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncSamples:
        """Continue `prompt` several times at once, as `Client.generate_samples` does."""
        texts = resumable_texts(prompt, samples, resume=self._connection.settings.resumes(resume), **options)
        return await AsyncSamples.open(texts, self._connection, timeout, resume=resume)

    async def models(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> list[Model]:
        """Describe every loaded model, by name, then version."""
        request = model_pb2.ListModelsRequest()
        response = await self._connection.unary(
            lambda stubs: stubs.models.ListModels, request, self._connection.resumption(timeout)
        )
        return [model_from(model) for model in response.models]

    async def model(
        self,
        name: str = "",
        version: int = 0,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> Model:
        """Describe one loaded model."""
        request = model_pb2.GetModelRequest(model=model_reference(name, version))
        response = await self._connection.unary(
            lambda stubs: stubs.models.GetModel, request, self._connection.resumption(timeout)
        )
        return model_from(response.model)

    async def close(self) -> None:
        """Close the connection; calls still running are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
