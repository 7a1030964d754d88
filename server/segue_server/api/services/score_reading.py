"""Texts that are scored: each of them read by a sequence of its own."""

from collections.abc import Callable

import numpy as np

from segue_server.api.score_accumulator import NOTHING_READ, Reading, Wanted
from segue_server.api.scoring_request import TextToScore
from segue_server.api.services.streams import advances_to_end, opened, state_after
from segue_server.api.services.task_group import tasks_of_call
from segue_server.engine.scores import joined_alternatives
from segue_server.engine.sequence import State, StepOutput
from segue_server.runtime.registry import Served
from segue_server.state.start import StartState, rewinding_marks

TakeState = Callable[[State], None]


async def read_all(
    texts: list[TextToScore], wanted: Wanted, served: Served, places: int
) -> list[tuple[Reading, State | None]]:
    """Read all texts, up to `places` of them at once; return of each what came and the state behind it.

    The longest begin: so those that are read together are of like length, and none is left over for the end.
    """
    results: list[tuple[Reading, State | None]] = [(NOTHING_READ, None)] * len(texts)
    waiting = iter(sorted(range(len(texts)), key=lambda i: -len(texts[i].prefill_ids)))

    async def read_from_queue() -> None:
        for i in waiting:
            results[i] = await read_one(texts[i], wanted, served)

    if places == 1:  # nearly always, and a task less
        await read_from_queue()
        return results
    async with tasks_of_call() as group:
        for _ in range(places):
            group.create_task(read_from_queue())
    return results


async def read_one(
    text: TextToScore, wanted: Wanted, served: Served, marks: tuple[int, ...] = (), take: TakeState = lambda _: None
) -> tuple[Reading, State | None]:
    """Read a text; return what came and the state behind it. `take` gets that too, and those at the `marks`."""
    if not len(text.prefill_ids):
        return NOTHING_READ, text.state
    with opened([text.sequence(wanted, marks)], served.engine_thread) as [stream]:
        advances = await advances_to_end(stream, take)
    return _joined(advances), state_after(advances[-1])


async def read_behind(
    origin: StartState, text: TextToScore, wanted: Wanted, served: Served
) -> tuple[Reading, State | None]:
    """Read a text that goes on from `origin`, which takes the states that its session may be rewound to."""
    marks = rewinding_marks(text.state, text.prefill_ids, origin, served.model) if text.state else ()
    return await read_one(text, wanted, served, marks, lambda state: origin.note(state, origin.sampling))


def _joined(advances: list[StepOutput]) -> Reading:
    if len(advances) == 1:
        return Reading(advances[0].log_probabilities, advances[0].ranks, advances[0].alternatives)
    return Reading(
        np.concatenate([advance.log_probabilities for advance in advances]),
        np.concatenate([advance.ranks for advance in advances]),
        joined_alternatives([advance.alternatives for advance in advances if advance.alternatives is not None]),
    )
