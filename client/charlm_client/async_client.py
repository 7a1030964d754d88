"""The asynchronous client. One AsyncClient belongs to one event loop."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from charlm.v1 import model_pb2

from charlm_client.async_connection import AsyncConnection, AsyncMessageStream, AsyncServerStream
from charlm_client.async_generation import AsyncGeneration, AsyncSamples
from charlm_client.async_scoring import AsyncScoringCalls
from charlm_client.async_sessions import AsyncSessionCalls
from charlm_client.channel import DEFAULT_TARGET, MAX_MESSAGE_BYTES
from charlm_client.connection_settings import ConnectionSettings
from charlm_client.errors import CharlmError
from charlm_client.model import Model, model_from
from charlm_client.request import GenerationOptions, model_reference
from charlm_client.resumable import resumable_texts
from charlm_client.resumption import RESUME_SECONDS, Resumption
from charlm_client.stubs import AsyncStubs

_Response = TypeVar("_Response")


class AsyncClient(AsyncScoringCalls, AsyncSessionCalls):
    """A connection to a charlm server or to several, as `charlm_client.Client` for asyncio.

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
        texts = resumable_texts(prompt, resume=self._resumes(resume), **options)
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
        texts = resumable_texts(prompt, samples, resume=self._resumes(resume), **options)
        return await AsyncSamples.open(texts, self._connection, timeout, resume=resume)

    async def models(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> list[Model]:
        """Describe every loaded model, by name, then version."""
        request = model_pb2.ListModelsRequest()
        response = await self._unary(lambda stubs: stubs.models.ListModels, request, self._resumption(timeout))
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
        response = await self._unary(lambda stubs: stubs.models.GetModel, request, self._resumption(timeout))
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

    def _resumes(self, resume: bool | None) -> bool:
        return self._connection.settings.resumes(resume)

    def _resumption(self, timeout: float | None, *, resume: bool | None = None) -> Resumption:
        return self._connection.resumption(timeout, resume=resume)

    async def _unary(
        self,
        method: Callable[[AsyncStubs], Callable[..., Awaitable[_Response]]],
        request: object,
        resumption: Resumption,
    ) -> _Response:
        return await self._connection.unary(method, request, resumption)

    def _duplex(
        self,
        method: Callable[[AsyncStubs], Callable[..., AsyncServerStream[_Response]]],
        requests: AsyncIterator[object],
        resumption: Resumption,
    ) -> AsyncMessageStream[_Response]:
        return self._connection.stream(method, requests, resumption)

    async def _wait_after(self, error: CharlmError, resumption: Resumption) -> None:
        await self._connection.wait_after(error, resumption)
