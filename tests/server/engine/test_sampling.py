"""What the writing graph chooses, against plain Python in float64.

In a model whose weights are all zero so are the logits, and the graph's `bias` takes their place.
"""

import codecs
import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segue_export.artifact import read_artifact
from segue_export.export import describe
from segue_export.graphs import sampler as graph_module
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.random_numbers import uniforms
from segue_server.engine.runners.onnx_session import CPU, open_session
from segue_server.engine.sampling import Sampling, SamplingRows
from segue_server.engine.scores import LOG_PROBABILITY_QUANTUM, quantized
from segue_server.engine.sequence import Finish, Sequence, State, StepOutput
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint

Floats32 = NDArray[np.float32]
Choose = Callable[..., list[int]]

NARROW = 2e-6
"""How far rounding to float32 may move a boundary."""
LARGEST, SMALLEST = 1 - 2.0**-24, 2.0**-24

SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-30, 0.3, 1.0, 2.5, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 3, 12, 10**9]),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.5, 0.999]),
    bias=st.dictionaries(st.integers(0, 8), st.sampled_from([-100.0, -1.5, 2.0, 100.0]), max_size=3).map(
        lambda biases: tuple(biases.items())
    ),
)
BARRED = st.sets(st.integers(0, 8), max_size=8)
SEEDS = st.integers(0, 2**32 - 1)
UNIFORMS = st.floats(SMALLEST, LARGEST, width=32) | st.sampled_from([SMALLEST, LARGEST])
few = settings(max_examples=60)


@pytest.fixture(scope="session")
def choose(make_checkpoint: Callable[..., Checkpoint]) -> Choose:
    """Return the function that has the graph choose a symbol for each row of logits."""

    @cache
    def session(vocabulary: int, filtered: bool, triangle: bool | None) -> onnxruntime.InferenceSession:
        characters = ("<unk>", "\n", *(chr(0x4E00 + i) for i in range(vocabulary - 2)))
        checkpoint = make_checkpoint(1, 2, 0, vocabulary=Vocabulary(characters))
        weights = {name: np.zeros_like(weight.numpy()) for name, weight in checkpoint.weights.items()}
        with pytest.MonkeyPatch.context() as patch:
            if triangle is not None:
                patch.setattr(graph_module, "_LARGEST_TRIANGLE", vocabulary if triangle else 0)
            graph = writing_graph(Step(describe(checkpoint), weights), WritingVariant(filtered))
        return open_session(graph, CPU, 1)

    def choose(
        logits_BV: Floats32,
        sampling: Iterable[Sampling],
        uniform: Iterable[float],
        *,
        filtered: bool | None = None,
        triangle: bool | None = None,
    ) -> list[int]:
        """Rows share a run if and only if all of them filter, or none; `triangle`: how sums are made."""
        rows = SamplingRows(list(sampling), np.zeros(logits_BV.shape[1], dtype=np.float32))
        kinds = {row.filtered for row in sampling} if filtered is None else {filtered}
        (filtered,) = kinds
        uniform_B = np.array(list(uniform), dtype=np.float32)
        uniform_B[rows.greedy_B] = SMALLEST  # as a cohort has it
        state = np.zeros((1, len(logits_BV), 2), dtype=np.float32)
        feed = {
            "steps": np.array(1),
            "token": np.zeros(len(logits_BV), dtype=np.int64),
            "h": state,
            "c": state,
            "uniform": uniform_B[np.newaxis, :, np.newaxis],
            "inverse_temperature": rows.inverse_temperature_B1,
            "bias": logits_BV + rows.bias,
        }
        if filtered:
            feed |= {"top_k": rows.top_k_B1, "top_p": rows.top_p_B1, "min_p": rows.min_p_B1}
        graph = session(logits_BV.shape[1], filtered, triangle)
        (ids_KB,) = graph.run(["ids"], feed)
        return list(ids_KB[0].tolist())

    return choose


