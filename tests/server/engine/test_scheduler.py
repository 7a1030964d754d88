"""How texts of different lengths share runs, and how a sequence's status moves."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.runners.arrays import PREFILL_ROWS, PREFILL_SYMBOLS, RUN_COST, STEP_ROWS
from segue_server.engine.runners.runner import Reading, ReadResult, Rows
from segue_server.engine.sequence import Finish, Sequence, State, Status


class Watched:
    """A model that notes the shapes of its runs."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.lengths: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def read(self, rows: Rows, reading: Reading) -> ReadResult:
        length = reading.length_B
        assert reading.tokens_TB.shape == reading.targets_TB.shape == (length.max(), len(length))
        self.lengths.append(length)
        return self._model.read(rows, reading)


def reading(model: Model, text: str) -> Sequence:
    first, *rest = model.vocabulary.encode("\n" + text).tolist()
    return Sequence(State.after_first(first, model.state_shape, 0), np.array(rest, dtype=np.int64))


def engine_with(model: Any, sequences: list[Sequence]) -> Engine:
    engine = Engine(model)
    for sequence in sequences:
        engine.add(sequence)
    return engine


def read_all(model: Watched, texts: list[Sequence], work: int) -> list[Sequence]:
    """Read; return the texts in the order in which they were through."""
    engine, through = engine_with(model, texts), list[Sequence]()
    while len(engine):
        outputs = engine.step(1, work)
        assert {output.finish for output in outputs} <= {Finish.LENGTH}
        assert engine.work <= max(work, len(model.lengths[-1]) + STEP_ROWS) + 4 * (PREFILL_ROWS + STEP_ROWS)
        through += [output.sequence for output in outputs]
    return through


@given(
    texts=st.lists(st.text("aé你𝄞", min_size=1, max_size=60), min_size=1, max_size=20),
    work=st.sampled_from([1, 50, 300, 5000]),
)
@settings(max_examples=25)
def test_everyone_is_through_once_and_no_character_is_cut(
    kinds_loaded: dict[str, Model], texts: list[str], work: int
) -> None:
    model = Watched(kinds_loaded["bytes"])
    sequences = [reading(model, text) for text in texts]
    whole = {
        id(sequence): set(np.cumsum([len(c.encode()) for c in text]).tolist())
        for sequence, text in zip(sequences, texts, strict=True)
    }
    positions = {id(sequence): set[int]() for sequence in sequences}
    engine = engine_with(model, sequences)
    while len(engine):
        engine.step(1, work)
        for sequence in sequences:
            positions[id(sequence)].add(sequence.state.position - 1)
    for sequence in sequences:
        assert positions[id(sequence)] - {0} <= whole[id(sequence)]
        assert len(sequence.prefill_ids) == 0
    assert sum(length.sum() for length in model.lengths) == sum(len(text.encode()) for text in texts)


def test_a_run_has_bounds_however_much_work_is_granted(kinds_loaded: dict[str, Model]) -> None:
    model = Watched(kinds_loaded["characters"])
    read_all(model, [reading(model, "the cats " * 40) for _ in range(200)], work=2**40)
    for length in model.lengths:
        assert len(length) <= PREFILL_ROWS
        assert length.max() * len(length) <= PREFILL_SYMBOLS


def test_a_long_text_holds_up_nobody(kinds_loaded: dict[str, Model]) -> None:
    model = Watched(kinds_loaded["characters"])
    long, short = reading(model, "a" * 20_000), [reading(model, "the cats") for _ in range(300)]
    through = read_all(model, [long, *short], work=2000)
    assert through[-1] is long
    runs_until_short_are_through = next(
        i for i in range(len(model.lengths)) if sum(map(np.sum, model.lengths[: i + 1])) >= 8 * 300
    )
    assert runs_until_short_are_through < 10


def test_long_texts_take_turns(kinds_loaded: dict[str, Model]) -> None:
    """More of them than a run has rows: whoever came last waits for one run of each of the others, not for all."""
    model = Watched(kinds_loaded["characters"])
    long, last = [reading(model, "a" * 3000) for _ in range(2 * PREFILL_ROWS)], reading(model, "the cats")
    engine = engine_with(model, [*long, last])
    for _ in range(3):
        engine.step(1, 5000)
    assert len(last.prefill_ids) == 0
    assert all(0 < len(text.prefill_ids) < 3000 for text in long)


@pytest.mark.parametrize("lengths", [[10] * 60 + [5000], [1] * 120 + [100] * 8, list(range(1, 129)), [50] * 100])
def test_runs_are_long_where_rows_are_alike_and_little_is_padding(
    kinds_loaded: dict[str, Model], lengths: list[int]
) -> None:
    """Rows of a step that read nothing, and the fixed cost of runs, are less than what is read."""
    model = Watched(kinds_loaded["characters"])
    read_all(model, [reading(model, "a" * length) for length in lengths], work=10**6)
    work = sum(int(run.max()) * (len(run) + STEP_ROWS) + RUN_COST for run in model.lengths)
    alone = max(lengths) * (1 + STEP_ROWS)  # what the longest one costs in any case
    assert work < 2 * sum(lengths) + alone + 10 * RUN_COST


def test_a_status_moves_with_every_tick_and_command(kinds_loaded: dict[str, Model]) -> None:
    model = kinds_loaded["characters"]
    state = State.after_first(1, model.state_shape, 0)
    short, long, scored, unread = (
        Sequence(state, np.ones(prefill, dtype=np.int64), characters)
        for prefill, characters in ((0, 5), (40, 50), (40, 0), (0, 50))
    )
    sequences = [short, long, scored, unread]

    def statuses() -> list[Status]:
        return [sequence.status for sequence in sequences]

    assert statuses() == [Status.NEW] * 4
    engine = engine_with(model, sequences)
    assert statuses() == [Status.START, Status.PREFILL, Status.PREFILL, Status.START]
    engine.step(8, 100)
    assert statuses() == [Status.FINISHED, Status.PREFILL, Status.PREFILL, Status.DECODE]
    for sequence in sequences:
        engine.pause(sequence)
    assert statuses() == [Status.FINISHED, Status.PAUSED, Status.PAUSED, Status.PAUSED]
    assert (len(engine), engine.decoding, engine.rows) == (3, 0, 0)
    for sequence in sequences:
        engine.resume(sequence)
    assert statuses() == [Status.FINISHED, Status.PREFILL, Status.PREFILL, Status.START]
    engine.step(8, 10_000)  # from the last symbol of a prompt to the first characters in one tick
    assert statuses() == [Status.FINISHED, Status.DECODE, Status.FINISHED, Status.DECODE]
    assert (len(engine), engine.decoding, engine.rows) == (2, 2, 2)
    for sequence in sequences:
        engine.abort(sequence)
        engine.resume(sequence)
    assert statuses() == [Status.FINISHED] * 4
    assert (len(engine), engine.idle) == (0, True)
