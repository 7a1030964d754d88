"""The engine against itself: what a sequence gets in company is what it gets alone, to the bit.

`differences` is the check. Further down it is run on engines with a seeded defect each, which it must notice.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from segue_export.artifact import read_artifact
from segue_server.engine import decode_batch as module
from segue_server.engine import decode_rows
from segue_server.engine.decode_batch import MOST_GATHERED, DecodeBatch
from segue_server.engine.decode_rows import DecodeRows
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.prefill_batch import PrefillBatch
from segue_server.engine.runners import bound_session, device_runner
from segue_server.engine.runners.accelerator import SimulatedAccelerator
from segue_server.engine.runners.arrays import STEP_ROWS
from segue_server.engine.runners.pools import Pools
from segue_server.engine.runners.runner import Reading, ReadResult, Rows, WriteResult, Writing
from segue_server.engine.runners.settings import DeviceSettings
from segue_server.engine.sampling import Sampling
from segue_server.engine.scores import Alternatives, joined_alternatives
from segue_server.engine.sequence import (
    Finish,
    Sequence,
    State,
    Status,
    StepOutput,
    StopStrings,
)
from segue_server.runtime.self_check import check

KINDS = (
    *("characters", "int8", "bytes", "lines", "byte-lines", "gru", "gru-reset-before", "rnn"),
    *("characters on a device", "byte-lines on a device", "gru on a device"),
)
ON_A_DEVICE = "characters on a device"
SAMPLINGS = (
    Sampling(),
    Sampling(0.0),
    Sampling(0.8, top_k=5),
    Sampling(1.3, top_p=0.9),
    Sampling(1.5, min_p=0.05),
    Sampling(2.0, 20, 0.95, 0.01),
    Sampling(0.0, top_k=3),
)
OrtError = (Fail, InvalidArgument, RuntimeException, RuntimeError)
SEQUENCES = 14
VICTIMS = range(50, 58)
"""The numbers of sequences that are aborted sooner or later."""
TICKS = 3000
"""Far more than any schedule here needs."""


@dataclass
class Outcome:
    """All that a sequence gave."""

    start: int
    """The position at which it begins to write."""
    written: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)
    finish: Finish | None = None
    stop: int | None = None
    state: State | None = None
    consistent: bool = True
    """Whether each advance said how far the text is, and so did the state."""

    @classmethod
    def of(cls, sequence: Sequence) -> "Outcome":
        return cls(sequence.state.position + len(sequence.prefill_ids))

    def take(self, output: StepOutput) -> None:
        assert self.finish is None, "an output after the last"
        self.written += output.written.tolist()
        self.scores += output.log_probabilities.tolist()
        if output.alternatives is not None:
            self.alternatives.append(output.alternatives)
        self.consistent &= output.position == self.start + len(self.written) or not self.written
        self.finish, self.stop, self.state = output.finish, output.stop, output.state
        self.consistent &= output.state is None or output.state.position == output.position

    def bits(self) -> str:
        """A digest of all of it: the same for the same bits."""
        assert self.state is not None
        likeliest = joined_alternatives(self.alternatives)
        everything = (
            self.written,
            self.scores,
            (likeliest.ids.tolist(), likeliest.log_probabilities.tolist()) if likeliest else None,
            (self.state.h.tobytes(), self.state.c.tobytes()),
            (self.state.last, self.state.position, self.state.seed, self.finish, self.stop),
        )
        return hashlib.sha256(repr(everything).encode()).hexdigest()


def make(model: Model, number: int, **fields: Any) -> Sequence:
    """A sequence of its own length, settings and seed, the same for every call.

    One in five only reads; where a symbol ends documents, its text ends with that.
    """
    generator = random.Random(number)
    reads = number % 5 == 4
    end = "\n" if reads and model.symbols.end is not None else ""
    text = "".join(generator.choices("the cats é你𝄞€", k=generator.randrange(1, 60))) + end
    ids = model.vocabulary.encode(text)
    stops = [tuple(model.vocabulary.encode(stop).tolist()) for stop in ["t ", "a", "é"][: number % 4]]
    likelier = model.vocabulary.encode("\n at").tolist() if number % 3 else []
    bias = (*((symbol, 2.5) for symbol in likelier), *[(40, -np.inf)] * (number % 2))
    usual = {
        "state": State.after_first(int(ids[0]), model.state_shape, seed=number),
        "prefill_ids": ids[1:],
        "max_characters": 0 if reads and len(ids) > 1 else generator.randrange(1, 90),
        "sampling": replace(SAMPLINGS[number % len(SAMPLINGS)], bias=bias),
        "stops": StopStrings(stops),
        "score_prefill": number % 2 == 0,
        "score_decode": number % 3 == 0,
        "alternatives": (number % 4 == 1) * (1 + number // 3) if model.symbols.single else 0,
    }
    return Sequence(**(usual | fields))


def alone(model: Model, sequence: Sequence, steps: int = 32, work: int = 2**20) -> Outcome:
    engine, outcome = Engine(model, rows=1), Outcome.of(sequence)
    engine.add(sequence)
    run(engine, {sequence: outcome}, steps, work)
    return outcome


def run(engine: Engine, outcomes: dict[Sequence, Outcome], steps: int, work: int = 2**20) -> None:
    """Run until nobody is left."""
    for _ in range(TICKS):
        take(outcomes, engine.step(steps, work))
        take(outcomes, engine.collect())
        if not len(engine):
            return
    raise AssertionError("the engine does not come to an end")


def take(outcomes: dict[Sequence, Outcome], outputs: list[StepOutput]) -> None:
    for output in outputs:
        outcomes[output.sequence].take(output)


def go_on(model: Model, sequence: Sequence, state: State, **fields: Any) -> Sequence:
    """What `sequence` still has to do, from `state` on."""
    left = {name: getattr(sequence, name) for name in ("prefill_ids", "max_characters", "stops")}
    return make(model, state.seed, state=state, **(left | fields))


@pytest.fixture(autouse=True)
def draws_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device, random numbers are drawn ahead even for one row."""
    monkeypatch.setattr(module, "_WORTH_DRAWING", 1)


@pytest.fixture(scope="module", params=KINDS)
def kind(models: dict[str, Model], request: pytest.FixtureRequest) -> Model:
    return models[request.param]


