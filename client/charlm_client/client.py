"""The synchronous client. One Client may be used from any number of threads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, Unpack

import grpc
from charlm.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2_grpc

from charlm_client.channel import DEFAULT_TARGET, MAX_MESSAGE_BYTES, channel_options
from charlm_client.deadline import Deadline
from charlm_client.errors import translate
from charlm_client.events import Chunk, Finished, Started, Transcript, joined
from charlm_client.model import Model, model_from
from charlm_client.request import GenerationOptions, UnknownPolicy, generate_request, model_reference
from charlm_client.scoring import Calls, Score, ScoreSettings, score_calls


@contextmanager
def _translated(target: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error, target) from error


class _Call(Protocol):
    """The part of a gRPC server-streaming call that an answer needs."""

    def __next__(self) -> generation_pb2.GenerateResponse: ...

    def cancel(self) -> object: ...


class _Answer:
    """What the server sends to one request for texts."""

    def __init__(self, call: _Call, target: str, samples: int = 1) -> None:
        self._call = call
        self._target = target
        self._transcript = Transcript(self._read(), samples)

    @property
    def started(self) -> Started:
        """What the server resolved the request to."""
        return self._transcript.started

    def cancel(self) -> None:
        """Stop generating, from any thread. Reading on raises Cancelled; after the end nothing happens."""
        self._call.cancel()

    def __iter__(self) -> Self:
        return self

    def _next(self) -> tuple[int, Chunk]:
        while (message := self._read()) is not None:
            if chunk := self._transcript.take(message):
                return chunk
        self._transcript.close()
        raise StopIteration

    def _read(self) -> generation_pb2.GenerateResponse | None:
        """Wait for the next message; None at the end of the stream."""
        with _translated(self._target):
            return next(self._call, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class Generation(_Answer):
    """A text being generated: an iterator of its chunks.

        with client.generate("Once ") as generation:
            for chunk in generation:
                print(chunk.text, end="", flush=True)

    The server stops as soon as the `with` block is left, `cancel` is called, or the object is dropped.
    Reading raises the errors of `charlm_client.errors`; every chunk before an error was delivered.
    """

    @property
    def finished(self) -> Finished | None:
        """How the text ended; None until it was read to its end."""
        return self._transcript.finished[0]

    def text(self) -> str:
        """Read to the end; return the text from here on."""
        return "".join([chunk.text for chunk in self])

    def __next__(self) -> Chunk:
        _, chunk = self._next()
        return chunk


class Samples(_Answer):
    """Several texts being generated at once: an iterator of (sample, chunk), as the chunks of any of them come.

        with client.generate_samples("Once ", 3) as samples:
            for sample, chunk in samples:
                print(sample, chunk.text)

    Samples are counted from 0; sample i is what `generate` brings with the seed `started.seed` + i. In all else this
    is a `Generation`.
    """

    @property
    def finished(self) -> tuple[Finished | None, ...]:
        """How the text of each sample ended; None for those that were not yet read to their ends."""
        return tuple(self._transcript.finished)

    def texts(self) -> list[str]:
        """Read to the end; return the text of each sample from here on."""
        return joined(len(self.finished), self)

    def __next__(self) -> tuple[int, Chunk]:
        return self._next()


class Client:
    """A connection to a charlm server.

        with Client("127.0.0.1:50051") as client:
            print(client.generate("Once ").text())

    `target` is HOST:PORT or any other gRPC name. `timeout` is the limit of each method call in seconds, None
    for none; each method may replace it. `max_message_bytes` bounds one message in either direction.
    `credentials` switch TLS on. It connects with the first call, and anew after a lost connection. Every
    method raises the errors of `charlm_client.errors`.
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
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._scoring = scoring_pb2_grpc.ScoringServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)

    def generate(  # noqa: PLR0913 - the fields of the request
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
        timeout: float | None = None,
    ) -> Generation:
        """Continue `prompt` from the ticket's state or the zero state; return once the request is accepted.

        model, version      "" is the server's only model, 0 its newest version
        temperature         0 (always the likeliest character) to 100
        top_k               keep the k likeliest characters; 0 keeps all
        top_p               keep the likeliest up to this probability, above 0, to 1
        min_p               keep those at least this many times as probable as the likeliest, 0 to below 1
        biases              what is added to the logits of up to 256 characters, each -100 to 100
        allowed_characters, forbidden_characters
                            up to 10,000 that alone may be written ("": all), and that may not be
        seed                0 to 2^64 - 1; None: the ticket's, or a new one, told in `started`
        max_characters      1 to 1,000,000
        stop                up to 16 strings of 1 to 128 characters that end the text
        log_probabilities   whether chunks carry that of each character
        top_alternatives    for each character, how many of the likeliest ones chunks carry, 0 to 20
        unknown             "replace" prompt characters outside the vocabulary, or "refuse" the call
        return_ticket       whether `finished` carries one, to continue from
        timeout             seconds for the whole text
        """
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
        return Generation(call, self._target)

    def generate_samples(
        self, prompt: str, samples: int, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> Samples:
        """Continue `prompt` 1 to 64 times at once, with the options of `generate`; the server reads it once."""
        request = generate_request(prompt, samples=samples, **options)
        call = self._generation.Generate(request, timeout=self._limit(timeout))
        return Samples(call, self._target, samples)

    def score(  # noqa: PLR0913 - the fields of the request
        self,
        text: str,
        *,
        model: str = "",
        version: int = 0,
        ticket: bytes | None = None,
        log_probabilities: bool = False,
        unknown: UnknownPolicy = "replace",
        return_ticket: bool = False,
        timeout: float | None = None,
    ) -> Score:
        """Score a text of any length.

        From the zero state the first character is read, not scored; from a ticket, and by a model of documents,
        every character is scored. There a line feed at the end of the text scores the end of the document.
        `timeout` covers all the calls that a long text takes.
        """
        [score] = self.score_many(
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

    def score_many(  # noqa: PLR0913 - the fields of the request
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        ticket: bytes | None = None,
        log_probabilities: bool = False,
        unknown: UnknownPolicy = "replace",
        return_tickets: bool = False,
        timeout: float | None = None,
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
        return self._answer(score_calls(texts, settings), Deadline.after(self._limit(timeout)))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Describe every loaded model, by name, then version."""
        with _translated(self._target):
            response = self._models.ListModels(model_pb2.ListModelsRequest(), timeout=self._limit(timeout))
        return [model_from(model) for model in response.models]

    def model(self, name: str = "", version: int = 0, *, timeout: float | None = None) -> Model:
        """Describe one loaded model."""
        request = model_pb2.GetModelRequest(model=model_reference(name, version))
        with _translated(self._target):
            return model_from(self._models.GetModel(request, timeout=self._limit(timeout)).model)

    def close(self) -> None:
        """Close the connection; calls still running are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout

    def _answer(self, calls: Calls, deadline: Deadline) -> list[Score]:
        """Send each request that `calls` yields, give it the response, and return what it returns."""
        try:
            request = next(calls)
            while True:
                with _translated(self._target):
                    response = self._scoring.Score(request, timeout=deadline.left)
                request = calls.send(response)
        except StopIteration as done:
            scores: list[Score] = done.value
            return scores
