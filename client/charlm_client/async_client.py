"""The asynchronous client. One AsyncClient belongs to one event loop."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self, TypeAlias, Unpack, cast

import grpc
from charlm.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2_grpc

from charlm_client.channel import DEFAULT_TARGET, MAX_MESSAGE_BYTES, channel_options
from charlm_client.deadline import Deadline
from charlm_client.errors import Cancelled, translate
from charlm_client.events import Chunk, Finished, Started, Transcript, joined
from charlm_client.model import Model, model_from
from charlm_client.request import GenerationOptions, UnknownPolicy, generate_request, model_reference
from charlm_client.scoring import Calls, Score, ScoreSettings, score_calls

_Call: TypeAlias = "grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse]"


@contextmanager
def _translated(target: str) -> Iterator[None]:
    """Translate the errors of a call.

    grpc.aio raises asyncio.CancelledError for a call that was cancelled on this side, even where nobody
    cancelled the task that waits for it; such a task is told so, and lives on.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error, target) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise Cancelled("the call was cancelled") from error


class _Answer:
    """What the server sends to one request for texts."""

    def __init__(self, call: _Call, target: str, transcript: Transcript) -> None:
        self._call = call
        self._target = target
        self._transcript = transcript

    @classmethod
    async def open(cls, call: _Call, target: str, samples: int = 1) -> Self:
        """Wait until the server has accepted the request."""
        return cls(call, target, Transcript(await _read(call, target), samples))

    @property
    def started(self) -> Started:
        """What the server resolved the request to."""
        return self._transcript.started

    def cancel(self) -> None:
        """Stop generating. Reading on raises Cancelled; after the end nothing happens."""
        self._call.cancel()

    def __aiter__(self) -> Self:
        return self

    async def _next(self) -> tuple[int, Chunk]:
        while (message := await _read(self._call, self._target)) is not None:
            if chunk := self._transcript.take(message):
                return chunk
        self._transcript.close()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # A dropped grpc.aio call waits for the garbage collector, and its server with it.
        with suppress(RuntimeError):  # the event loop is closed, and the call with it
            self.cancel()


class AsyncGeneration(_Answer):
    """A text being generated: an asynchronous iterator of its chunks.

        async with await client.generate("Once ") as generation:
            async for chunk in generation:
                print(chunk.text, end="", flush=True)

    The server stops as soon as the `async with` block is left, `cancel` is called, the reading task is
    cancelled, or the object is dropped. Reading raises the errors of `charlm_client.errors`; every chunk
    before an error was delivered.
    """

    @property
    def finished(self) -> Finished | None:
        """How the text ended; None until it was read to its end."""
        return self._transcript.finished[0]

    async def text(self) -> str:
        """Read to the end; return the text from here on."""
        return "".join([chunk.text async for chunk in self])

    async def __anext__(self) -> Chunk:
        _, chunk = await self._next()
        return chunk


class AsyncSamples(_Answer):
    """Several texts being generated at once: an asynchronous iterator of (sample, chunk), as `charlm_client.Samples`.

    async with await client.generate_samples("Once ", 3) as samples:
        async for sample, chunk in samples:
            print(sample, chunk.text)
    """

    @property
    def finished(self) -> tuple[Finished | None, ...]:
        """How the text of each sample ended; None for those that were not yet read to their ends."""
        return tuple(self._transcript.finished)

    async def texts(self) -> list[str]:
        """Read to the end; return the text of each sample from here on."""
        return joined(len(self.finished), [chunk async for chunk in self])

    async def __anext__(self) -> tuple[int, Chunk]:
        return await self._next()


async def _read(call: _Call, target: str) -> generation_pb2.GenerateResponse | None:
    """Wait for the next message; None at the end of the stream."""
    with _translated(target):
        message = await call.read()
    return None if message is grpc.aio.EOF else cast("generation_pb2.GenerateResponse", message)