def some_logits(seed: int, rows: int, size: int = 9, barred: Iterable[int] = ()) -> Floats32:
    logits = np.random.default_rng(seed).normal(scale=4, size=(rows, size)).astype(np.float32)
    logits[:, list(barred)] = -np.inf
    return logits


def distribution(
    logits_V: Floats32, sampling: Sampling, top_p: float | None = None, min_p: float | None = None
) -> dict[int, float]:
    """The probability of each symbol that has one, in the order in which they are drawn: the outside oracle."""
    top_p = sampling.top_p if top_p is None else top_p
    min_p = sampling.min_p if min_p is None else min_p
    logits = logits_V.astype(np.float32).tolist()
    for symbol, bias in sampling.bias:
        logits[symbol] = float(np.float32(logits[symbol]) + np.float32(bias))
    best = max(range(len(logits)), key=lambda i: (logits[i], -i))
    if sampling.temperature == 0:
        return {best: 1.0}
    weights = {i: math.exp((logit - logits[best]) / sampling.temperature) for i, logit in enumerate(logits)}
    ranked = sorted((i for i in weights if weights[i] > 0), key=lambda i: (-weights[i], i))
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    total, before, kept = math.fsum(weights[i] for i in ranked), 0.0, list[int]()
    for i in ranked:
        if before < top_p * total:
            kept.append(i)
        before += weights[i]
    kept = [i for i in kept if weights[i] >= min_p * weights[best]]
    total = math.fsum(weights[i] for i in kept)
    return {i: weights[i] / total for i in (kept if sampling.filtered else sorted(kept))}


def by_hand(chances: dict[int, float], uniform: float) -> int:
    """The first symbol at which the chances, added up, reach `uniform`."""
    running = 0.0
    for i, chance in chances.items():
        running += chance
        if running >= uniform:
            return i
    return i


def admissible(logits_V: Floats32, sampling: Sampling, uniform: float, narrow: float = NARROW) -> set[int]:
    """What may be chosen: `by_hand`'s choice, and its neighbours where `uniform`, top_p or min_p is on a boundary."""
    nudges = (-narrow, 0.0, narrow)
    top_ps = [sampling.top_p + nudge for nudge in nudges] if sampling.top_p < 1 else [1.0]
    min_ps = [sampling.min_p * (1 + nudge) for nudge in nudges]
    chances = [distribution(logits_V, sampling, max(top_p, 1e-12), min_p) for top_p, min_p in product(top_ps, min_ps)]
    return {by_hand(each, min(max(uniform + nudge, 0), 1)) for each in chances for nudge in nudges}


@pytest.mark.parametrize("triangle", [True, False])
@given(seed=SEEDS, barred=BARRED, sampling=SETTINGS, uniform=UNIFORMS)
@few
def test_the_choice_is_the_one_computed_by_hand(
    choose: Choose, *, triangle: bool, seed: int, barred: set[int], sampling: Sampling, uniform: float
) -> None:
    logits = some_logits(seed, rows=1, barred=barred)
    (chosen,) = choose(logits, [sampling], [uniform], triangle=triangle)
    assert chosen in admissible(logits[0], sampling, uniform)


@pytest.mark.parametrize("size", [2, 67, 160, 161, 400])
@given(seed=SEEDS, samplings=st.lists(SETTINGS, min_size=1, max_size=12), scale=st.sampled_from([0.1, 1, 4]))
@settings(max_examples=10)
def test_in_vocabularies_of_any_size_too(
    choose: Choose, size: int, seed: int, samplings: list[Sampling], scale: float
) -> None:
    """Above 160 symbols sums are made in another way."""
    plain = [Sampling(s.temperature, s.top_k, s.top_p, s.min_p) for s in samplings]
    for filtered in (False, True):
        rows = [sampling for sampling in plain if sampling.filtered is filtered]
        if not rows:
            continue
        logits = some_logits(seed, len(rows), size) * np.float32(scale / 4)
        uniform = np.random.default_rng(seed).random(len(rows)).astype(np.float32)
        for row, chosen in enumerate(choose(logits, rows, uniform)):
            assert chosen in admissible(logits[row], rows[row], float(uniform[row]))


