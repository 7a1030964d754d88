"""charlm.v1.GenerationService."""

import asyncio
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from typing import Final

import grpc.aio
from charlm.v1 import alternatives_pb2, generation_pb2_grpc
from charlm.v1 import generation_pb2 as pb

from charlm_server.admission import Admission, GiveBack
from charlm_server.errors import EngineFailed, Stalled, Stopping
from charlm_server.generation_requests import Generation, read_generation, read_samples
from charlm_server.model import Model
from charlm_server.registry import Registry, Served
from charlm_server.sequence import Advance, Alternatives, Finish, Sequence, State
from charlm_server.services.tasks import tasks_of_call
from charlm_server.tickets import write_ticket
from charlm_server.worker import Stream, Worker

_REASONS: Final = {
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.END: pb.FINISH_REASON_END,
    Finish.DRAINED: pb.FINISH_REASON_DRAINED,
}

_Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Streams what each sample's sequence writes, as much at a time as has come since its last message."""

    def __init__(self, registry: Registry, admission: Admission, stall_timeout: float) -> None:
        """`stall_timeout`: seconds that a client may leave its stream unread once all buffers on the way are full."""
        self._registry = registry
        self._admission = admission
        self._stall_timeout = stall_timeout

    # A coroutine that writes to its context, not a generator: so that a write can time out.
    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> None:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served = self._registry.find(request.model.name, request.model.version)
        with self._admission.exactly(read_samples(request)) as give_back:
            generation = read_generation(request, served.model)
            output = _Output(context, self._stall_timeout)
            await _Call(request, generation, served, output, give_back).answer()


class _Output:
    """The client's end of a call: takes one message at a time, of however many samples."""

    def __init__(self, context: _Context, stall_timeout: float) -> None:
        self._context = context
        self._stall_timeout = stall_timeout
        self._free = asyncio.Lock()

    async def write(self, response: pb.GenerateResponse) -> None:
        """Send one message; raises Stalled where the client does not make room for it."""
        async with self._free:
            try:
                async with asyncio.timeout(self._stall_timeout):
                    await self._context.write(response)
            except TimeoutError:
                raise Stalled(f"the stream was not read for {self._stall_timeout:g} seconds") from None


class _Call:
    """One call under way."""

    def __init__(
        self, request: pb.GenerateRequest, generation: Generation, served: Served, output: _Output, give_back: GiveBack
    ) -> None:
        self._request = request
        self._generation = generation
        self._served = served
        self._output = output
        self._give_back = give_back

    async def answer(self) -> None:
        """Send every message; when this ends, however it does, no sequence is left in the engine."""
        prompt, worker = self._generation.prompt(), self._served.worker
        if prompt is None:
            with _opened(self._generation.sequences(), worker) as streams:
                await self._output.write(_started(self._generation, self._served.model))
                await self._write_samples(streams)
        else:
            with _opened([prompt], worker) as [stream]:
                await self._output.write(_started(self._generation, self._served.model))
                state = await _read_to_end(stream)
            with _opened(self._generation.sequences(state), worker) as streams:
                await self._write_samples(streams)

    async def _write_samples(self, streams: Items[Stream]) -> None:
        """Send the texts of all samples as they come; the first that fails ends the others."""
        if len(streams) == 1:  # nearly always, and a task less
            await self._write_sample(0, streams[0])
            return
        async with tasks_of_call() as group:
            for sample, stream in enumerate(streams):
                group.create_task(self._write_sample(sample, stream))

    async def _write_sample(self, sample: int, stream: Stream) -> None:
        """Send the text of one sample, from its first message to its last."""
        advance: Advance | None = None
        while advance is None or advance.finish is None:
            advance = await stream.advance()
            if len(advance.written):
                text = _text(advance, self._served.model)
                await self._output.write(pb.GenerateResponse(text=text, sample=sample))
        finished = _finished(advance, self._generation, self._request, self._served.model)
        self._give_back()  # before the client hears of the end: its next call may need the place
        await self._output.write(pb.GenerateResponse(finished=finished, sample=sample))


@contextmanager
def _opened(sequences: Items[Sequence], worker: Worker) -> Iterator[list[Stream]]:
    """Have `worker` run the sequences as long as the block lasts."""
    try:
        yield [worker.open(sequence) for sequence in sequences]
    finally:
        for sequence in sequences:
            worker.close(sequence)


async def _read_to_end(stream: Stream) -> State:
    """Wait until a sequence that only reads has ended; return the state after it."""
    advance = await stream.advance()
    while advance.finish is None:
        advance = await stream.advance()
    _check_end(advance)
    return _state_after(advance)


def _state_after(last: Advance) -> State:
    assert last.state is not None, "no generation is without its state"
    return last.state


def _check_end(last: Advance) -> None:
    """Raise what a sequence's end means for its call, where that is nothing to send."""
    if last.finish is Finish.FAULT:
        raise EngineFailed("the model gave no finite probabilities for this stream")
    if len(last.sequence.forced):
        raise Stopping("the server is stopping and has not read the whole prompt; send the request to another one")


def _started(generation: Generation, model: Model) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        started=pb.GenerationStarted(
            model=model.name,
            version=model.version,
            seed=generation.state.seed,
            unknown_count=generation.unknown_count,
        )
    )


def _text(advance: Advance, model: Model) -> pb.GeneratedText:
    return pb.GeneratedText(
        text=model.vocabulary.decode(advance.written),
        log_probabilities=advance.log_probabilities.tolist(),
        position=advance.position,
        alternatives=None if advance.alternatives is None else _alternatives(advance.alternatives, model),
    )


def _alternatives(alternatives: Alternatives, model: Model) -> Iterator[alternatives_pb2.Alternatives]:
    """Yield those of each character; only models whose symbols are characters have any."""
    places = zip(alternatives.ids.tolist(), alternatives.log_probabilities.tolist(), strict=True)
    for ids, log_probabilities in places:
        yield alternatives_pb2.Alternatives(
            characters=model.vocabulary.decode(ids), log_probabilities=log_probabilities
        )


def _finished(
    last: Advance, generation: Generation, request: pb.GenerateRequest, model: Model
) -> pb.GenerationFinished:
    _check_end(last)
    assert last.finish is not None
    wants_ticket = request.return_ticket or last.finish is Finish.DRAINED
    return pb.GenerationFinished(
        reason=_REASONS[last.finish],
        stop="" if last.stop is None else generation.stops[last.stop],
        generated_count=generation.budget - last.sequence.budget,
        ticket=write_ticket(_state_after(last), model) if wants_ticket else b"",
    )