class AsyncClient:
    """A connection to a charlm server, as `charlm_client.Client` for asyncio.

    async with AsyncClient("127.0.0.1:50051") as client:
        generation = await client.generate("Once ")
        print(await generation.text())
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._target = target
        self._timeout = timeout
        options = channel_options(target, max_message_bytes)
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._scoring = scoring_pb2_grpc.ScoringServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)

    async def generate(  # noqa: PLR0913 - the fields of the request
        self,
        prompt: str = "",
        *,
        model: str = "",
        version: int = 0,
        ticket: bytes | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        biases: Mapping[str, float] | None = None,
        allowed_characters: str = "",
        forbidden_characters: str = "",
        seed: int | None = None,
        max_characters: int = 256,
        stop: str | Sequence[str] = (),
        log_probabilities: bool = False,
        top_alternatives: int = 0,
        unknown: UnknownPolicy = "replace",
        return_ticket: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> AsyncGeneration:
        """Continue `prompt`, as `Client.generate` does; return once the request is accepted."""
        request = generate_request(
            prompt,
            model=model,
            version=version,
            ticket=ticket,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            biases=biases,
            allowed_characters=allowed_characters,
            forbidden_characters=forbidden_characters,
            seed=seed,
            max_characters=max_characters,
            stop=stop,
            log_probabilities=log_probabilities,
            top_alternatives=top_alternatives,
            unknown=unknown,
            return_ticket=return_ticket,
        )
        call = self._generation.Generate(request, timeout=self._limit(timeout))
        return await AsyncGeneration.open(call, self._target)

    async def generate_samples(
        self,
        prompt: str,
        samples: int,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        **options: Unpack[GenerationOptions],
    ) -> AsyncSamples:
        """Continue `prompt` several times at once, as `Client.generate_samples` does."""
        request = generate_request(prompt, samples=samples, **options)
        call = self._generation.Generate(request, timeout=self._limit(timeout))
        return await AsyncSamples.open(call, self._target, samples)

    async def score(  # noqa: PLR0913 - the fields of the request
        self,
        text: str,
        *,
        model: str = "",
        version: int = 0,
        ticket: bytes | None = None,
        log_probabilities: bool = False,
        unknown: UnknownPolicy = "replace",
        return_ticket: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> Score:
        """Score a text of any length, as `Client.score` does."""
        [score] = await self.score_many(
            [text],
            model=model,
            version=version,
            ticket=ticket,
            log_probabilities=log_probabilities,
            unknown=unknown,
            return_tickets=return_ticket,
            timeout=timeout,
        )
        return score

    async def score_many(  # noqa: PLR0913 - the fields of the request
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        ticket: bytes | None = None,
        log_probabilities: bool = False,
        unknown: UnknownPolicy = "replace",
        return_tickets: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> list[Score]:
        """Score any number of texts of any length, each by itself from the same start; one score for each."""
        settings = ScoreSettings(
            model=model,
            version=version,
            ticket=ticket,
            log_probabilities=log_probabilities,
            unknown=unknown,
            return_tickets=return_tickets,
        )
        return await self._answer(score_calls(texts, settings), Deadline.after(self._limit(timeout)))

    async def models(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> list[Model]:
        """Describe every loaded model, by name, then version."""
        with _translated(self._target):
            response = await self._models.ListModels(model_pb2.ListModelsRequest(), timeout=self._limit(timeout))
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
        with _translated(self._target):
            response = await self._models.GetModel(request, timeout=self._limit(timeout))
        return model_from(response.model)

    async def close(self) -> None:
        """Close the connection; calls still running are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout

    async def _answer(self, calls: Calls, deadline: Deadline) -> list[Score]:
        """Send each request that `calls` yields, give it the response, and return what it returns."""
        try:
            request = next(calls)
            while True:
                with _translated(self._target):
                    response = await self._scoring.Score(request, timeout=deadline.left)
                request = calls.send(response)
        except StopIteration as done:
            scores: list[Score] = done.value
            return scores