@pytest.mark.parametrize("size", [9, 67, 257])
@pytest.mark.parametrize("filtered", [False, True])
@given(seed=SEEDS, samplings=st.lists(SETTINGS, min_size=1, max_size=20))
@settings(max_examples=10)
def test_a_row_does_not_depend_on_the_others(
    choose: Choose, size: int, filtered: bool, seed: int, samplings: list[Sampling]
) -> None:
    rows = [sampling for sampling in samplings if filtered or not sampling.filtered] or [Sampling()]
    logits = some_logits(seed, len(rows), size)
    uniform = np.random.default_rng(seed).random(len(rows)).astype(np.float32)
    together = choose(logits, rows, uniform, filtered=filtered)
    for row, sampling in enumerate(rows):
        one = slice(row, row + 1)
        assert choose(logits[one], [sampling], uniform[one], filtered=filtered) == together[one]


@pytest.mark.parametrize("size", [9, 200])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.5),
        Sampling(1.5, top_k=4),
        Sampling(top_p=0.8),
        Sampling(2.0, 6, 0.9),
        Sampling(min_p=0.1),
        Sampling(1.8, 7, 0.95, 0.05, bias=((2, -np.inf), (5, 1.5))),
    ],
)
def test_frequencies_are_those_of_the_distribution(choose: Choose, size: int, sampling: Sampling) -> None:
    logits, count = some_logits(seed=5, rows=1, size=size, barred=[0]) / 2, 40_000
    numbers = uniforms(np.array([1], dtype=np.uint64), np.array([0], dtype=np.uint64), count)[0]
    found = np.bincount(choose(np.repeat(logits, count, axis=0), [sampling] * count, numbers), minlength=size)
    chances = np.zeros(size)
    for symbol, chance in distribution(logits[0], sampling).items():
        chances[symbol] = chance
    assert found[chances == 0].sum() == 0
    likely = chances * count > 5
    assert abs(found[~likely].sum() - (chances[~likely] * count).sum()) < 60
    chi_square = float(((found - chances * count)[likely] ** 2 / (chances * count)[likely]).sum())
    freedom = np.count_nonzero(likely) - 1
    # Chance of more is below 1e-4 for a chi-square of so many degrees of freedom; and the seed is fixed.
    assert chi_square < freedom + 6 * math.sqrt(2 * freedom) + 6


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("size", [9, 160, 161, 1000])
def test_the_largest_and_smallest_uniforms_stay_within_what_has_a_probability(
    choose: Choose, size: int, filtered: bool
) -> None:
    sampling = Sampling(top_k=10**6) if filtered else Sampling()
    for seed in range(30):
        logits = some_logits(seed, 2, size) * np.float32(seed / 30)  # from flat to steep
        barred = np.random.default_rng(seed).random(size) < (seed % 5) / 5
        barred[[0, -1, -2, -3]] = True
        barred[4] = False
        logits[:, barred] = -np.inf
        smallest, largest = choose(logits, [sampling] * 2, [SMALLEST, LARGEST])
        assert not barred[[smallest, largest]].any()
        first, last = (distribution(row, sampling) for row in logits)
        assert math.fsum(list(first.values())[: list(first).index(smallest)]) < NARROW
        assert sum(list(last.values())[list(last).index(largest) + 1 :]) < 10 * NARROW


@pytest.mark.parametrize("size", [9, 300])
def test_greedy_takes_the_likeliest_of_equals_the_first(choose: Choose, size: int) -> None:
    logits = some_logits(3, 4, size)
    logits[1, [2, 5, 7]] = 30.0
    logits[2, 6] = np.nextafter(logits[2].max(), np.float32(100))
    logits[3] = -np.inf
    logits[3, [4, 8]] = -1e4
    expected = [int(np.argmax(row)) for row in logits]
    assert expected[1:] == [2, 6, 4]
    for sampling in (Sampling(0.0), Sampling(0.0, top_k=3), Sampling(1e-300), Sampling(0.0, top_p=0.1, min_p=0.9)):
        assert choose(logits, [sampling] * 4, [0.999] * 4) == expected
    biased = Sampling(0.0, bias=((2, -1.0), (7, 0.5)))
    assert choose(logits, [biased] * 4, [0.5] * 4)[1] == 7