@pytest.fixture(scope="module")
def expected(kind: Model) -> list[str]:
    return all_alone(kind)


def all_alone(model: Model) -> list[str]:
    return [alone(model, make(model, number)).bits() for number in range(SEQUENCES)]


@dataclass
class Events:
    """How often something happened that the check is there for."""

    splits: int = 0
    """A decode batch was divided into parts, one of which has several rows."""
    moves: int = 0
    """Rows of one decode batch were taken over by another."""
    drains: int = 0
    ends: int = 0
    """Sequences that were ended before a drain, ..."""
    ends_paused: int = 0
    """... while they were paused, ..."""
    ends_just_paused: int = 0
    """... with output from before the pause to come, ..."""
    ends_within: int = 0
    """... or inside a character."""

    def watched(self) -> ExitStack:
        """Count what decode batches do, until the end of the block."""
        split, absorb, stack = DecodeBatch.split, DecodeBatch.absorb, ExitStack()

        def counted_split(batch: DecodeBatch, taken: Any) -> Any:
            part, rest = split(batch, taken)
            self.splits += part is not None and rest is not None and max(len(part), len(rest)) > 1
            return part, rest

        def counted_absorb(batch: DecodeBatch, other: DecodeBatch) -> None:
            self.moves += 1
            absorb(batch, other)

        stack.enter_context(patch.object(DecodeBatch, "split", counted_split))
        stack.enter_context(patch.object(DecodeBatch, "absorb", counted_absorb))
        return stack


class Schedule:
    """A random order of events for sequences of several tenants, drawn from a seed.

    A sequence that is ended goes on at once, or later, from the state that it gave.
    """

    def __init__(self, model: Model, seed: int) -> None:
        self.random = random.Random(seed)
        self.events = Events()
        self.outputs: list[tuple[int, StepOutput]] = []
        """With the numbers of their sequences."""
        self._model = model
        self._rows = self.random.choice([1, 2, 3, 4, 4, 11])
        self._tenants = self.random.choice([1, 2, 3, 3, 5])
        self._pauses = self.random.choice([0.1, 0.01])
        self._steps = self.random.choice([(1, 2, 7, 16, 33, 64), (1, 2, 3), (1, 2)])
        self._most_joining = self.random.choice([4, 12])
        self._engine = Engine(model, self._rows)
        self._numbers = {self._of_a_tenant(make(model, number)): number for number in range(SEQUENCES)}
        for number in VICTIMS:
            self._numbers[self._of_a_tenant(make(model, number, max_characters=200, stops=StopStrings()))] = number
        self.outcomes = {number: Outcome.of(sequence) for sequence, number in self._numbers.items()}
        self._to_come = list(self._numbers)
        self.random.shuffle(self._to_come)
        self._inside = list[Sequence]()
        """The engine's, some of which may have ended."""

    def run(self) -> None:
        """Run until nobody is left."""
        for _ in range(TICKS):
            self._join()
            self._interfere()
            self._tick()
            if not (self._to_come or len(self._engine)):
                break
        assert (self._engine.idle, self._engine.collect()) == (True, [])

    def _of_a_tenant(self, sequence: Sequence) -> Sequence:
        """Most belong to one tenant, so that they get fewer turns each than the others'."""
        sequence.tenant = str(min(self.random.randrange(self._tenants) for _ in range(2)))
        return sequence

    def _join(self) -> None:
        joining = min(len(self._to_come), self.random.randrange(self._most_joining))
        for sequence in [self._to_come.pop() for _ in range(joining)]:
            self._engine.add(sequence)
            self._inside.append(sequence)

    def _interfere(self) -> None:
        interfere(self._engine, self.random, self._inside, pauses=self._pauses)
        for sequence in self._inside:
            if self.random.random() < (0.1 if sequence.status is Status.PAUSED else 0.01):
                self._end(sequence)
        for sequence in [each for each in self._inside if self._numbers[each] in VICTIMS]:
            if self.random.random() < 0.01:
                self._engine.abort(sequence)
                self._inside.remove(sequence)
                self.outcomes.pop(self._numbers[sequence])  # so that an output of it is an error
        if self.random.random() < 0.01:
            self._engine.drain()
            self.events.drains += 1

    def _end(self, sequence: Sequence) -> None:
        if self.random.random() < 0.3:
            self._engine.pause(sequence)
        paused = sequence.status is Status.PAUSED
        if sequence.status is not Status.FINISHED:
            self.events.ends += 1
            self.events.ends_paused += paused
            self.events.ends_just_paused += paused and sequence in self._engine._just_paused
            self.events.ends_within += sequence.unfinished > 0
        self._engine.end(sequence)
        assert sequence.status is Status.FINISHED or not self._engine.idle
        interfere(self._engine, self.random, [sequence])

    def _tick(self) -> None:
        reads = self.random.choice([1, 60, 400, 5000]) * self._engine.capacity.step_rows // STEP_ROWS
        outputs = self._engine.step(self.random.choice(self._steps), reads)
        if self.random.random() < 0.4:
            outputs += self._engine.collect()
        for output in outputs:
            self._take(output)
        if self._engine._draining and not len(self._engine):
            assert self._engine.idle
            self._engine = Engine(self._model, self._rows)

    def _take(self, output: StepOutput) -> None:
        number = self._numbers[output.sequence]
        outcome = self.outcomes[number]
        outcome.take(output)
        self.outputs.append((number, output))
        if output.finish is Finish.DRAINED:
            assert output.state is not None
            outcome.finish = None
            rest = self._of_a_tenant(go_on(self._model, output.sequence, output.state))
            self._numbers[rest] = number
            self._to_come.insert(self.random.randrange(len(self._to_come) + 1), rest)
        if output.finish is not None:
            self._inside.remove(output.sequence)


def differences(model: Model, expected: list[str], seed: int, events: Events | None = None) -> set[int]:
    """Run all sequences by a random schedule; return the numbers of those that do not get what they get alone.

    Or that get what must not be: a part of a character, or a document's end that is no beginning.
    """
    schedule = Schedule(model, seed)
    schedule.events = events or schedule.events
    with schedule.events.watched():
        schedule.run()
    outcomes = schedule.outcomes
    return {
        number
        for number in range(SEQUENCES)
        if outcomes[number].bits() != expected[number]
        or not outcomes[number].consistent
        or not _as_it_must_end(model, outcomes[number])
    } | {number for number, output in schedule.outputs if not _whole(model, output)}


