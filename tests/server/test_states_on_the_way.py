"""A state that is handed out on the way is the one after the last character that has come with it."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids, Sampling
from segue_server.engine.sequence import Sequence, State, StepOutput, StopStrings

KINDS = ("characters", "int8", "bytes", "byte-lines", "gru-reset-before")
SEQUENCES = 24


@dataclass
class Told:
    """What came of one sequence."""

    start: State
    prefill_ids: Ids
    written: list[int] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    finished: bool = False

    def take(self, output: StepOutput) -> None:
        self.written += output.written.tolist()
        self.finished = output.finish is not None
        if output.state is not None:
            assert output.state.position == output.position
            self.states.append(output.state)

    def ids_to(self, state: State) -> Ids:
        """All that was read and written until `state`."""
        return np.array([*self.prefill_ids, *self.written])[: state.position - self.start.position]


def make(model: Model, number: int) -> Sequence:
    generator = random.Random(number)
    text = "".join(generator.choices("the cats é你𝄞€", k=generator.randrange(30, 120)))
    ids = model.vocabulary.encode(text)
    start = State.after_first(int(ids[0]), model.state_shape, seed=number)
    whole = [at for at in range(2, len(ids)) if model.symbols.begins_V[ids[at]]]
    fields: dict[str, Any] = {
        "marks": tuple(sorted(generator.sample(whole, k=min(3, len(whole))))) if number % 4 else (),
        "state_interval": number % 5 * 7,
        "max_characters": generator.randrange(1, 200) if number % 6 else 0,
        "sampling": Sampling(0.9, number % 2 * 8),
        "stops": StopStrings([tuple(model.vocabulary.encode("t ").tolist())] if number % 3 == 0 else ()),
    }
    return Sequence(start, ids[1:], **fields)


def state_behind(model: Model, told: Told, state: State) -> State:
    """Read the same symbols alone, in one go."""
    ids, start = told.ids_to(state), told.start
    ended = np.flatnonzero(ids[:-1] == model.symbols.end) if model.symbols.end is not None else ids[:0]
    assert not len(ended)
    engine = Engine(model, rows=1)
    engine.add(Sequence(start, ids))
    [output] = [output for _ in range(3) for output in engine.step(1, 2**20)]
    assert output.state
    return output.state


@pytest.mark.parametrize("schedule", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_the_one_that_reading_alone_leads_to(models: dict[str, Model], kind: str, schedule: int) -> None:
    model, generator = models[kind], random.Random(schedule)
    engine = Engine(model, rows=5)
    sequences = [make(model, number) for number in range(SEQUENCES)]
    told = {sequence: Told(sequence.state, sequence.prefill_ids) for sequence in sequences}
    marks = {sequence: sequence.marks for sequence in sequences}
    for sequence in sequences:
        engine.add(sequence)
    while len(engine):
        outputs = engine.step(generator.randrange(1, 40), generator.randrange(50, 3000))
        if generator.random() < 0.5:
            outputs += engine.collect()
        if generator.random() < 0.2:
            other = generator.choice(sequences)
            engine.pause(other)
            engine.resume(other)
        for output in outputs:
            told[output.sequence].take(output)
    on_the_way = 0
    for sequence, tale in told.items():
        assert tale.finished
        positions = [state.position for state in tale.states]
        assert set(marks[sequence]) <= set(positions)
        assert positions == sorted(set(positions))
        on_the_way += len(tale.states) - 1
        for state in tale.states:
            alone = state_behind(model, tale, state)
            assert (state.h.tobytes(), state.c.tobytes()) == (alone.h.tobytes(), alone.c.tobytes())
            assert (state.last, state.position, state.seed) == (alone.last, alone.position, alone.seed)
    assert on_the_way > SEQUENCES


def test_states_come_at_least_their_interval_apart(models: dict[str, Model]) -> None:
    model = models["characters"]
    engine, sequence = Engine(model), make(model, 1)
    sequence.max_characters, sequence.state_interval, sequence.marks = 500, 50, ()
    sequence.stops = StopStrings()
    begin = sequence.state_given
    engine.add(sequence)
    positions = [begin]
    while len(engine):
        outputs = engine.step(8, 5000) + engine.collect()
        positions += [output.state.position for output in outputs if output.state]
    gaps = np.diff(positions)
    assert len(gaps) >= 8
    assert (gaps[:-1] >= 50).all()
    assert (gaps <= 50 + 8).all()