def test_of_equally_likely_symbols_top_k_keeps_the_first(choose: Choose) -> None:
    logits = np.zeros((1, 9), dtype=np.float32)
    drawn = {choose(logits, [Sampling(top_k=4)], [uniform])[0] for uniform in np.linspace(0.01, 0.99, 50)}
    assert drawn == {0, 1, 2, 3}


def test_top_p_keeps_the_symbol_that_reaches_it_and_none_beyond(choose: Choose) -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], dtype=np.float32))
    for top_p, kept in ((0.49, {0}), (0.51, {0, 1}), (0.74, {0, 1}), (0.76, {0, 1, 2}), (1e-40, {0})):
        drawn = {choose(logits, [Sampling(top_p=top_p)], [u])[0] for u in np.linspace(0.001, 0.999, 60)}
        assert drawn == kept


def test_min_p_is_a_share_of_the_likeliest(choose: Choose) -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], dtype=np.float32))
    for min_p, kept in ((0.51, {0}), (0.49, {0, 1}), (0.26, {0, 1}), (0.24, {0, 1, 2, 3}), (1 - 2**-53, {0})):
        drawn = {choose(logits, [Sampling(min_p=min_p)], [u])[0] for u in np.linspace(0.001, 0.999, 60)}
        assert drawn == kept


@given(temperature=st.floats(0, 100), bias=st.floats(-100, 100))
def test_whatever_the_temperature_what_the_graph_gets_is_finite(temperature: float, bias: float) -> None:
    sampling = Sampling(temperature, bias=((1, bias),))
    rows = SamplingRows([sampling], np.array([-np.inf, 0, 0], dtype=np.float32))
    assert np.isfinite(rows.inverse_temperature_B1).all()
    assert (rows.inverse_temperature_B1 > 0).all()
    assert rows.bias.tolist() == [[-math.inf, float(np.float32(bias)), 0.0]]
    assert sampling.greedy == (rows.inverse_temperature_B1[0, 0] == 2.0**66) or temperature > 0


@given(st.lists(SETTINGS, min_size=1, max_size=9), st.data())
@few
def test_rows_that_join_and_leave_keep_their_settings(samplings: list[Sampling], data: st.DataObject) -> None:
    barred = np.array([-np.inf, *[0] * 8], dtype=np.float32)
    cut = data.draw(st.integers(0, len(samplings)))
    kept = data.draw(st.permutations(range(len(samplings)))).copy()[: data.draw(st.integers(0, len(samplings)))]
    rows = SamplingRows(samplings[:cut], barred)
    rows.bias  # noqa: B018 - what is computed once must not outlive a change
    rows.join(SamplingRows(samplings[cut:], barred))
    rows.bias  # noqa: B018
    rows.keep(np.array(kept, dtype=np.int64))
    fresh = SamplingRows([samplings[row] for row in kept], barred)
    for name in ("greedy_B", "inverse_temperature_B1", "top_k_B1", "top_p_B1", "min_p_B1", "bias"):
        assert getattr(rows, name).tolist() == getattr(fresh, name).tolist()


# --- What an engine writes, against a plain loop over the portable graph


def takes(decoder: codecs.IncrementalDecoder, byte: int) -> bool:
    """Whether Python's own decoder takes `byte` next."""
    before = decoder.getstate()
    try:
        decoder.decode(bytes([byte]))
    except UnicodeDecodeError:
        return False
    finally:
        decoder.setstate(before)
    return True


def barred_in(model: Model, decoder: codecs.IncrementalDecoder) -> list[int]:
    if model.vocabulary.alphabet == "bytes":
        return [0, *(1 + byte for byte in range(256) if not takes(decoder, byte))]
    return [0]


