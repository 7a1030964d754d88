"""charlm.v1.GenerationService."""

import asyncio
from typing import Final

import grpc.aio
from charlm.v1 import generation_pb2 as pb
from charlm.v1 import generation_pb2_grpc

from charlm_server.admission import Admission
from charlm_server.errors import EngineFailed, Stalled, Stopping
from charlm_server.registry import Registry, Served
from charlm_server.requests import Generation, read_generation
from charlm_server.sequence import Advance, Finish
from charlm_server.tickets import write_ticket

_REASONS: Final = {
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.END: pb.FINISH_REASON_END,
    Finish.DRAINED: pb.FINISH_REASON_DRAINED,
}

_Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Streams what a sequence writes, as much at a time as has come since the last message."""

    def __init__(self, registry: Registry, admission: Admission, stall_timeout: float) -> None:
        """`stall_timeout`: seconds that a client may leave its stream unread once all buffers on the way are full."""
        self._registry = registry
        self._admission = admission
        self._stall_timeout = stall_timeout

    # A coroutine that writes to its context, not a generator: so that a write can time out.
    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> None:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served = self._registry.find(request.model.name, request.model.version)
        with self._admission.places(1):
            generation = read_generation(request, served.model)
            stream = served.worker.open(generation.sequence)
            try:
                await self._write(context, _started(generation, served))
                advance: Advance | None = None
                while advance is None or advance.finish is None:
                    advance = await stream.advance()
                    if len(advance.written):
                        await self._write(context, _text(advance, served))
            finally:
                served.worker.close(generation.sequence)
        await self._write(context, _finished(advance, generation, request, served))

    async def _write(self, context: _Context, response: pb.GenerateResponse) -> None:
        """Send one message; raises Stalled where the client does not make room for it."""
        try:
            async with asyncio.timeout(self._stall_timeout):
                await context.write(response)
        except TimeoutError:
            raise Stalled(f"the stream was not read for {self._stall_timeout:g} seconds") from None


def _started(generation: Generation, served: Served) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        started=pb.GenerationStarted(
            model=served.model.name,
            version=served.model.version,
            seed=generation.sequence.state.seed,
            unknown_count=generation.unknown_count,
        )
    )


def _text(advance: Advance, served: Served) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        text=pb.GeneratedText(
            text=served.model.vocabulary.decode(advance.written.tolist()),
            log_probabilities=advance.log_probabilities.tolist(),
            position=advance.state.position,
        )
    )


def _finished(
    last: Advance, generation: Generation, request: pb.GenerateRequest, served: Served
) -> pb.GenerateResponse:
    if last.finish is None or last.finish is Finish.FAULT:
        raise EngineFailed("the model gave no finite probabilities for this stream")
    if len(last.sequence.forced):
        raise Stopping("the server is stopping and has not read the whole prompt; send the request to another one")
    wants_ticket = request.return_ticket or last.finish is Finish.DRAINED
    return pb.GenerateResponse(
        finished=pb.GenerationFinished(
            reason=_REASONS[last.finish],
            stop="" if last.stop is None else generation.stops[last.stop],
            generated_count=generation.budget - last.sequence.budget,
            ticket=write_ticket(last.state, served.model) if wants_ticket else b"",
        )
    )
