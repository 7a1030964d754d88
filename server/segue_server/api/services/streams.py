"""The streams of a call: its sequences in the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager

from segue_server.engine.sequence import Finish, Sequence, State, StepOutput
from segue_server.errors import EngineFailed, Stopping
from segue_server.runtime.engine_share import EngineShare
from segue_server.runtime.engine_thread import Stream


@contextmanager
def running(
    sequences: Collection[Sequence], engine: EngineShare, time_limit: float | None = None
) -> Iterator[list[Stream]]:
    """Run the sequences in `engine` for the length of the block; end them after `time_limit` seconds, if given."""
    timer = None
    if time_limit is not None:
        timer = asyncio.get_running_loop().call_later(time_limit, _end_all, sequences, engine)
    try:
        yield [engine.open(sequence) for sequence in sequences]
    finally:
        if timer is not None:
            timer.cancel()
        for sequence in sequences:
            engine.close(sequence)


def _end_all(sequences: Collection[Sequence], engine: EngineShare) -> None:
    for sequence in sequences:
        engine.end(sequence)


@asynccontextmanager
async def tasks_of_call() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks to their end; the first failure cancels the others and is raised, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def outputs_to_end(stream: Stream, on_state: Callable[[State], None] = lambda _: None) -> list[StepOutput]:
    """Wait for a sequence that only reads to finish; return its outputs. `on_state` gets each of its states."""
    outputs: list[StepOutput] = []
    while not outputs or outputs[-1].finish is None:
        outputs.append(await stream.next_output())
        if (state := outputs[-1].state) is not None:
            on_state(state)
    check_finish(outputs[-1])
    return outputs


async def prefill_to_end(stream: Stream, on_state: Callable[[State], None] = lambda _: None) -> State:
    """Like `outputs_to_end`; return the state after the sequence."""
    return state_after((await outputs_to_end(stream, on_state))[-1])


def state_after(output: StepOutput) -> State:
    """Return the state of an output that must have one."""
    assert output.state is not None, "no state was requested"
    return output.state


def check_finish(last: StepOutput) -> None:
    """Raise the error that a sequence's end means for its call, if any."""
    if last.finish is Finish.FAULT:
        raise EngineFailed("the model gave no finite probabilities for this stream")
    if len(last.sequence.prefill_ids):
        raise Stopping(
            "the server is stopping, or the stream has lasted as long as any may here, and it has not read the whole "
            "text; send the request to another one"
        )
