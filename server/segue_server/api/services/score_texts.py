"""Scoring texts, each as one sequence."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from segue_server.api.score_accumulator import NO_SCORES, CharacterScores, ScoreAccumulator, Wanted
from segue_server.api.scoring_request import TextToScore
from segue_server.api.services.streams import outputs_to_end, running, state_after, tasks_of_call
from segue_server.engine.sequence import State, StepOutput
from segue_server.runtime.registry import Served
from segue_server.runtime.time_slices import Steps, in_slices
from segue_server.state.start import StartState, rewinding_marks

_BEGUN_AT_ONCE: Final = 16
"""Texts whose scoring begins in one turn of the event loop."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """What a reply says of one text."""

    accumulator: ScoreAccumulator
    position: int
    """After the text; 0: nothing was read."""
    state: State | None
    """After the text, where it is kept for a ticket."""


async def score_all(
    texts: list[TextToScore], wanted: Wanted, served: Served, places: int, *, keep_states: bool
) -> list[ScoredText]:
    """Score all texts, which are emptied out of the list, up to `places` at once.

    Longest first, so that texts in a batch have similar lengths and none runs alone at the end.
    """
    results: dict[int, ScoredText] = {}
    waiting = iter(sorted(range(len(texts)), key=lambda i: -len(texts[i].prefill_ids)))
    unread = dict(enumerate(texts))  # each is freed when it has been scored: to free thousands together takes long
    texts.clear()

    async def score_from_queue() -> None:
        for i in waiting:
            text = unread.pop(i)
            scores, state = await score_one(text, wanted, served)
            results[i] = await in_slices(scored(text, wanted, scores, state, keep_state=keep_states))

    if places == 1:  # nearly always: spare the task
        await score_from_queue()
    else:
        async with tasks_of_call() as group:
            for number in range(places):
                group.create_task(score_from_queue())
                if number % _BEGUN_AT_ONCE == _BEGUN_AT_ONCE - 1:
                    await asyncio.sleep(0)  # they all open a stream in the next turn of the event loop
    return [results[i] for i in range(len(results))]


def scored(
    text: TextToScore, wanted: Wanted, scores: CharacterScores, state: State | None, *, keep_state: bool
) -> Steps[ScoredText]:
    """Add up the scores of a text; `state` is the one after it."""
    accumulator = ScoreAccumulator(wanted)
    yield from accumulator.add(text.text, text.unknown_at, scores)
    accumulator.end()
    return ScoredText(accumulator, 0 if state is None else state.position, state if keep_state else None)


async def score_one(
    text: TextToScore,
    wanted: Wanted,
    served: Served,
    marks: tuple[int, ...] = (),
    on_state: Callable[[State], None] = lambda _: None,
) -> tuple[CharacterScores, State | None]:
    """Return the scores of a text and the state after it. `on_state` gets that state and those at the `marks`."""
    if not len(text.prefill_ids):
        return NO_SCORES, text.state
    with running([text.sequence(wanted, marks)], served.engine) as [stream]:
        outputs = await outputs_to_end(stream, on_state)
    return _joined(outputs), state_after(outputs[-1])


async def score_from(
    start: StartState, text: TextToScore, wanted: Wanted, served: Served
) -> tuple[CharacterScores, State | None]:
    """Score a text that continues from `start`, which notes the states that its session may be rewound to."""
    marks = rewinding_marks(text.state, text.prefill_ids, start, served.model) if text.state else ()
    return await score_one(text, wanted, served, marks, lambda state: start.note(state, start.sampling))


def _joined(outputs: list[StepOutput]) -> CharacterScores:
    alternatives = [output.alternatives for output in outputs if output.alternatives is not None]
    if len(outputs) == 1:
        return CharacterScores(outputs[0].log_probabilities, outputs[0].ranks, alternatives)
    return CharacterScores(
        np.concatenate([output.log_probabilities for output in outputs]),
        np.concatenate([output.ranks for output in outputs]),
        alternatives,
    )