def interfere(engine: Engine, schedule: random.Random, sequences: list[Sequence], pauses: float = 0.1) -> None:
    """Pause some of the sequences, and let others go on."""
    for sequence in sequences:
        if schedule.random() < pauses:
            engine.pause(sequence)
        elif schedule.random() < 0.5:
            engine.resume(sequence)


def _whole(model: Model, output: StepOutput) -> bool:
    """Whether it ends with a character, and is text. What was given may begin within one."""
    text = model.vocabulary.decode(output.written)
    state = output.state
    return "\ufffd" not in text and (state is None or state.position == 1 or bool(model.symbols.may_end[state.last]))


def _as_it_must_end(model: Model, outcome: Outcome) -> bool:
    """Whether the end of a document, and nothing else, leads to the zero state."""
    assert outcome.state is not None
    zero = not (outcome.state.h.any() or outcome.state.c.any())
    return zero == (outcome.state.last == model.symbols.end)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8)
def test_any_schedule_gives_what_each_sequence_gets_alone(kind: Model, expected: list[str], seed: int) -> None:
    assert not differences(kind, expected, seed)


@pytest.mark.parametrize("name", ["lines", "byte-lines"])
def test_the_sequences_of_the_check_end_in_every_way(models: dict[str, Model], name: str) -> None:
    """Or the check would be less than it looks."""
    finishes = [alone(models[name], make(models[name], number)).finish for number in range(SEQUENCES)]
    assert all(finishes.count(finish) > 1 for finish in (Finish.LENGTH, Finish.STOP, Finish.END)), finishes


@pytest.mark.parametrize("name", ["characters", "byte-lines"])
def test_the_schedules_of_the_check_have_everything_happen_often(models: dict[str, Model], name: str) -> None:
    """Or the check would be less than it looks."""
    model, events = models[name], Events()
    expected = all_alone(model)
    for seed in range(12):
        assert not differences(model, expected, seed, events)
    assert min(events.splits, events.moves) > 50, events
    assert min(events.ends, events.ends_paused, 5 * events.ends_just_paused, 10 * events.drains) > 20, events
    assert events.ends_within > 5 or model.symbols.single, events


def test_a_text_to_score_is_read_alike_whatever_is_read_beside_it(models: dict[str, Model]) -> None:
    """More texts than one run takes, of very different lengths, some paused in between."""
    model = models["characters"]
    texts = [np.arange(1 + 7 * i % 300) * (i + 1) % 50 for i in range(200)]
    found = {make(model, 4, prefill_ids=text, max_characters=0, score_prefill=True): text for text in texts}
    outcomes, engine = {sequence: Outcome.of(sequence) for sequence in found}, Engine(model)
    for sequence in found:
        engine.add(sequence)
    for sequence in list(found)[::9]:
        engine.pause(sequence)
    take(outcomes, engine.step(1, 3000))
    for sequence in list(found)[::9]:
        engine.resume(sequence)
    run(engine, outcomes, steps=1, work=3000)
    for sequence, text in list(found.items())[::17]:
        again = alone(model, make(model, 4, prefill_ids=text, max_characters=0, score_prefill=True), work=50)
        assert outcomes[sequence].bits() == again.bits()
        assert len(again.scores) == len(text)


# --- Seeded defects: does the check see what it is there for?


class Defective:
    """A model with something wrong about it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def changed(
    model: Model, rows: Rows, h: Callable[[Any], Any] = lambda h: h, c: Callable[[Any], Any] = lambda c: c
) -> Rows:
    """Rows whose states are others."""
    h_LBH, c_LBH = model.gather(rows)
    return model.scatter(h(h_LBH), c(c_LBH))


class WritesInCompany(Defective):
    """A row that writes feels, faintly, that there are others."""

    def write(self, rows: Rows, writing: Writing) -> WriteResult:
        written = self._model.write(rows, writing)
        feeling = np.float32(1e-6) * (len(rows) > 1)
        return replace(written, rows=changed(self._model, written.rows, c=lambda c: c + feeling))


class ReadsInCompany(Defective):
    """A row that reads feels it."""

    def read(self, rows: Rows, reading: Reading) -> ReadResult:
        result = self._model.read(rows, reading)
        feeling = np.float32(1e-6) * (len(rows) > 1)
        return replace(result, rows=changed(self._model, result.rows, c=lambda c: c + feeling))


class ScoresInCompany(Defective):
    """Only the log-probabilities feel it."""

    def write(self, rows: Rows, writing: Writing) -> WriteResult:
        written = self._model.write(rows, writing)
        scores = written.log_probabilities_KB
        feeling = np.float32(1e-6) * (len(rows) > 1)
        return replace(written, log_probabilities_KB=None if scores is None else scores - feeling)


class RoundsAtTheEndOfARun(Defective):
    """What comes of K steps depends on how they are divided."""

    def write(self, rows: Rows, writing: Writing) -> WriteResult:
        written = self._model.write(rows, writing)
        rounded = changed(self._model, written.rows, h=lambda h: h.astype(np.float16).astype(np.float32))
        return replace(written, rows=rounded)


def keeps_the_row_above(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = DecodeRows.keep
    monkeypatch.setattr(DecodeRows, "keep", lambda rows, kept: keep(rows, np.roll(kept, 1)))


def keeps_the_sampling_of_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = module.SamplingRows.keep
    monkeypatch.setattr(module.SamplingRows, "keep", lambda rows, kept: keep(rows, np.arange(len(kept))))


def forgets_to_give_states_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(group: DecodeBatch, leaving: list[Sequence]) -> None:
        before = [sequence.state for sequence in leaving]
        sound(group, leaving)
        for sequence, state in zip(leaving, before, strict=True):
            sequence.state = replace(state, position=sequence.state.position, last=sequence.state.last)

    sound = DecodeBatch.leave
    monkeypatch.setattr(DecodeBatch, "leave", leave)


def forgets_the_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(group: DecodeBatch, leaving: list[Sequence]) -> None:
        sound(group, leaving)
        for sequence in leaving:
            sequence.spelling = 0

    sound = DecodeBatch.leave
    monkeypatch.setattr(DecodeBatch, "leave", leave)


def goes_on_after_a_document_that_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_states(group: DecodeBatch, written: WriteResult, ends: Any) -> dict[int, State]:
        states = sound(group, written, ends)
        ended = {row for row, finish in ends.finish.items() if finish is Finish.END}
        h_LBH, _ = group._model.gather(written.rows)
        return states | {row: replace(states[row], h=h_LBH[:, row]) for row in ended}

    sound = DecodeBatch._last_states
    monkeypatch.setattr(DecodeBatch, "_last_states", last_states)


def goes_on_after_a_document_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(group: PrefillBatch, sequence: Sequence, h: Any, c: Any, length: int) -> None:
        sound(group, sequence, h, c, length)
        sequence.state = replace(sequence.state, h=h, c=c)

    sound = PrefillBatch._advance
    monkeypatch.setattr(PrefillBatch, "_advance", advance)


def draws_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_row(seeds: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
        return sound(np.arange(len(seeds), dtype=np.uint64), starts, count)

    sound = decode_rows.uniforms
    monkeypatch.setattr(decode_rows, "uniforms", by_row)


def draws_by_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_the_start(group: DecodeBatch, steps: int) -> Any:
        group._rows.drawn_from_B = group._rows.position_B.copy()
        return sound(group, steps)

    sound = DecodeBatch._uniforms
    monkeypatch.setattr(DecodeBatch, "_uniforms", at_the_start)


def draws_ahead_for_this_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn while a device has work belongs to the tick that it has in work."""

    @contextmanager
    def drawing_ahead(group: DecodeBatch) -> Iterator[None]:
        with sound(group):
            yield
        if group._model.capacity.on_device:
            group._rows.uniform_BP = np.roll(group._rows.uniform_BP, group._steps, axis=1)

    sound = DecodeBatch._drawing_ahead
    monkeypatch.setattr(DecodeBatch, "_drawing_ahead", drawing_ahead)


