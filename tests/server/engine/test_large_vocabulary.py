"""Models of many characters: what the graphs compute and return does not grow with rows x steps x vocabulary."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pooled import run_pooled
from segue_export.artifact import MODEL_FILE, Artifact
from segue_export.export import describe
from segue_export.graphs import sampler as module
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.runners.arrays import PREFILL_ROWS
from segue_server.engine.runners.onnx_session import CPU, open_session
from segue_server.engine.runners.runner import Reading
from segue_server.engine.sampling import Sampling, SamplingRows
from segue_server.engine.scores import joined_alternatives
from segue_server.engine.sequence import Sequence, State, StepOutput
from segue_server.runtime.self_check import check
from segue_training.text.vocabulary import UNKNOWN_ID, Vocabulary
from segue_training.train.checkpoint import Checkpoint

Floats32 = NDArray[np.float32]
SIZE = 3000
"""More than are always sorted whole."""
SELECTED = 512
SEEDS = st.integers(0, 2**32 - 1)

FILTERS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 0, 1, 40, SELECTED, SELECTED + 1, 1500, SIZE - 1, SIZE, 10**9]),
    top_p=st.sampled_from([1e-9, 0.2, 0.9, 0.999, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 1e-4, 0.5]),
).filter(lambda sampling: sampling.filtered)


@pytest.fixture(scope="module")
def step(make_checkpoint: Callable[..., Checkpoint]) -> Step:
    """A model of zeros, so that `bias` takes the place of the logits."""
    checkpoint = make_checkpoint(1, 2, 0, vocabulary=vocabulary())
    return Step(describe(checkpoint), {name: np.zeros(w.shape, np.float32) for name, w in checkpoint.weights.items()})


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Checkpoint]) -> Model:
    checkpoint = make_checkpoint(1, 16, 3, vocabulary=vocabulary())
    weights = {name: weight.numpy() for name, weight in checkpoint.weights.items()}
    weights["output.weight"] = 8 * weights["output.weight"]  # some characters are likelier than others
    manifest = replace(describe(checkpoint), files={MODEL_FILE: "00" * 32})
    return Model(Artifact("many", 1, manifest, b"", weights))


def vocabulary() -> Vocabulary:
    return Vocabulary(("<unk>", "\n", *(chr(0x4E00 + i) for i in range(SIZE - 2))))


Draw = Callable[[Floats32, list[Sampling], Floats32], list[int]]


@pytest.fixture(scope="module")
def draw(step: Step) -> dict[str, Draw]:
    """The functions that draw a symbol for each row of logits: one that selects first, and one that sorts all."""

    @cache
    def session(unrolled: int) -> onnxruntime.InferenceSession:
        return open_session(writing_graph(step, WritingVariant(filtered=True, unrolled=unrolled)), CPU, 1)

    def drawing(unrolled: int) -> Draw:
        def draw(logits_BV: Floats32, samplings: list[Sampling], uniform_B: Floats32) -> list[int]:
            rows, count = SamplingRows(samplings, np.zeros(SIZE, np.float32)), len(samplings)
            feed = {
                "token": np.zeros(count, np.int64),
                "h": np.zeros((1, count, 2), np.float32),
                "c": np.zeros((1, count, 2), np.float32),
                "uniform": uniform_B[np.newaxis, :, np.newaxis],
                "inverse_temperature": rows.inverse_temperature_B1,
                "bias": logits_BV,
                "top_k": rows.top_k_B1,
                "top_p": rows.top_p_B1,
                "min_p": rows.min_p_B1,
            }
            if unrolled:
                return list(run_pooled(session(unrolled), **feed)["ids"][0].tolist())
            (ids_KB,) = session(unrolled).run(["ids"], {**feed, "steps": np.array(1)})
            return list(ids_KB[0].tolist())

        return draw

    return {"selects": drawing(0), "sorts": drawing(1)}


def some_logits(seed: int, rows: int, scale: float) -> Floats32:
    """From flat, where most symbols are kept, to steep, where few are; with many equals."""
    return np.round(np.random.default_rng(seed).normal(scale=scale, size=(rows, SIZE)), 2).astype(np.float32)


def test_the_graphs_here_are_of_the_two_kinds(step: Step) -> None:
    loop, unrolled = (writing_graph(step, WritingVariant(filtered=True, unrolled=u)) for u in (0, 1))
    assert b"keeps_more_any" in loop
    assert b"keeps_more_any" not in unrolled
    assert module._SELECTED == SELECTED


@given(seed=SEEDS, samplings=st.lists(FILTERS, min_size=1, max_size=8), scale=st.sampled_from([0.01, 1, 3, 8]))
@settings(max_examples=60, deadline=None)
def test_to_select_first_changes_no_choice_nor_does_company(
    draw: dict[str, Draw], seed: int, samplings: list[Sampling], scale: float
) -> None:
    logits = some_logits(seed, len(samplings), scale)
    uniform = np.random.default_rng(seed).random(len(samplings)).astype(np.float32)
    sorted_all = draw["sorts"](logits, samplings, uniform)
    assert draw["selects"](logits, samplings, uniform) == sorted_all
    for row, sampling in enumerate(samplings):
        one = slice(row, row + 1)
        assert draw["selects"](logits[one], [sampling], uniform[one]) == sorted_all[one]


@given(seed=SEEDS, sampling=FILTERS, scale=st.sampled_from([0.01, 1, 3, 8]))
@settings(max_examples=60, deadline=None)
def test_what_is_chosen_is_among_those_that_the_filters_keep(
    draw: dict[str, Draw], seed: int, sampling: Sampling, scale: float
) -> None:
    """In float64, with room for rounding at the boundaries of top_p and min_p."""
    logits = some_logits(seed, 1, scale)
    uniform = np.random.default_rng(seed).random(1).astype(np.float32)
    (chosen,) = draw["selects"](logits, [sampling], uniform)
    tempered = logits[0].astype(np.float64) * sampling.inverse_temperature
    p = np.exp(tempered - tempered.max())
    order = np.lexsort((np.arange(SIZE), -p))[: sampling.top_k or SIZE]
    rank = int(np.flatnonzero(order == chosen)[0])
    before = p[order[:rank]].sum() / p[order].sum()
    assert before < sampling.top_p + 1e-5
    assert p[chosen] >= sampling.min_p * p.max() * (1 - 1e-5)


def test_no_graph_returns_a_value_for_each_symbol(step: Step) -> None:
    """It would be rows x steps x vocabulary."""
    graphs = [reading_graph(step, ragged=True, result=result) for result in Result if result is not Result.LOGITS]
    graphs += [writing_graph(step, WritingVariant(filtered, True, True)) for filtered in (False, True)]
    for graph in graphs:
        for output in open_session(graph, CPU, 1).get_outputs():
            assert SIZE not in output.shape, output.name


def test_alternatives_and_ranks_are_those_of_a_sort(model: Model) -> None:
    generator = np.random.default_rng(0)
    tokens, targets = generator.integers(1, SIZE, size=(2, 9, 4))
    zeros = np.zeros((1, 4, 16), dtype=np.float32)
    rows, length = model.scatter(zeros, zeros), np.full(4, 9)
    result = model.read(rows, Reading(tokens, targets, length, alternatives=7))
    plain = model.read(rows, Reading(tokens, targets, length))
    assert plain.log_probabilities_TB.tobytes() == result.log_probabilities_TB.tobytes()
    every = model.read(rows, Reading(tokens, targets, length, alternatives=SIZE))
    assert every.likeliest is not None
    assert result.likeliest is not None
    assert result.ranks_TB is not None
    ids, scores = every.likeliest.ids_KBA, every.likeliest.log_probabilities_KBA
    assert ids.shape == (9, 4, SIZE - 1)
    assert (np.sort(ids, axis=2) == np.arange(1, SIZE)).all(), "each known symbol once"
    assert UNKNOWN_ID not in ids
    falls, ties = np.diff(scores, axis=2) < 0, np.diff(scores, axis=2) == 0
    assert (falls | ties & (np.diff(ids, axis=2) > 0)).all(), "likeliest first; of equals, the lowest id first"
    assert (result.likeliest.ids_KBA == ids[..., :7]).all()
    assert result.likeliest.log_probabilities_KBA.tobytes() == scores[..., :7].tobytes()
    likelier = (scores > plain.log_probabilities_TB[..., np.newaxis]).sum(axis=2)
    assert set(np.unique(result.ranks_TB - 1 - likelier)) <= {0, 1}, "<unk> counts too"


def outcome(model: Model, sequences: list[Sequence], steps: int) -> list[tuple[bytes, ...]]:
    engine, outputs = Engine(model), dict[Sequence, list[StepOutput]]()
    for sequence in sequences:
        engine.add(sequence)
        outputs[sequence] = []
    while len(engine):
        for output in [*engine.step(steps, 200), *engine.collect()]:
            outputs[output.sequence].append(output)
    return [bits(parts) for parts in outputs.values()]


def bits(outputs: list[StepOutput]) -> tuple[bytes, ...]:
    alternatives = joined_alternatives([output.alternatives for output in outputs if output.alternatives])
    state = outputs[-1].state
    assert state is not None
    return (
        np.concatenate([output.written for output in outputs]).tobytes(),
        np.concatenate([output.log_probabilities for output in outputs]).tobytes(),
        np.concatenate([output.ranks for output in outputs]).tobytes(),
        alternatives.ids.tobytes() if alternatives else b"",
        alternatives.log_probabilities.tobytes() if alternatives else b"",
        state.h.tobytes(),
        state.c.tobytes(),
    )


def sequence(model: Model, number: int) -> Sequence:
    """Some of each kind, alternatives and none of them in one batch."""
    ids = np.random.default_rng(number).integers(1, SIZE, size=5 + number % 4)
    samplings = (
        Sampling(),
        Sampling(1.0, 20),
        Sampling(1.0, 0, 0.97),
        Sampling(0.0),
        Sampling(allowed=frozenset(range(5, 90)), bias=((7, 3.0),)),
    )
    return Sequence(
        State.after_first(int(ids[0]), model.state_shape, number),
        ids[1:],
        6 + number % 5,
        samplings[number % 5],
        score_prefill=True,
        rank_prefill=number % 2 == 0,
        alternatives_prefill=number % 3,
        score_decode=True,
        alternatives=number % 3,
    )


def test_a_sequence_gets_the_same_bits_alone_and_in_company(model: Model) -> None:
    together = outcome(model, [sequence(model, number) for number in range(20)], 3)
    for number, found in enumerate(together):
        assert outcome(model, [sequence(model, number)], 16) == [found]


def test_the_check_at_start_finds_the_same_and_its_batches_are_as_large_as_any(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest, write = [0], Model.write

    def noted(self: Model, *inputs: NDArray[np.generic], **options: object) -> object:
        largest[0] = max(largest[0], len(inputs[0]))
        return write(self, *inputs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "write", noted)
    assert check(model).reproducible
    assert largest[0] >= min(Engine(model).most_rows, PREFILL_ROWS) // 2


@given(
    size=st.integers(2, 40),
    allowed=st.sets(st.integers(1, 39), max_size=39),
    biases=st.dictionaries(st.integers(0, 39), st.sampled_from([-np.inf, -1.5, 2.0]), max_size=9),
)
@settings(max_examples=60)
def test_an_allowed_set_is_the_same_as_barring_all_others(
    size: int, allowed: set[int], biases: dict[int, float]
) -> None:
    allowed = {symbol for symbol in allowed if symbol < size}
    bias = {symbol: value for symbol, value in biases.items() if symbol < size}
    others = {symbol: -np.inf for symbol in range(1, size) if allowed and symbol not in allowed}
    barred_V = np.zeros(size, dtype=np.float32)
    barred_V[0] = -np.inf
    by_index = Sampling(bias=tuple(bias.items()), allowed=frozenset(allowed))
    one_by_one = Sampling(bias=tuple((bias | others).items()))
    found, expected = (SamplingRows([sampling, Sampling()], barred_V).bias for sampling in (by_index, one_by_one))
    assert np.broadcast_to(found, (2, size)).tolist() == np.broadcast_to(expected, (2, size)).tolist()
