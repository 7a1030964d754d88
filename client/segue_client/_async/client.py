"""The asynchronous client."""

from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn, Self, Unpack

import grpc
from segue.v1 import model_pb2

from segue_client._async.connection import AsyncConnection
from segue_client._async.generation import AsyncGeneration, AsyncSamples
from segue_client._async.sessions import AsyncSessionCalls
from segue_client.messages.generation_request import GenerationKeywords, GenerationOptions, model_reference
from segue_client.messages.model import Model, model_from
from segue_client.messages.option_names import check_names
from segue_client.protocol.generation import resumable_texts
from segue_client.protocol.retry import RESUME_SECONDS
from segue_client.transport.channel import DEFAULT_TARGET, MAX_MESSAGE_BYTES
from segue_client.transport.settings import ConnectionSettings


class AsyncClient(AsyncSessionCalls):
    """A connection to a segue server, or to several interchangeable ones. It belongs to one event loop.

        async with AsyncClient("127.0.0.1:50051") as client:
            generation = await client.generate("Once ")
            print(await generation.text())

    target              HOST:PORT or another gRPC name, or several: calls spread over those that are good, leave one
                        that is full or lost for the next, and stay together in sessions
    timeout             the limit of each method call in seconds, None for none; each method may override it
    tenant              the owner of tickets and sessions: up to 64 of A-Z a-z 0-9 . _ -
    resume              whether a text or a long score is resumed after its server was lost, with the same result; each
                        method may override it
    resume_seconds      how long to try without progress before failing
    max_message_bytes   the limit of one message in either direction
    credentials         enable TLS

    It connects with the first call, and reconnects after a lost connection. Every method raises the errors of
    `segue_client.errors`.
    """

    def __init__(  # noqa: PLR0913 - the options of a client
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
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[GenerationKeywords],
    ) -> AsyncGeneration:
        """Continue `prompt` from a ticket, a session or the zero state; return once the request is accepted.

        model, version      "" is the server's only model, 0 its newest version
        ticket              the state to start from; None: the zero state, unless a session is given
        session             the session to continue; the text advances it when it ends
        exact               whether to accept only an exact continuation; see NotExact
        temperature         0 (always the likeliest character) to 100
        top_k               keep the k likeliest characters; 0 keeps all
        top_p               keep the likeliest up to this probability, above 0, to 1
        min_p               keep those at least this many times as probable as the likeliest, 0 to below 1
                            None for each of these four: as before where the ticket or the session comes from; in a new
                            text temperature 1, and all characters
        biases              added to the logits of up to 256 characters, each -100 to 100
        allowed_characters, forbidden_characters
                            up to 10,000 each: the only ones that may be written ("": all), and those that may not
        seed                0 to 2^64 - 1; None: that of the start, or a new one, returned in `started`
        max_characters      1 to 1,000,000
        stop                up to 16 strings of 1 to 128 characters that end the text
        written_before      text before the start, in which a stop string may begin
        log_probabilities   whether chunks carry the log-probability of each character
        top_alternatives    how many of the likeliest characters in each place chunks carry, 0 to 20
        unknown             "replace" prompt characters outside the vocabulary, or "refuse" the call
        verbatim            whether the prompt is read as it is, without the model's normalization: for text that the
                            model wrote
        return_ticket       whether `finished` carries a ticket, to continue from
        ticket_interval     characters after which a chunk carries a ticket; 0: never. None: the client requests tickets
                            to resume from, and does not show them
        timeout             seconds for the whole text
        resume              whether the text is resumed after its server was lost; None: the client's setting
        """
        check_names("generate", options, GenerationKeywords)
        texts = resumable_texts(prompt, GenerationOptions(**options), resume=self._connection.settings.resumes(resume))
        return await AsyncGeneration.start(texts, self._connection, timeout, resume=resume)

    async def generate_samples(
        self,
        prompt: str,
        samples: int,
        *,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[GenerationKeywords],
    ) -> AsyncSamples:
        """Continue `prompt` 1 to 64 times at once, with the options of `generate`; the server reads it once.

        With a ticket instead of a prompt, the samples are alternative endings of one text.
        """
        check_names("generate_samples", options, GenerationKeywords)
        texts = resumable_texts(
            prompt, GenerationOptions(**options), samples, resume=self._connection.settings.resumes(resume)
        )
        return await AsyncSamples.start(texts, self._connection, timeout, resume=resume)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Describe every loaded model, by name, then version."""
        request = model_pb2.ListModelsRequest()
        response = await self._connection.ask(lambda stubs: stubs.models.ListModels, request, timeout)
        return [model_from(model) for model in response.models]

    async def model(self, name: str = "", version: int = 0, *, timeout: float | None = None) -> Model:
        """Describe one loaded model."""
        request = model_pb2.GetModelRequest(model=model_reference(name, version))
        response = await self._connection.ask(lambda stubs: stubs.models.GetModel, request, timeout)
        return model_from(response.model)

    def __repr__(self) -> str:
        return f"<AsyncClient {', '.join(self._connection.addresses)}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied to another process."""
        raise TypeError("a client cannot be copied or sent to another process: make one in each")

    async def close(self) -> None:
        """Close the connection; calls still running are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
