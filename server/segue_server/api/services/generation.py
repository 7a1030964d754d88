"""segue.v1.GenerationService."""

from collections.abc import Callable
from typing import Final

import numpy as np
from segue.v1 import generation_pb2 as pb
from segue.v1 import generation_pb2_grpc

from segue_server.api.calls.call import Call
from segue_server.api.generation_request import Generation, check_limits, read_generation
from segue_server.api.score_messages import add_alternatives
from segue_server.api.services.streams import (
    check_finish,
    prefill_to_end,
    running,
    state_after,
    tasks_of_call,
)
from segue_server.api.start_message import continuation, read_start
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import Finish, State, StepOutput
from segue_server.prefix_cache.cache import Prefix, PrefixCache
from segue_server.runtime.admission import Admission, GiveBack
from segue_server.runtime.engine_thread import Stream
from segue_server.runtime.registry import Registry, Served
from segue_server.runtime.time_slices import in_slices
from segue_server.state.start import StartResolver, StartState

_REASONS: Final = {
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.END: pb.FINISH_REASON_END,
    Finish.DRAINED: pb.FINISH_REASON_DRAINED,
}


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Streams what each sample's sequence writes; a message holds all characters since the one before."""

    def __init__(
        self,
        registry: Registry,
        admission: Admission,
        start_resolver: StartResolver,
        prefixes: PrefixCache,
    ) -> None:
        self._registry = registry
        self._admission = admission
        self._start_resolver = start_resolver
        self._prefixes = prefixes

    # A coroutine that writes to its context, not a generator, so that a write can time out.
    async def Generate(self, request: pb.GenerateRequest, call: Call) -> None:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = call.use(self._registry.find(request.model.name, request.model.version)), call.tenant
        await in_slices(check_limits(request))
        with self._admission.exactly(request.samples or 1, call.owner) as give_back:
            start = await self._start_resolver.resolve(read_start(request.start), served, tenant)

            def find_prefix(state: State, ids: Ids, covered: int) -> Prefix:
                return self._prefixes.find(state, ids, served.model, tenant, covered)

            generation = await in_slices(read_generation(request, served.model, start))
            call.keep(generation.kept_bytes(served.model, is_session=start.is_session))
            del request  # a prompt may be long, and the call too
            generation = generation.after_prefix(find_prefix)
            call.check_text(served, len(generation.prefill_ids))
            ticket = self._start_resolver.tickets(start, generation.sampling, served, tenant)
            await _Call(generation, start, served, call, ticket, give_back).answer()


class _Call:
    """One call in progress."""

    def __init__(  # noqa: PLR0913, PLR0917 - everything that belongs to a call
        self,
        generation: Generation,
        start: StartState,
        served: Served,
        call: Call,
        ticket: Callable[[State], bytes],
        give_back: GiveBack,
    ) -> None:
        self._generation = generation
        self._start = start
        self._served = served
        self._call = call
        self._ticket = ticket
        self._give_back = give_back

    async def answer(self) -> None:
        """Send every message; leaves no sequence in the engine, however it ends."""
        prompt, engine = self._generation.prompt(), self._served.engine
        if prompt is None:
            with running(self._generation.sequences(), engine, self._call.duration_left) as streams:
                await self._call.write(self._started())
                await self._write_samples(streams)
        else:
            with running([prompt], engine, self._call.duration_left) as [stream]:
                await self._call.write(self._started())
                state = await prefill_to_end(stream, self._generation.prefix.offer)
            with running(self._generation.sequences(state), engine, self._call.duration_left) as streams:
                await self._write_samples(streams)

    async def _write_samples(self, streams: list[Stream]) -> None:
        """Send the texts of all samples as they arrive; the first failure ends the others."""
        if len(streams) == 1:  # nearly always: spare the task
            await self._write_sample(0, streams[0])
            return
        async with tasks_of_call() as group:
            for sample, stream in enumerate(streams):
                group.create_task(self._write_sample(sample, stream))

    async def _write_sample(self, sample: int, stream: Stream) -> None:
        """Send the text of one sample, from its first message to its last."""
        progress = _Progress(self._generation, self._start)
        output: StepOutput | None = None
        model = self._served.model
        while output is None or output.finish is None:
            output = await stream.next_output()
            ticket_due = progress.record(output)
            if len(output.written):
                self._call.drop_message()  # the prompt has been read
                response = pb.GenerateResponse(text=self._text(output, ticket_due=ticket_due), sample=sample)
                if output.alternatives is not None:
                    await in_slices(add_alternatives(response.text.alternatives, output.alternatives, model))
                await self._call.write(response)
        check_finish(output)
        if self._start.is_session and output.finish is not Finish.DRAINED:  # a drained call can be repeated whole
            await self._start.advance(state_after(output), progress.ids(), self._generation.sampling)
        finished = self._finished(output)
        self._give_back()  # before the client learns of the end: its next call may need the place
        await self._call.write(pb.GenerateResponse(finished=finished, sample=sample))

    def _started(self) -> pb.GenerateResponse:
        model, generation = self._served.model, self._generation
        return pb.GenerateResponse(
            started=pb.GenerationStarted(
                model=model.name,
                version=model.version,
                seed=generation.state.seed,
                unknown_count=generation.unknown_count,
                continuation=continuation(self._start, self._served.build, reproducible=self._served.reproducible),
                cached_count=generation.cached_count,
                repeated=self._start.is_repeated,
            )
        )

    def _text(self, output: StepOutput, *, ticket_due: bool) -> pb.GeneratedText:
        model = self._served.model
        return pb.GeneratedText(
            text=model.vocabulary.decode(output.written),
            log_probabilities=output.log_probabilities.tolist(),
            position=output.position,
            ticket=self._ticket(state_after(output)) if ticket_due else b"",
        )

    def _finished(self, last: StepOutput) -> pb.GenerationFinished:
        assert last.finish is not None
        generation = self._generation
        wants_ticket = generation.return_ticket or last.finish is Finish.DRAINED
        return pb.GenerationFinished(
            reason=_REASONS[last.finish],
            stop="" if last.stop is None else generation.stops[last.stop],
            generated_count=generation.max_characters - last.sequence.max_characters,
            ticket=self._ticket(state_after(last)) if wants_ticket else b"",
            position=last.position,
        )


class _Progress:
    """What one sample has read and written, as far as its session or its next ticket needs it."""

    def __init__(self, generation: Generation, start: StartState) -> None:
        self._generation = generation
        self._start = start
        self._ticket_interval = generation.ticket_interval
        self._prompt_end = generation.state.position + len(generation.prefill_ids)
        self._ticket_position = self._prompt_end
        self._written: list[Ids] = []
        self._note(generation.state)

    def record(self, output: StepOutput) -> bool:
        """Record an output; return whether a ticket is due with it."""
        if self._start.is_session:
            self._written.append(output.written.astype(self._generation.session_ids.dtype))  # of one byte, mostly
        if output.state is None or output.finish is not None:
            return False
        self._generation.prefix.offer(output.state)
        self._note(output.state)
        if not self._ticket_interval or output.position < self._ticket_position + self._ticket_interval:
            return False
        self._ticket_position = output.position
        return True

    def _note(self, state: State) -> None:
        """Pass on a state that the session asked for, not one that only the cache did."""
        if state.position > self._prompt_end or state.position in self._generation.marks:
            self._start.note(state, self._generation.sampling)

    def ids(self) -> Ids:
        """Return all ids since the start."""
        return np.concatenate([self._generation.session_ids, *self._written])
