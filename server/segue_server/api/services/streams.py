"""The streams of a call: its sequences in the engine, and its responses to the client."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc.aio

from segue_server.engine.sequence import Finish, Sequence, State, StepOutput
from segue_server.errors import EngineFailed, Stalled, Stopping
from segue_server.runtime.engine_thread import EngineThread, Stream


@contextmanager
def running(sequences: Collection[Sequence], worker: EngineThread) -> Iterator[list[Stream]]:
    """Run the sequences in `worker` for the length of the block."""
    try:
        yield [worker.open(sequence) for sequence in sequences]
    finally:
        for sequence in sequences:
            worker.close(sequence)


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
        raise Stopping("the server is stopping and has not read the whole text; send the request to another one")


class ResponseStream:
    """The client's end of a streaming call. Any number of tasks may write to it."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], stall_timeout: float) -> None:
        """`stall_timeout`: seconds that a client may leave its stream unread once all buffers are full."""
        self._context = context
        self._stall_timeout = stall_timeout
        self._free = asyncio.Lock()

    async def write(self, response: Any) -> None:
        """Send one message; raises Stalled if the client makes no room for it."""
        async with self._free:
            try:
                async with asyncio.timeout(self._stall_timeout):
                    await self._context.write(response)
            except TimeoutError:
                raise Stalled(f"the stream was not read for {self._stall_timeout:g} seconds") from None
