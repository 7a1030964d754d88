"""Sequences as a service runs them: opened for as long as a call lasts, and their ends understood."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segue_server.engine.sequence import Finish, Sequence, State, StepOutput
from segue_server.errors import EngineFailed, Stopping
from segue_server.runtime.engine_thread import EngineThread, Stream


@contextmanager
def opened(sequences: list[Sequence], worker: EngineThread) -> Iterator[list[Stream]]:
    """Have `worker` run the sequences as long as the block lasts."""
    try:
        yield [worker.open(sequence) for sequence in sequences]
    finally:
        for sequence in sequences:
            worker.close(sequence)


async def advances_to_end(stream: Stream, take: Callable[[State], None] = lambda _: None) -> list[StepOutput]:
    """Wait until a sequence that only reads has ended; return all that came. `take` gets every state of it."""
    advances: list[StepOutput] = []
    while not advances or advances[-1].finish is None:
        advances.append(await stream.next_output())
        if (state := advances[-1].state) is not None:
            take(state)
    check_end(advances[-1])
    return advances


async def read_to_end(stream: Stream, take: Callable[[State], None] = lambda _: None) -> State:
    """Wait as `advances_to_end`; return the state after the sequence."""
    return state_after((await advances_to_end(stream, take))[-1])


def state_after(advance: StepOutput) -> State:
    """Return the state that an advance was to bring."""
    assert advance.state is not None, "a state that nobody asked for"
    return advance.state


def check_end(last: StepOutput) -> None:
    """Raise what a sequence's end means for its call, where that is nothing to send."""
    if last.finish is Finish.FAULT:
        raise EngineFailed("the model gave no finite probabilities for this stream")
    if len(last.sequence.prefill_ids):
        raise Stopping("the server is stopping and has not read the whole text; send the request to another one")
