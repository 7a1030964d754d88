"""The engine against itself: what a sequence gets in company is what it gets alone, to the bit."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from charlm_server.engine import Engine
from charlm_server.model import Model
from charlm_server.sampling import Sampling
from charlm_server.self_check import is_reproducible
from charlm_server.sequence import Advance, Finish, Sequence, State, StopStrings
from hypothesis import given, settings
from hypothesis import strategies as st

POISON = 49
SAMPLINGS = (Sampling(), Sampling(0.0), Sampling(0.8, 5), Sampling(1.3, 0, 0.9), Sampling(2.0, 20, 0.95))


@dataclass
class Outcome:
    """All that a sequence gave."""

    written: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    finish: Finish | None = None
    stop: int | None = None
    state: State | None = None

    def take(self, advance: Advance) -> None:
        assert self.finish is None, "an advance after the last"
        self.written += advance.written.tolist()
        self.scores += advance.log_probabilities.tolist()
        self.finish, self.stop, self.state = advance.finish, advance.stop, advance.state

    def bits(self) -> tuple[object, ...]:
        assert self.state is not None
        arrays = (self.state.h.tobytes(), self.state.c.tobytes())
        rest = (self.state.last, self.state.position, self.finish, self.stop)
        return (tuple(self.written), tuple(self.scores), *arrays, *rest)


def make(model: Model, number: int, stops: Iterable[tuple[int, ...]] = ()) -> Sequence:
    """A sequence of its own length, settings and seed, the same for every call."""
    generator = random.Random(number)
    ids = [generator.randrange(len(model.vocabulary)) for _ in range(generator.randrange(1, 60))]
    return Sequence(
        State.after_first(ids[0], model.state_shape, seed=number),
        np.array(ids[1:], dtype=np.int64),
        budget=generator.randrange(1, 60),
        sampling=SAMPLINGS[number % len(SAMPLINGS)],
        stops=StopStrings(tuple(stops)),
        score_forced=number % 2 == 0,
        score_free=number % 3 == 0,
    )


def alone(model: Model, sequence: Sequence, steps: int = 16) -> Outcome:
    engine, outcome = Engine(model, max_running=1), Outcome()
    engine.add(sequence)
    while len(engine):
        for advance in engine.step(steps):
            outcome.take(advance)
    return outcome


@pytest.fixture(scope="module")
def expected(model: Model) -> dict[int, tuple[object, ...]]:
    """What each of twelve sequences gets alone."""
    return {number: alone(model, make(model, number, stops_of(number))).bits() for number in range(12)}


def stops_of(number: int) -> list[tuple[int, ...]]:
    return [(2, 5), (1,)][: number % 3]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_schedule_gives_what_each_sequence_gets_alone(
    model: Model, expected: dict[int, tuple[object, ...]], seed: int
) -> None:
    schedule = random.Random(seed)
    engine = Engine(model, max_running=schedule.randrange(1, 9))
    to_come = {number: make(model, number, stops_of(number)) for number in expected}
    outcomes = {sequence: Outcome() for sequence in to_come.values()}
    numbers = {sequence: number for number, sequence in to_come.items()}
    while to_come or len(engine):
        for number in schedule.sample(sorted(to_come), min(len(to_come), schedule.randrange(4))):
            engine.add(to_come.pop(number))
        for sequence in outcomes:
            if schedule.random() < 0.1:
                engine.pause(sequence)
            elif schedule.random() < 0.5:
                engine.resume(sequence)
        for advance in engine.step(schedule.choice([1, 2, 7, 16, 33])):
            outcomes[advance.sequence].take(advance)
    for sequence, outcome in outcomes.items():
        assert outcome.bits() == expected[numbers[sequence]]


@pytest.mark.parametrize("steps", [1, 3, 16])
def test_a_sequence_cut_anywhere_and_continued_equals_the_uninterrupted_one(model: Model, steps: int) -> None:
    whole = alone(model, replace(make(model, 3), budget=50, score_free=True))
    for cut in range(1, 50):
        first = alone(model, replace(make(model, 3), budget=cut, score_free=True), steps)
        assert first.state is not None
        rest = Sequence(first.state, np.empty(0, dtype=np.int64), 50 - cut, make(model, 3).sampling, score_free=True)
        second = alone(model, rest, steps)
        assert first.written + second.written == whole.written
        assert replace(second, written=whole.written, scores=first.scores + second.scores).bits() == whole.bits()


@pytest.mark.parametrize("steps", [1, 5, 16])
def test_a_stop_string_ends_the_text_at_its_first_completion(model: Model, steps: int) -> None:
    text = alone(model, replace(make(model, 0), budget=60)).written
    stop = tuple(text[20:23])
    first_end = next(i for i in range(3, len(text) + 1) if tuple(text[i - 3 : i]) == stop)
    sequence = replace(make(model, 0), budget=60, stops=StopStrings([(999,), stop]))
    outcome = alone(model, sequence, steps)
    assert outcome.written == text[:first_end]
    assert (outcome.finish, outcome.stop) == (Finish.STOP, 1)
    assert outcome.state is not None
    assert outcome.state.last == stop[-1]


def test_an_aborted_sequence_is_gone_at_once_and_the_others_go_on(model: Model) -> None:
    engine, stays = Engine(model, max_running=2), make(model, 1)
    goes, waits, rests = make(model, 2), make(model, 4), make(model, 5)
    for sequence in (stays, goes, waits, rests):
        engine.add(sequence)
    engine.step(1)
    engine.pause(rests)
    for sequence in (goes, waits, rests):
        engine.abort(sequence)
    assert len(engine) == 1
    assert {advance.sequence for advance in engine.step(1)} == {stays}


def test_draining_ends_every_sequence_with_a_state_that_continues_it(model: Model) -> None:
    engine = Engine(model, max_running=2)
    outcomes = {make(model, number): Outcome() for number in range(4)}
    for sequence in outcomes:
        engine.add(sequence)
    for steps in (1, 4):
        for advance in engine.step(steps):
            outcomes[advance.sequence].take(advance)
    engine.pause(next(iter(outcomes)))
    engine.drain()
    for advance in engine.step(16):
        outcomes[advance.sequence].take(advance)
    assert len(engine) == 0
    assert {outcome.finish for outcome in outcomes.values()} == {Finish.DRAINED}
    for number, (sequence, outcome) in enumerate(outcomes.items()):
        assert outcome.state is not None
        rest = alone(model, replace(sequence, state=outcome.state))
        whole = alone(model, make(model, number))
        assert outcome.written + rest.written == whole.written


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_row_without_finite_logits_ends_by_itself(model: Model, steps: int) -> None:
    class Poisoned:
        """Its logits after one certain character are not numbers."""

        vocabulary, state_shape = model.vocabulary, model.state_shape

        def run(self, tokens: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
            logits, h, c = model.run(tokens, h, c)
            logits[tokens == POISON] = np.nan
            return logits, h, c

    good = replace(make(model, 1), forced=np.array([1, 2]), budget=5, sampling=Sampling(0.0))
    bad = replace(make(model, 6), forced=np.array([1, 2, 3, 4, 5, POISON, 1, 1, 1, 1, 1]), budget=5)
    expected = alone(model, replace(good)).bits()
    engine, outcomes = Engine(Poisoned(), max_running=2), {good: Outcome(), bad: Outcome()}
    engine.add(good)
    engine.add(bad)
    while len(engine):
        for advance in engine.step(steps):
            outcomes[advance.sequence].take(advance)
    assert outcomes[bad].finish is Finish.FAULT
    assert outcomes[bad].written == []
    assert not np.isnan(outcomes[bad].scores).any()
    assert outcomes[good].bits() == expected


def test_the_start_up_check_passes_here_and_notices_a_model_that_mixes_rows(model: Model) -> None:
    assert is_reproducible(model)

    class Mixing:
        """Each row feels, faintly, how many others there are."""

        vocabulary, state_shape = model.vocabulary, model.state_shape

        def run(self, tokens: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
            logits, h, c = model.run(tokens, h, c)
            return logits, h, c + np.float32(1e-6) * np.float32(len(tokens) > 1)

    assert not is_reproducible(Mixing())
