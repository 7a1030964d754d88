"""segue.v1.GenerationService."""

from collections.abc import Callable
from typing import Final

import grpc.aio
import numpy as np
from segue.v1 import generation_pb2 as pb
from segue.v1 import generation_pb2_grpc

from segue_server.api.generation_request import Generation, read_generation, read_samples
from segue_server.api.score_accumulator import alternatives_messages
from segue_server.api.services.response_stream import ResponseStream
from segue_server.api.services.streams import check_end, opened, read_to_end, state_after
from segue_server.api.services.task_group import tasks_of_call
from segue_server.api.tenants import tenant_of
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import Finish, State, StepOutput
from segue_server.prefix_cache.cache import Prefix, PrefixCache
from segue_server.runtime.admission import Admission, GiveBack
from segue_server.runtime.engine_thread import Stream
from segue_server.runtime.registry import Registry, Served
from segue_server.state.start import StartResolver, StartState

_REASONS: Final = {
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.END: pb.FINISH_REASON_END,
    Finish.DRAINED: pb.FINISH_REASON_DRAINED,
}

_Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Streams what each sample's sequence writes, as much at a time as has come since its last message."""

    def __init__(
        self,
        registry: Registry,
        admission: Admission,
        starts: StartResolver,
        prefixes: PrefixCache,
        stall_timeout: float,
    ) -> None:
        """`stall_timeout`: seconds that a client may leave its stream unread once all buffers on the way are full."""
        self._registry = registry
        self._admission = admission
        self._starts = starts
        self._prefixes = prefixes
        self._stall_timeout = stall_timeout

    # A coroutine that writes to its context, not a generator: so that a write can time out.
    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> None:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served = self._registry.find(request.model.name, request.model.version)
        tenant = tenant_of(context)
        with self._admission.exactly(read_samples(request)) as give_back:
            origin = await self._starts.resolve(request.start, served, tenant)

            def find(state: State, ids: Ids, behind: int) -> Prefix:
                return self._prefixes.find(state, ids, served.model, tenant, behind)

            generation = read_generation(request, served.model, origin).after_prefix(find)
            output = ResponseStream(context, self._stall_timeout)
            ticket = self._starts.tickets(origin, generation.sampling, served, tenant)
            await _Call(request, generation, origin, served, output, ticket, give_back).answer()


class _Call:
    """One call under way."""

    def __init__(  # noqa: PLR0913, PLR0917 - all that belongs to a call
        self,
        request: pb.GenerateRequest,
        generation: Generation,
        origin: StartState,
        served: Served,
        output: ResponseStream,
        ticket: Callable[[State], bytes],
        give_back: GiveBack,
    ) -> None:
        self._request = request
        self._generation = generation
        self._origin = origin
        self._served = served
        self._output = output
        self._ticket = ticket
        self._give_back = give_back

    async def answer(self) -> None:
        """Send every message; when this ends, however it does, no sequence is left in the engine."""
        prompt, worker = self._generation.prompt(), self._served.engine_thread
        if prompt is None:
            with opened(self._generation.sequences(), worker) as streams:
                await self._output.write(self._started())
                await self._write_samples(streams)
        else:
            with opened([prompt], worker) as [stream]:
                await self._output.write(self._started())
                state = await read_to_end(stream, self._generation.prefix.take)
            with opened(self._generation.sequences(state), worker) as streams:
                await self._write_samples(streams)

    async def _write_samples(self, streams: list[Stream]) -> None:
        """Send the texts of all samples as they come; the first that fails ends the others."""
        if len(streams) == 1:  # nearly always, and a task less
            await self._write_sample(0, streams[0])
            return
        async with tasks_of_call() as group:
            for sample, stream in enumerate(streams):
                group.create_task(self._write_sample(sample, stream))

    async def _write_sample(self, sample: int, stream: Stream) -> None:
        """Send the text of one sample, from its first message to its last."""
        progress = _Progress(self._generation, self._origin, self._request.ticket_interval)
        advance: StepOutput | None = None
        while advance is None or advance.finish is None:
            advance = await stream.next_output()
            ticket_due = progress.take(advance)
            if len(advance.written):
                text = self._text(advance, ticket_due=ticket_due)
                await self._output.write(pb.GenerateResponse(text=text, sample=sample))
        check_end(advance)
        if self._origin.session and advance.finish is not Finish.DRAINED:  # a drained call can be repeated as a whole
            await self._origin.advance(state_after(advance), progress.ids(), self._generation.sampling)
        finished = self._finished(advance)
        self._give_back()  # before the client hears of the end: its next call may need the place
        await self._output.write(pb.GenerateResponse(finished=finished, sample=sample))

    def _started(self) -> pb.GenerateResponse:
        model, generation = self._served.model, self._generation
        return pb.GenerateResponse(
            started=pb.GenerationStarted(
                model=model.name,
                version=model.version,
                seed=generation.state.seed,
                unknown_count=generation.unknown_count,
                continuation=self._origin.continuation,
                cached_count=self._generation.cached_count,
                repeated=self._origin.repeated,
            )
        )

    def _text(self, advance: StepOutput, *, ticket_due: bool) -> pb.GeneratedText:
        model = self._served.model
        return pb.GeneratedText(
            text=model.vocabulary.decode(advance.written),
            log_probabilities=advance.log_probabilities.tolist(),
            position=advance.position,
            alternatives=None if advance.alternatives is None else alternatives_messages(advance.alternatives, model),
            ticket=self._ticket(state_after(advance)) if ticket_due else b"",
        )

    def _finished(self, last: StepOutput) -> pb.GenerationFinished:
        assert last.finish is not None
        generation = self._generation
        wants_ticket = self._request.return_ticket or last.finish is Finish.DRAINED
        return pb.GenerationFinished(
            reason=_REASONS[last.finish],
            stop="" if last.stop is None else generation.stops[last.stop],
            generated_count=generation.max_characters - last.sequence.max_characters,
            ticket=self._ticket(state_after(last)) if wants_ticket else b"",
            position=last.position,
        )


class _Progress:
    """What one sample has read and written so far, as far as its origin or its next ticket asks."""

    def __init__(self, generation: Generation, origin: StartState, ticket_interval: int) -> None:
        self._generation = generation
        self._origin = origin
        self._ticket_interval = ticket_interval
        self._prompt_end = generation.state.position + len(generation.prefill_ids)
        self._ticket_at = self._prompt_end
        self._written: list[Ids] = []
        self._note(generation.state)

    def take(self, advance: StepOutput) -> bool:
        """Note what has come; return whether a ticket is due with it."""
        if self._origin.session:
            self._written.append(advance.written)
        if advance.state is None or advance.finish is not None:
            return False
        self._generation.prefix.take(advance.state)
        self._note(advance.state)
        if not self._ticket_interval or advance.position < self._ticket_at + self._ticket_interval:
            return False
        self._ticket_at = advance.position
        return True

    def _note(self, state: State) -> None:
        """Tell the origin of a state that it asked for: not of those that only the cache did."""
        if state.position > self._prompt_end or state.position in self._generation.marks:
            self._origin.note(state, self._generation.sampling)

    def ids(self) -> Ids:
        """Return all that was read and written behind the origin."""
        return np.concatenate([self._generation.read, *self._written])