def splits_wrongly(spoil: Callable[[DecodeBatch, DecodeBatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A batch that is divided spoils its part, or the rest."""

    def defect(monkeypatch: pytest.MonkeyPatch) -> None:
        def split(batch: DecodeBatch, taken: Any) -> Any:
            part, rest = sound(batch, taken)
            if part and rest:
                spoil(part, rest)
            return part, rest

        sound = DecodeBatch.split
        monkeypatch.setattr(DecodeBatch, "split", split)

    return defect


def mixes(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A part's rows get each other's values."""

    def spoil(part: DecodeBatch, _: DecodeBatch) -> None:
        for name in names:
            setattr(part._rows, name, np.roll(getattr(part._rows, name), 1, axis=0))

    return splits_wrongly(spoil)


def reverses_the_part(part: DecodeBatch, _: DecodeBatch) -> None:
    part.sequences.reverse()


def reverses_the_rest(_: DecodeBatch, rest: DecodeBatch) -> None:
    rest.sequences.reverse()


def takes_the_sampling_of_the_rest(part: DecodeBatch, rest: DecodeBatch) -> None:
    part._sampling = copy(rest._sampling)
    part._sampling.keep(np.arange(len(part)) % len(rest))


def keeps_old_states(part: DecodeBatch, _: DecodeBatch) -> None:
    old = np.stack([sequence.state.h for sequence in part.sequences], axis=1)
    part._rows.states = changed(part._model, part._rows.states, h=lambda _: old)


def absorbs_rows_of_a_wrong_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def absorb(batch: DecodeBatch, other: DecodeBatch) -> None:
        wrong = batch._rows.states.take(np.arange(len(other)) % len(batch))
        c_LBH = batch._model.gather(wrong)[1]
        other._rows.states = changed(batch._model, other._rows.states, c=lambda _: c_LBH)
        sound(batch, other)

    sound = DecodeBatch.absorb
    monkeypatch.setattr(DecodeBatch, "absorb", absorb)


def ends_without_the_output_before_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(engine: Engine, sequence: Sequence) -> None:
        if any(sequence is other for other in engine._just_paused):
            sequence.decoded_ids = []
        sound(engine, sequence)

    sound = Engine.end
    monkeypatch.setattr(Engine, "end", end)


def ends_inside_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    def drained(engine: Engine, sequences: list[Sequence]) -> list[StepOutput]:
        for sequence in sequences:
            sequence.unfinished = 0
        return sound(engine, sequences)

    sound = Engine._drained
    monkeypatch.setattr(Engine, "_drained", drained)


def in_runs(spoil: Callable[[dict[str, Any], int], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Runs on a device get spoilt inputs: (inputs, rows) -> None."""

    def defect(monkeypatch: pytest.MonkeyPatch) -> None:
        def run(binding: Any, feed: dict[str, Any], rows: int) -> Any:
            feed = dict(feed)
            spoil(feed, rows)
            return sound(binding, feed, rows)

        sound = bound_session._Binding.run
        monkeypatch.setattr(bound_session._Binding, "run", run)

    return defect


def gathers_the_row_above(feed: dict[str, Any], _: int) -> None:
    if "before" in feed:
        feed["before"] = np.roll(feed["before"], 1)


def scatters_to_the_row_below(feed: dict[str, Any], _: int) -> None:
    if "uniform" in feed:
        feed["after"] = np.roll(feed["after"], -1)


def forgets_to_upload(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A run reads what was copied to the device for an earlier one."""

    def defect(monkeypatch: pytest.MonkeyPatch) -> None:
        def upload(device: Any, buffers: Any) -> None:
            sound(device, [buffer for buffer in buffers if id(buffer) not in stale])

        def run(binding: Any, feed: dict[str, Any], rows: int) -> Any:
            found = sound_run(binding, feed, rows)
            stale.update(id(bound.buffer) for each, bound in binding._inputs.items() if each == name)
            return found

        stale = set[int]()
        sound, sound_run = SimulatedAccelerator.upload, bound_session._Binding.run
        monkeypatch.setattr(SimulatedAccelerator, "upload", upload)
        monkeypatch.setattr(bound_session._Binding, "run", run)

    return defect


def forgets_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = SimulatedAccelerator.download
    monkeypatch.setattr(SimulatedAccelerator, "download", lambda device, buffers: sound(device, buffers[1:]))


def advances_while_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes the slots that it reads: recorded, it takes its steps several times."""
    monkeypatch.setattr(device_runner, "_elsewhere", lambda before, _: before)


def fills_up_with_rows_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that fill a batch up write a slot that somebody may have."""
    monkeypatch.setattr(bound_session, "PADDING_SLOT", 3)


def frees_slots_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_back(pools: Pools, slots_B: Any) -> None:
        pools._holders_S[slots_B] = np.minimum(pools._holders_S[slots_B], 1)
        sound(pools, slots_B)

    sound = Pools.give_back
    monkeypatch.setattr(Pools, "give_back", give_back)


def keeps_old_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools that have grown have moved, and what was recorded before does not know."""
    sound = Pools._grow

    def grow(pools: Pools, least: int) -> None:
        sound(pools, least)
        pools.generation = 0

    monkeypatch.setattr(Pools, "_grow", grow)


DEFECTS: dict[str, tuple[str, type[Defective] | Callable[[pytest.MonkeyPatch], None], bool]] = {
    # kind of model, defect, whether the start-up check sees it as well
    "rows mixed up": ("characters", keeps_the_row_above, True),
    "settings mixed up": ("characters", keeps_the_sampling_of_the_first_rows, True),
    "state not given back": ("gru", forgets_to_give_states_back, False),
    "spelling not given back": ("bytes", forgets_the_spelling, False),
    "written document not ended": ("lines", goes_on_after_a_document_that_was_written, True),
    "read document not ended": ("byte-lines", goes_on_after_a_document_that_was_read, False),
    "noise by row": ("characters", draws_by_row, True),
    "noise by tick": ("characters", draws_by_tick, True),
    "company while writing": ("int8", WritesInCompany, True),
    "company while reading": ("characters", ReadsInCompany, True),
    "company in the scores": ("characters", ScoresInCompany, True),
    "ticks that round": ("rnn", RoundsAtTheEndOfARun, True),
    "part against its rows": ("characters", splits_wrongly(reverses_the_part), False),
    "rest against its rows": ("bytes", splits_wrongly(reverses_the_rest), False),
    "settings not divided": ("characters", splits_wrongly(takes_the_sampling_of_the_rest), False),
    "states of before": ("gru", splits_wrongly(keeps_old_states), False),
    "rows of a wrong batch": ("lines", absorbs_rows_of_a_wrong_batch, True),
    "noise not moved": ("int8", mixes("uniform_BP"), False),
    "beginnings of the noise not moved": ("characters", mixes("drawn_from_B"), False),
    "lengths mixed up": ("characters", mixes("left_B"), False),
    "stop strings mixed up": ("lines", mixes("stopping_B"), False),
    "scores mixed up": ("characters", mixes("scored_B"), False),
    "positions mixed up": ("characters", mixes("position_B"), False),
    "spelling mixed up": ("byte-lines", mixes("spelling_B"), False),
    "output before a pause lost at the end": ("characters", ends_without_the_output_before_the_pause, False),
    "end inside a character": ("bytes", ends_inside_a_character, False),
    "wrong row gathered": (ON_A_DEVICE, in_runs(gathers_the_row_above), True),
    "wrong row scattered": (ON_A_DEVICE, in_runs(scatters_to_the_row_below), True),
    "stale slots": (ON_A_DEVICE, forgets_to_upload("before"), True),
    "stale symbols": (ON_A_DEVICE, forgets_to_upload("token"), True),
    "stale noise": (ON_A_DEVICE, forgets_to_upload("uniform"), True),
    "stale settings": (ON_A_DEVICE, forgets_to_upload("inverse_temperature"), True),
    "stale texts": (ON_A_DEVICE, forgets_to_upload("tokens"), True),
    "stale lengths": (ON_A_DEVICE, forgets_to_upload("length"), True),
    "results not copied": (ON_A_DEVICE, forgets_to_download, True),
    "state advanced while recording": (ON_A_DEVICE, advances_while_it_is_recorded, True),
    "filled up with somebody's rows": (ON_A_DEVICE, fills_up_with_rows_of_others, True),
    "slots free too early": (ON_A_DEVICE, frees_slots_too_early, True),
    "wrong noise drawn ahead": (ON_A_DEVICE, draws_ahead_for_this_tick, True),
    "old addresses": (ON_A_DEVICE, keeps_old_addresses, False),
}


@pytest.fixture(params=DEFECTS)
def defective(
    models: dict[str, Model], kinds_folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Model, bool]:
    """A model that runs with a defect, and whether the start-up check must see that."""
    name, defect, seen_at_start = DEFECTS[request.param]
    if isinstance(defect, type):
        return defect(models[name]), seen_at_start
    model = models[name]
    if name == ON_A_DEVICE:  # anew: what a defect does to pools and buffers stays
        model = Model(
            read_artifact(kinds_folder / "characters" / "1"), settings=DeviceSettings((1, 4, 8), simulated=True)
        )
    defect(monkeypatch)
    return model, seen_at_start


def test_the_check_above_notices_a_seeded_defect(defective: tuple[Model, bool]) -> None:
    """In what sequences get in company; a defect that shows even where each is alone, too."""
    model, _ = defective
    assert _breaks(lambda: all_alone(model)) or any(
        _breaks(partial(differences, model, all_alone(model), seed)) for seed in range(24)
    )


def _breaks(check: Callable[[], object]) -> bool:
    """Whether it finds something, or what was mixed up does not even fit together."""
    try:
        found = check()
    except (AssertionError, IndexError, ValueError, *OrtError):
        return True
    return bool(found) if isinstance(found, set) else False


def test_the_start_up_check_notices_a_seeded_defect(defective: tuple[Model, bool]) -> None:
    model, seen_at_start = defective
    try:
        found = check(model).reproducible
    except OrtError:
        found = False
    assert found is not seen_at_start


def test_the_start_up_check_passes_here(models: dict[str, Model]) -> None:
    assert check(models["int8"]).reproducible
    assert check(models["byte-lines"]).reproducible


# --- Parts of a sequence


@pytest.mark.parametrize("name", ["characters", "bytes", "int8", "gru-reset-before"])
@pytest.mark.parametrize("steps", [1, 5, 64])
def test_a_sequence_cut_anywhere_and_continued_equals_the_uninterrupted_one(
    models: dict[str, Model], name: str, steps: int
) -> None:
    model = models[name]
    for number in (3, 7):
        fields = {"max_characters": 40, "stops": StopStrings(), "score_decode": True}
        whole = alone(model, make(model, number, **fields))
        for cut in range(1, 40, 8):
            first = alone(model, make(model, number, **(fields | {"max_characters": cut})), steps)
            assert first.state is not None
            rest = go_on(
                model, make(model, number, **fields), first.state, prefill_ids=nothing(), max_characters=40 - cut
            )
            second = alone(model, replace(rest, score_decode=True), steps)
            assert first.written + second.written == whole.written
            assert first.scores + second.scores == whole.scores
            assert replace(second, written=[], scores=[], alternatives=[]).bits() == (
                replace(whole, written=[], scores=[], alternatives=[]).bits()
            )


def nothing() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@pytest.mark.parametrize("name", ["characters", "byte-lines"])
def test_without_a_state_the_text_is_the_same(models: dict[str, Model], name: str) -> None:
    model = models[name]
    for number in range(SEQUENCES):
        kept, spared = (alone(model, make(model, number, keep_state=keep), steps=7) for keep in (True, False))
        assert (kept.written, kept.scores, kept.finish, kept.stop) == (
            spared.written,
            spared.scores,
            spared.finish,
            spared.stop,
        )


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", ["characters", "bytes", "lines"])
@pytest.mark.parametrize("seed", range(4))
def test_draining_ends_every_sequence_with_a_state_that_continues_it(
    models: dict[str, Model], name: str, seed: int, at_once: bool
) -> None:
    """Whether it waits to begin, reads, writes, stands within a character, or is paused."""
    model, schedule = models[name], random.Random(seed)
    engine = Engine(model, rows=5)
    outcomes = {make(model, number): Outcome.of(make(model, number)) for number in range(SEQUENCES)}
    for sequence in list(outcomes)[:10]:
        engine.add(sequence)
    for _ in range(seed * 3):
        interfere(engine, schedule, list(outcomes)[:10])
        take(outcomes, engine.step(schedule.choice([1, 2, 5]), 300))
    for sequence in list(outcomes)[10:]:
        engine.add(sequence)
    if at_once:
        engine.drain()
    else:
        for sequence in outcomes:
            engine.end(sequence)
    assert not engine.idle
    take(outcomes, engine.step(16, 300))
    assert (len(engine), engine.idle, engine.collect()) == (0, True, [])
    assert Finish.DRAINED in {outcome.finish for outcome in outcomes.values()}
    for number, (sequence, outcome) in enumerate(outcomes.items()):
        whole = alone(model, make(model, number))
        assert outcome.state is not None
        assert "\ufffd" not in model.vocabulary.decode(np.array(outcome.written, dtype=np.int64))
        if outcome.finish is not Finish.DRAINED:
            assert outcome.bits() == whole.bits()
            continue
        rest = alone(model, go_on(model, sequence, outcome.state))
        assert outcome.written + rest.written == whole.written
        assert outcome.scores + rest.scores == whole.scores
        assert (rest.finish, rest.stop) == (whole.finish, whole.stop)


def test_ending_one_sequence_leaves_the_others_alone(models: dict[str, Model]) -> None:
    model = models["characters"]
    engine, outcomes = Engine(model), {make(model, number): Outcome.of(make(model, number)) for number in range(6)}
    for sequence in outcomes:
        engine.add(sequence)
    take(outcomes, engine.step(2, 20))
    ended = next(sequence for sequence, outcome in outcomes.items() if outcome.finish is None)
    engine.end(ended)
    engine.end(ended)
    while not engine.idle:
        take(outcomes, [*engine.step(5, 300), *engine.collect()])
    engine.end(ended)
    assert engine.idle
    assert outcomes.pop(ended).finish is Finish.DRAINED
    wholes = [alone(model, make(model, number)).bits() for number in range(6)]
    assert all(outcome.bits() in wholes for outcome in outcomes.values())


@pytest.mark.parametrize("collected", [True, False])
def test_a_paused_sequence_ends_with_one_more_tick_though_nothing_else_is_to_do(
    models: dict[str, Model], collected: bool
) -> None:
    """Also inside a character, and whether or not what it wrote before the pause has been returned."""
    model, within = models["bytes"], 0
    for number, steps in product((0, 3, 10), range(1, 9)):
        fields = {"prefill_ids": nothing(), "max_characters": 60, "stops": StopStrings(), "score_decode": True}
        sequence, engine = make(model, number, **fields), Engine(model)
        outcome = Outcome.of(sequence)
        engine.add(sequence)
        for _ in range(2):
            take({sequence: outcome}, engine.step(steps, 1))
        engine.pause(sequence)
        if collected:
            take({sequence: outcome}, engine.step(1, 1))
            assert engine.idle
        within += sequence.unfinished > 0
        engine.end(sequence)
        assert not engine.idle
        take({sequence: outcome}, engine.step(1, 1))
        assert (outcome.finish, len(engine), engine.idle) == (Finish.DRAINED, 0, True)
        assert outcome.state is not None
        whole = alone(model, make(model, number, **fields))
        rest = alone(model, go_on(model, sequence, outcome.state, score_decode=True))
        assert outcome.written + rest.written == whole.written
        assert outcome.scores + rest.scores == whole.scores
    assert within > 5, "hardly any character had begun"


def test_draining_ends_characters_that_have_begun(models: dict[str, Model]) -> None:
    model, within = models["bytes"], 0
    for number, steps in product((0, 3, 10), range(1, 9)):
        fields = {"prefill_ids": nothing(), "max_characters": 60, "stops": StopStrings(), "score_decode": True}
        sequence = make(model, number, **fields)
        outcome, engine = Outcome.of(sequence), Engine(model)
        engine.add(sequence)
        take({sequence: outcome}, engine.step(steps, 1))
        unfinished = sequence.unfinished
        before = sum(map(len, sequence.decoded_ids)) + len(outcome.written)
        engine.drain()
        take({sequence: outcome}, engine.step(1, 1))
        whole = alone(model, make(model, number, **fields))
        assert outcome.finish is Finish.DRAINED
        assert outcome.state is not None
        more = len(outcome.written) - before
        assert 0 < more <= model.symbols.longest - unfinished if unfinished else more == 0
        assert sequence.max_characters == 60 - len(outcome.scores)
        rest = alone(model, go_on(model, sequence, outcome.state, max_characters=sequence.max_characters))
        assert outcome.written + rest.written == whole.written
        within += unfinished > 0
    assert within > 5, "hardly any character had begun"


def test_a_document_s_end_comes_before_every_other_reason(models: dict[str, Model]) -> None:
    for name in ("lines", "byte-lines"):
        model = models[name]
        newline = tuple(model.vocabulary.encode("\n").tolist())
        bias = Sampling(bias=((newline[0], 2.5),))
        for number in range(6):
            fields = {"prefill_ids": nothing(), "sampling": bias}
            text = alone(model, make(model, number, **fields, max_characters=500, stops=StopStrings())).written
            assert text[-1:] == list(newline)
            stops = [newline, (*text[-2:-1], *newline)]
            outcome = alone(model, make(model, number, **fields, max_characters=500, stops=StopStrings(stops)), steps=3)
            assert (outcome.written, outcome.finish, outcome.stop) == (text, Finish.END, None)
            characters = len(model.vocabulary.decode(np.array(text)))
            outcome = alone(model, make(model, number, **fields, max_characters=characters, stops=StopStrings()))
            assert (outcome.written, outcome.finish) == (text, Finish.END)


def test_of_equally_likely_symbols_greedy_writes_the_first(kinds_folder: Path) -> None:
    artifact = read_artifact(kinds_folder / "characters" / "1")
    flat = {name: value * np.float32(not name.startswith("output")) for name, value in artifact.weights.items()}
    model = Model(replace(artifact, weights=flat))
    for sampling in (Sampling(0.0), Sampling(0.0, top_k=4)):
        outcome = alone(model, make(model, 0, sampling=sampling, stops=StopStrings(), max_characters=30))
        assert outcome.written == [1] * 30


def test_runs_are_no_wider_than_asked_and_all_take_turns(models: dict[str, Model]) -> None:
    widths = []

    class Watched(Defective):
        """Notes how many rows write."""

        def write(self, *inputs: Any, **options: Any) -> WriteResult:
            widths.append(len(inputs[0]))
            return self._model.write(*inputs, **options)

    model = Watched(models["characters"])
    engine, sequences = (
        Engine(model, rows=4),
        [make(model, n, prefill_ids=nothing(), max_characters=9999) for n in range(3, 42, 3)],
    )
    for sequence in sequences:
        sequence.stops = StopStrings()
        engine.add(sequence)
    for _ in range(10):
        engine.step(4, 1)
    assert max(widths) == 4
    assert engine.decoding == len(engine) == len(sequences)
    for _ in range(6):  # as many as there can be decode batches of 13 sequences, some of which filter
        engine.step(4, 1)
    assert {output.sequence for output in engine.collect()} == set(sequences)


def test_a_pause_within_a_character_loses_nothing(models: dict[str, Model]) -> None:
    model = models["bytes"]
    for number in (0, 3, 9):
        fields = {"max_characters": 60, "stops": StopStrings()}
        sequence = make(model, number, **fields)
        outcome, engine, within = Outcome.of(sequence), Engine(model), 0
        engine.add(sequence)
        while len(engine):
            take({sequence: outcome}, engine.step(1, 500))
            engine.pause(sequence)
            within += sequence.unfinished > 0
            take({sequence: outcome}, engine.step(1, 500))
            assert engine.idle
            engine.resume(sequence)
        assert within > 5, "no pause fell within a character"
        assert outcome.bits() == alone(model, make(model, number, **fields)).bits()


def test_an_aborted_sequence_is_gone_at_once_and_the_others_go_on(models: dict[str, Model]) -> None:
    model = models["characters"]
    engine, stays = Engine(model, rows=2), make(model, 0, max_characters=90, stops=StopStrings())
    reads, writes, rests, new = (make(model, number, max_characters=90, stops=StopStrings()) for number in (1, 2, 3, 5))
    reads.prefill_ids, writes.prefill_ids, rests.prefill_ids = np.ones(5000, dtype=np.int64), nothing(), nothing()
    for sequence in (stays, reads, writes, rests):
        engine.add(sequence)
    while not engine.rows or len(stays.prefill_ids):
        engine.step(2, 100)
    engine.pause(rests)
    engine.add(new)
    assert len(engine) == 5
    for sequence in (reads, writes, rests, new, writes):  # of the last, the second time, nothing is known
        engine.abort(sequence)
    assert len(engine) == 1
    engine.resume(rests)
    assert {output.sequence for _ in range(3) for output in [*engine.step(3, 100), *engine.collect()]} == {stays}


def test_what_a_paused_sequence_wrote_comes_at_the_next_tick(models: dict[str, Model]) -> None:
    model = models["characters"]
    engine, sequence = Engine(model), make(model, 0, prefill_ids=nothing(), max_characters=90, stops=StopStrings())
    engine.add(sequence)
    first = sum(len(output.written) for output in engine.step(8, 100))
    assert engine.step(20, 100) == []
    engine.pause(sequence)
    assert not engine.idle
    (output,) = engine.step(20, 100)
    assert (first, len(output.written), engine.idle) == (8, 28, True)


# --- Rows that are not finite


def poisoned(sequence: Sequence, part: str) -> Sequence:
    value = getattr(sequence.state, part).copy()
    value[-1, 3] = np.nan
    sequence.state = replace(sequence.state, **{part: value})
    return sequence


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *[("characters", "h"), ("characters", "c"), ("int8", "c"), ("gru", "h"), ("gru-reset-before", "h")],
        *[("bytes", "c"), ("characters on a device", "c"), ("gru on a device", "h")],
    ],
)
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_row_that_is_not_finite_ends_by_itself(
    models: dict[str, Model], name: str, part: str, reads: bool, steps: int
) -> None:
    model = models[name]
    good = [make(model, number) for number in range(SEQUENCES)]
    number = 0 if reads else 8
    bad = poisoned(make(model, number, **({} if reads else {"prefill_ids": nothing()})), part)
    outcomes, engine = {sequence: Outcome.of(sequence) for sequence in [*good, bad]}, Engine(model)
    for sequence in [*good[:5], bad, *good[5:]]:
        engine.add(sequence)
    run(engine, outcomes, steps, work=500)
    assert (outcomes[bad].finish, outcomes[bad].state) == (Finish.FAULT, None)
    assert (outcomes[bad].written, outcomes[bad].scores) == ([], [])
    assert [outcomes[sequence].bits() for sequence in good] == all_alone(model)


def test_what_was_written_before_the_fault_is_handed_out(models: dict[str, Model]) -> None:
    model = models["characters"]

    class FailsLate(Defective):
        """Its 30th run of writing gives no numbers."""

        runs = 0

        def write(self, rows: Rows, writing: Writing) -> WriteResult:
            self.runs += 1
            written = self._model.write(rows, writing)
            return replace(written, finite_B=written.finite_B & (self.runs != 30))

    fields = {
        "prefill_ids": nothing(),
        "max_characters": 90,
        "stops": StopStrings(),
        "score_decode": True,
        "alternatives": 2,
    }
    sequence = make(model, 1, **fields)
    engine, outcome = Engine(FailsLate(model)), Outcome.of(sequence)
    engine.add(sequence)
    while len(engine):
        take({sequence: outcome}, engine.step(1, 1))
    whole = alone(model, make(model, 1, **fields))
    assert outcome.finish is Finish.FAULT
    assert (outcome.written, outcome.scores) == (whole.written[:29], whole.scores[:29])
    assert sum(len(part.ids) for part in outcome.alternatives) == 29


# --- Stop strings


@pytest.mark.parametrize("steps", [1, 3, 5, 64])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_a_stop_string_ends_the_text_at_its_first_completion(models: dict[str, Model], length: int, steps: int) -> None:
    """Wherever ticks begin, also where it takes several of them."""
    model = models["characters"]
    text = alone(model, make(model, 0, max_characters=80, stops=StopStrings())).written
    for begin in range(0, 60, 7):
        stop = tuple(text[begin : begin + length])
        end = next(i for i in range(length, 81) if tuple(text[i - length : i]) == stop)
        outcome = alone(
            model, make(model, 0, max_characters=80, stops=StopStrings([(999,), stop, stop[-1:] * 40])), steps
        )
        assert (outcome.written, outcome.finish, outcome.stop) == (text[:end], Finish.STOP, 1)
        assert outcome.state is not None
        assert (outcome.state.last, outcome.state.position) == (stop[-1], outcome.start + end)


def test_of_stop_strings_complete_at_one_symbol_it_is_the_first_in_order(models: dict[str, Model]) -> None:
    model = models["bytes"]
    ids = np.array(alone(model, make(model, 0, max_characters=40, stops=StopStrings())).written)
    text = model.vocabulary.decode(ids)
    end = next(i for i in range(15, 40) if text.index(text[i - 2 : i]) == i - 2)
    endings = [tuple(model.vocabulary.encode(text[end - n : end]).tolist()) for n in (9, 5, 2)]
    for stops in (endings, endings[::-1]):
        outcome = alone(model, make(model, 0, max_characters=40, stops=StopStrings([(256,) * 5, *stops])), steps=4)
        assert (model.vocabulary.decode(np.array(outcome.written)), outcome.stop) == (text[:end], 1)


def test_the_last_character_that_may_be_written_can_complete_a_stop_string(models: dict[str, Model]) -> None:
    model = models["characters"]
    text = alone(model, make(model, 0, max_characters=20, stops=StopStrings())).written
    stops = StopStrings([tuple(text[-8:])])
    assert alone(model, make(model, 0, max_characters=20, stops=stops), steps=6).finish is Finish.STOP
    assert (
        alone(model, make(model, 0, max_characters=19, stops=StopStrings([tuple(text[-8:])]))).finish is Finish.LENGTH
    )


@given(
    stops=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=4),
    chunks=st.lists(st.lists(st.integers(0, 2), max_size=7), max_size=8),
    offset=st.sampled_from([0, 0xD800, 0xFFFF]),
)
def test_stop_strings_are_found_as_by_a_naive_search(
    stops: list[list[int]], chunks: list[list[int]], offset: int
) -> None:
    """Ids may be anything, surrogates included: they are no code points."""
    shifted = [tuple(symbol + offset for symbol in stop) for stop in stops]
    search, text = StopStrings(shifted), list[int]()
    for chunk in chunks:
        found = search.find(np.array(chunk, dtype=np.int64) + offset)
        naive = first_completed(stops, text, chunk)
        assert found == naive
        if naive:
            return
        text += chunk


def first_completed(stops: list[list[int]], before: list[int], chunk: list[int]) -> tuple[int, int] | None:
    for taken in range(1, len(chunk) + 1):
        text = before + chunk[:taken]
        for i, stop in enumerate(stops):
            if text[-len(stop) :] == stop:
                return taken, i
    return None


def test_alternatives_wait_in_the_engine_only_up_to_a_bound(models: dict[str, Model]) -> None:
    """They come before anybody collects, and hold nothing that is not theirs."""
    model, steps = models["characters"], 16
    many, few = (make(model, 1, alternatives=most, max_characters=1000, stops=StopStrings()) for most in (20, 0))
    engine, outputs = Engine(model), list[StepOutput]()
    for sequence in (many, few):
        engine.add(sequence)
    for _ in range(20):
        outputs += engine.step(steps, 10_000)
        waiting = sum(found.nbytes for found in many.alternatives_found)
        kept = sum(_owner(found.ids).nbytes + found.log_probabilities.nbytes for found in many.alternatives_found)
        assert kept == waiting == many.alternatives_bytes < MOST_GATHERED + steps * 20 * 16
    assert [output.sequence for output in outputs].count(few) == 1, "its first characters"
    assert [output.sequence for output in outputs].count(many) > 10
    assert all(output.nbytes < 2 * MOST_GATHERED for output in outputs)


def _owner(array: np.ndarray) -> np.ndarray:
    return array if array.base is None else array.base


def test_a_sequence_must_have_something_to_do(models: dict[str, Model]) -> None:
    with pytest.raises(ValueError, match="a symbol to read or a character to write"):
        make(models["characters"], 0, prefill_ids=nothing(), max_characters=0)
