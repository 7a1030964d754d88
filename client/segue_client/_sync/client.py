"""The synchronous client. One Client may be used from any number of threads."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc
from segue.v1 import model_pb2

from segue_client._sync.connection import Connection
from segue_client._sync.generation import Generation, Samples
from segue_client._sync.scoring import ScoringCalls
from segue_client._sync.sessions import SessionCalls
from segue_client.messages.generation_request import GenerationOptions, model_reference
from segue_client.messages.model import Model, model_from
from segue_client.protocol.generation import resumable_texts
from segue_client.protocol.retry import RESUME_SECONDS
from segue_client.transport.channel import DEFAULT_TARGET, MAX_MESSAGE_BYTES
from segue_client.transport.settings import ConnectionSettings


class Client(ScoringCalls, SessionCalls):
    """A connection to a segue server, or to several that are as good as each other.

        with Client("127.0.0.1:50051") as client:
            print(client.generate("Once ").text())

    target              HOST:PORT or any other gRPC name, or several of them: calls go to one, and where that fails to
                        the next
    timeout             the limit of each method call in seconds, None for none; each method may replace it
    tenant              whose tickets and sessions these are: up to 64 of A-Z a-z 0-9 . _ -
    resume              whether a text or a long score goes on after its server was lost, as if nothing had been; each
                        method may replace it
    resume_seconds      how long it then tries before it fails
    max_message_bytes   bounds one message in either direction
    credentials         switch TLS on

    It connects with the first call, and anew after a lost connection. Every method raises the errors of
    `segue_client.errors`.
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
        self._connection = Connection(settings)

    def generate(
        self,
        prompt: str = "",
        *,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """Continue `prompt` from a ticket, a session or the zero state; return once the request is accepted.

        model, version      "" is the server's only model, 0 its newest version
        ticket              the state to start from; None: nothing was read yet, unless there is a session
        session             the session to go on from, which the text advances when it ends
        exact               whether only an exact continuation will do; see NotExact
        temperature         0 (always the likeliest character) to 100
        top_k               keep the k likeliest characters; 0 keeps all
        top_p               keep the likeliest up to this probability, above 0, to 1
        min_p               keep those at least this many times as probable as the likeliest, 0 to below 1
                            None for each of these four: what it was where the ticket or the session comes from; in a
                            new text temperature 1, and all characters
        biases              what is added to the logits of up to 256 characters, each -100 to 100
        allowed_characters, forbidden_characters
                            up to 10,000 that alone may be written ("": all), and that may not be
        seed                0 to 2^64 - 1; None: that of the start, or a new one, told in `started`
        max_characters      1 to 1,000,000
        stop                up to 16 strings of 1 to 128 characters that end the text
        written_before      text before the start that a stop string may begin in
        log_probabilities   whether chunks carry that of each character
        top_alternatives    for each character, how many of the likeliest ones chunks carry, 0 to 20
        unknown             "replace" prompt characters outside the vocabulary, or "refuse" the call
        return_ticket       whether `finished` carries one, to continue from
        ticket_interval     characters after which a chunk carries a ticket; 0: never. None: the client asks for some
                            of its own accord, to resume from, and keeps them to itself
        timeout             seconds for the whole text
        resume              whether the text goes on after its server was lost; None: as the client was told
        """
        texts = resumable_texts(prompt, resume=self._connection.settings.resumes(resume), **options)
        return Generation(texts, self._connection, timeout, resume=resume)

    def generate_samples(
        self,
        prompt: str,
        samples: int,
        *,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Samples:
        """Continue `prompt` 1 to 64 times at once, with the options of `generate`; the server reads it once.

        With a ticket instead of a prompt, these are as many endings of one text.
        """
        texts = resumable_texts(prompt, samples, resume=self._connection.settings.resumes(resume), **options)
        return Samples(texts, self._connection, timeout, resume=resume)

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Describe every loaded model, by name, then version."""
        request = model_pb2.ListModelsRequest()
        response = self._connection.unary(
            lambda stubs: stubs.models.ListModels, request, self._connection.resumption(timeout)
        )
        return [model_from(model) for model in response.models]

    def model(self, name: str = "", version: int = 0, *, timeout: float | None = None) -> Model:
        """Describe one loaded model."""
        request = model_pb2.GetModelRequest(model=model_reference(name, version))
        response = self._connection.unary(
            lambda stubs: stubs.models.GetModel, request, self._connection.resumption(timeout)
        )
        return model_from(response.model)

    def close(self) -> None:
        """Close the connection; calls still running are cancelled."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
