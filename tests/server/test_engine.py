"""The engine against itself: what a sequence gets in company is what it gets alone, to the bit."""

import codecs
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from charlm_server.engine import Engine
from charlm_server.model import Model
from charlm_server.random_numbers import uniforms
from charlm_server.sampling import Sampling, SamplingRows, choose, log_probabilities
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
    text = "".join(generator.choices("the cats é你𝄞€", k=generator.randrange(1, 60)))
    ids = model.vocabulary.encode(text)
    return Sequence(
        State.after_first(int(ids[0]), model.state_shape, seed=number),
        ids[1:],
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


@pytest.fixture(scope="module", params=["characters", "bytes", "lines", "byte-lines"])
def kind(kinds_loaded: dict[str, Model], request: pytest.FixtureRequest) -> Model:
    """A model of each kind."""
    return kinds_loaded[request.param]


@pytest.fixture(scope="module")
def expected(kind: Model) -> dict[int, tuple[object, ...]]:
    """What each of twelve sequences gets alone."""
    return {number: alone(kind, make(kind, number, stops_of(kind, number))).bits() for number in range(12)}


def stops_of(model: Model, number: int) -> list[tuple[int, ...]]:
    return [tuple(model.vocabulary.encode(stop).tolist()) for stop in ["a", "é", "'"][: number % 4]]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_any_schedule_gives_what_each_sequence_gets_alone(
    kind: Model, expected: dict[int, tuple[object, ...]], seed: int
) -> None:
    schedule = random.Random(seed)
    engine = Engine(kind, max_running=schedule.randrange(1, 9))
    to_come = {number: make(kind, number, stops_of(kind, number)) for number in expected}
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
            assert kind.symbols.may_end[advance.state.last], "a state within a character"
            assert "\ufffd" not in kind.vocabulary.decode(advance.written)
    for sequence, outcome in outcomes.items():
        assert outcome.bits() == expected[numbers[sequence]]


def plainly(model: Model, sequence: Sequence) -> tuple[bytes, list[float]]:
    """The bytes that a sequence writes and the log-probability of each character, one row and one byte at a time.

    Python's decoder says which bytes may come.
    """
    h, c = (part[:, np.newaxis] for part in (sequence.state.h, sequence.state.c))
    symbols, written, scores = [sequence.state.last, *sequence.forced.tolist()], bytearray(), [0.0]
    decoder = codecs.getincrementaldecoder("utf-8")()
    at, characters = 0, 0
    while characters < sequence.budget:
        logits, h, c = model.run(np.array([[symbols[at]]]), h, c)
        at += 1
        if at < len(symbols):
            continue
        barred = np.array([[-np.inf, *(0 if takes(decoder, byte) else -np.inf for byte in range(256))]], np.float32)
        uniform = uniforms(
            np.array([sequence.state.seed], np.uint64), np.array([sequence.state.position + at - 1], np.uint64)
        )
        chosen = choose(logits[0], barred, SamplingRows([sequence.sampling]), uniform)
        scores[-1] += float(log_probabilities(logits[0], chosen)[0])
        symbols.append(int(chosen[0]))
        written.append(symbols[-1] - 1)
        if decoder.decode(bytes(written[-1:])):
            characters += 1
            scores.append(0.0)
    return bytes(written), scores[:-1]


def takes(decoder: codecs.IncrementalDecoder, byte: int) -> bool:
    before = decoder.getstate()
    try:
        decoder.decode(bytes([byte]))
    except UnicodeDecodeError:
        return False
    finally:
        decoder.setstate(before)
    return True


@pytest.mark.parametrize("number", range(5))
def test_bytes_are_those_of_a_plain_loop_that_asks_python_which_may_come(
    kinds_loaded: dict[str, Model], number: int
) -> None:
    model = kinds_loaded["bytes"]
    sequence = replace(make(model, number), budget=30, score_forced=False, score_free=True)
    written, scores = plainly(model, sequence)
    assert len(written.decode()) == 30
    assert len(written) > 35, "the model writes nothing but ASCII"
    for steps in (1, 2, 3, 16):
        outcome = alone(model, replace(sequence), steps)
        assert bytes(symbol - 1 for symbol in outcome.written) == written
        assert outcome.scores == scores


@pytest.mark.parametrize("name", ["characters", "bytes"])
@pytest.mark.parametrize("steps", [1, 3, 16])
def test_a_sequence_cut_anywhere_and_continued_equals_the_uninterrupted_one(
    kinds_loaded: dict[str, Model], name: str, steps: int
) -> None:
    model = kinds_loaded[name]
    whole = alone(model, replace(make(model, 3), budget=30, score_free=True))
    for cut in range(1, 30, 4):  # every remainder by the lengths of a tick
        first = alone(model, replace(make(model, 3), budget=cut, score_free=True), steps)
        assert first.state is not None
        rest = Sequence(first.state, np.empty(0, dtype=np.int64), 30 - cut, make(model, 3).sampling, score_free=True)
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

        symbols, state_shape = model.symbols, model.state_shape

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


def test_the_start_up_check_passes_here(model: Model) -> None:
    assert is_reproducible(model)


def test_the_start_up_check_notices_a_model_that_mixes_rows(model: Model) -> None:
    class Mixing:
        """Each row feels, faintly, how many others there are."""

        vocabulary, manifest, symbols, state_shape = model.vocabulary, model.manifest, model.symbols, model.state_shape

        def run(self, tokens: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
            logits, h, c = model.run(tokens, h, c)
            return logits, h, c + np.float32(1e-6) * np.float32(len(tokens) > 1)

    assert not is_reproducible(Mixing())