@pytest.mark.parametrize("name", ["characters", "bytes", "lines", "byte-lines", "gru", "gru-reset-before", "rnn"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.0), Sampling(1.4, 40, 0.9), Sampling(min_p=0.02)])
def test_an_engine_writes_what_a_plain_loop_may(
    kinds_folder: Path, kinds_loaded: dict[str, Model], name: str, sampling: Sampling
) -> None:
    """One row, one symbol and one call at a time; of bytes, Python's decoder says which may come."""
    model, artifact = kinds_loaded[name], read_artifact(kinds_folder / name / "1")
    session, decoder = open_session(artifact.graph, CPU, 1), codecs.getincrementaldecoder("utf-8")()
    ids, seed, max_characters = model.vocabulary.encode("\nThe é你𝄞"), 3, 40
    state = State.after_first(int(ids[0]), model.state_shape, seed)
    advances = run_alone(model, Sequence(state, ids[1:], max_characters, sampling, score_decode=True))
    written = np.concatenate([advance.written for advance in advances]).tolist()
    scores, expected_scores = np.concatenate([advance.log_probabilities for advance in advances]), [0.0]
    h, c = (part[:, np.newaxis] for part in (state.h, state.c))
    for position, symbol in enumerate([*ids, *written][:-1], start=1):
        logits, h, c = session.run(["logits", "h_out", "c_out"], {"tokens": np.array([[symbol]]), "h": h, "c": c})
        if position < len(ids):
            continue
        chosen = written[position - len(ids)]
        barred = logits[0, 0].copy()
        barred[barred_in(model, decoder)] = -np.inf
        start = np.array([position // 4 * 4], dtype=np.uint64)
        uniform = float(uniforms(np.array([seed], dtype=np.uint64), start, 4)[0, position % 4])
        assert chosen in admissible(barred, sampling, uniform, 2e-5)
        exact = logits[0, 0].astype(np.float64)
        expected_scores[-1] += exact[chosen] - exact.max() - math.log(np.exp(exact - exact.max()).sum())
        if model.symbols.single or decoder.decode(bytes([chosen - 1])):
            expected_scores.append(0.0)
    assert len(scores) == len(expected_scores) - 1
    np.testing.assert_allclose(scores, expected_scores[:-1], rtol=0, atol=1e-4)
    last = advances[-1].state
    assert last is not None
    ended = written[-1] == model.symbols.end
    assert ended == (advances[-1].finish is Finish.END)
    assert len(scores) == max_characters or ended
    np.testing.assert_allclose(last.h, h[:, 0] * (not ended), rtol=0, atol=1e-4)
    np.testing.assert_allclose(last.c, c[:, 0] * (not ended), rtol=0, atol=1e-4)


def run_alone(model: Model, sequence: Sequence) -> list[StepOutput]:
    engine, advances = Engine(model), list[StepOutput]()
    engine.add(sequence)
    while len(engine):
        advances += engine.step(16, 1000)
    return advances


# --- Log-probabilities as they are handed out


def test_log_probabilities_are_handed_out_as_multiples_of_a_quantum() -> None:
    scores = -np.random.default_rng(7).exponential(3, size=500).astype(np.float32)
    scores[:3] = 0.0, -0.0, -1e-12
    found = quantized(scores)
    assert np.max(np.abs(found - scores)) <= LOG_PROBABILITY_QUANTUM / 2
    assert (found / LOG_PROBABILITY_QUANTUM == np.rint(found / LOG_PROBABILITY_QUANTUM)).all()
    assert not np.signbit(found[:3]).any()


@given(SEEDS, st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_sums_of_parts_are_exact_in_any_order(seed: int, lengths: list[int]) -> None:
    scores = quantized(-np.random.default_rng(seed).exponential(3, size=sum(lengths)).astype(np.float32))
    parts = np.split(scores, np.cumsum(lengths)[:-1])
    total = float(scores.sum())
    assert sum(float(part.sum()) for part in parts) == total == math.fsum(scores) == float(scores[::-1].sum())
