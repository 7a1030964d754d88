"""The server's graphs against torch, the portable graph and NumPy; and against themselves, cut in other ways."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from pooled import run_pooled
from segue_export.export import describe
from segue_export.graphs.portable import portable_graph
from segue_export.graphs.quantization import ACTIVATION_SCALE, OUTPUT_SCALE, dequantize, layer_scale, quantize
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.unrolled import giving_graph, taking_graph
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_export.manifest import Manifest
from segue_server.engine.runners.onnx_session import CPU, open_session
from segue_server.engine.sampling import Sampling, SamplingRows
from segue_server.engine.symbols import Symbols
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint

Arrays = dict[str, NDArray[Any]]
ARCHITECTURES = ("lstm", "gru", "gru-reset-before", "rnn")
ROWS, STEPS, HIDDEN = 5, 9, 12
every_shape = pytest.mark.parametrize(("architecture", "layers"), [*product(ARCHITECTURES, (1, 2, 3))])
every_weight = pytest.mark.parametrize("weights", ["float32", "int8"])


@dataclass(frozen=True)
class Subject:
    """A model, what it is made of, and something to read."""

    checkpoint: Checkpoint
    manifest: Manifest
    weights: Arrays

    @property
    def size(self) -> int:
        return len(self.manifest.vocabulary)

    def in_8_bits(self) -> "Subject":
        manifest = dataclasses.replace(self.manifest, weights="int8")
        return Subject(self.checkpoint, manifest, quantize(self.weights, manifest.layers))

    def state(self, rows: int = ROWS, seed: int = 0) -> Arrays:
        shape = (self.manifest.layers, rows, self.manifest.hidden)
        generator = np.random.default_rng(seed)
        return {name: generator.uniform(-1, 1, shape).astype(np.float32) for name in "hc"}

    def text(self, steps: int = STEPS, rows: int = ROWS) -> Arrays:
        symbols = np.random.default_rng(1).integers(self.size, size=(steps + 1, rows))
        return {"tokens": symbols[:-1], "targets": symbols[1:]}

    def settings(self, rows: int = ROWS, *, filtered: bool = False) -> Arrays:
        """One of each kind of sampling."""
        kinds = [Sampling(), Sampling(0.6, 5), Sampling(1.4, 0, 0.7), Sampling(0.0), Sampling(1.0, 9, 0.9, 0.02)]
        if not filtered:
            kinds = [Sampling(sampling.temperature, bias=((3, 1.0), (7, -np.inf))) for sampling in kinds]
        sampling = SamplingRows([kinds[row % 5] for row in range(rows)], np.zeros(self.size, dtype=np.float32))
        bias = np.repeat(sampling.bias, rows // len(sampling.bias), axis=0)
        feed = {"bias": bias, "inverse_temperature": sampling.inverse_temperature_B1}
        if filtered:
            feed |= {"top_k": sampling.top_k_B1, "top_p": sampling.top_p_B1, "min_p": sampling.min_p_B1}
        return feed

    def reading(self, **options: Any) -> onnxruntime.InferenceSession:
        return open_session(reading_graph(Step(self.manifest, self.weights), **options), CPU, 1)

    def writing(self, automaton: Any = None, **variant: Any) -> onnxruntime.InferenceSession:
        return open_session(
            writing_graph(Step(self.manifest, self.weights), WritingVariant(**variant), automaton), CPU, 1
        )


@pytest.fixture(scope="session")
def subject(make_checkpoint: Callable[..., Checkpoint]) -> Callable[..., Subject]:
    """Return the function that makes a model."""

    @cache
    def make(
        architecture: str = "lstm", layers: int = 1, weights: str = "float32", vocabulary: Vocabulary | None = None
    ) -> Subject:
        options = {"vocabulary": vocabulary} if vocabulary else {}
        checkpoint = make_checkpoint(layers, HIDDEN, layers, architecture, **options)
        made = Subject(checkpoint, describe(checkpoint), {k: w.numpy() for k, w in checkpoint.weights.items()})
        return made.in_8_bits() if weights == "int8" else made

    return make


def run(session: onnxruntime.InferenceSession, **feed: Any) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def steps(count: int) -> Arrays:
    return {"steps": np.array(count)}


def row(arrays: Arrays, at: slice) -> Arrays:
    """One row of inputs or outputs."""
    axes = {"length": 0, "inverse_temperature": 0, "bias": 0, "top_k": 0, "top_p": 0, "min_p": 0, "spelling": 0}
    axes |= {"token": 0, "spelling_out": 0}
    return {
        name: value[at] if axes.get(name, 1) == 0 else value[:, at] if value.ndim else value
        for name, value in arrays.items()
    }


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].shape == expected[name].shape, name
        assert found[name].tobytes() == expected[name].tobytes(), name


@every_shape
def test_reading_computes_what_torch_computes(subject: Callable[..., Subject], architecture: str, layers: int) -> None:
    made = subject(architecture, layers)
    text, state = made.text(), made.state()
    found = run(made.reading(ragged=False), **steps(STEPS), **text, **state)
    model = made.checkpoint.build_model()
    tokens_BT, h, c = (torch.from_numpy(np.ascontiguousarray(v)) for v in (text["tokens"].T, state["h"], state["c"]))
    with torch.inference_mode():
        logits_BTV, *after = model(tokens_BT, *((h, c) if architecture == "lstm" else (h,)))
    scores_BTV = logits_BTV.double().log_softmax(dim=-1).numpy()
    expected_TB = np.take_along_axis(scores_BTV, text["targets"].T[..., np.newaxis], axis=2)[..., 0].T
    np.testing.assert_allclose(found["log_probabilities"], expected_TB, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["h_out"], after[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["c_out"], after[1] if architecture == "lstm" else c, rtol=0, atol=1e-5)


@every_weight
@every_shape
def test_reading_is_the_same_to_the_bit_however_it_is_cut(
    subject: Callable[..., Subject], architecture: str, layers: int, weights: str
) -> None:
    """In one loop, written out, by rows, in two parts, and of different lengths."""
    made = subject(architecture, layers, weights)
    text, state = made.text(), made.state()
    loop, ragged = made.reading(ragged=False), made.reading(ragged=True)
    whole = run(loop, **steps(STEPS), **text, **state)
    assert_same_bits(run_pooled(made.reading(ragged=False, unrolled=STEPS), **text, **state), whole)
    for at in (slice(0, 1), slice(2, 3), slice(1, 4)):
        assert_same_bits(run(loop, **steps(STEPS), **row(text | state, at)), row(whole, at))
    first = run(loop, **steps(4), **{name: value[:4] for name, value in text.items()}, **state)
    rest = {name: value[4:] for name, value in text.items()} | {"h": first["h_out"], "c": first["c_out"]}
    last = run(loop, **steps(STEPS - 4), **rest)
    assert_same_bits({k: last[k] for k in ("h_out", "c_out")}, {k: whole[k] for k in ("h_out", "c_out")})
    joined = np.concatenate([first["log_probabilities"], last["log_probabilities"]])
    assert joined.tobytes() == whole["log_probabilities"].tobytes()
    length = {"length": np.array([[3], [STEPS], [1], [6], [2]])}
    uneven = run(ragged, **steps(STEPS), **text, **state, **length)
    assert_same_bits(run_pooled(made.reading(ragged=True, unrolled=STEPS), **text, **state, **length), uneven)
    for i, count in enumerate(length["length"][:, 0].tolist()):
        one = row(text | state, slice(i, i + 1))
        one |= {name: one[name][:count] for name in text}
        alone = run(loop, **steps(count), **one)
        among = row(uneven, slice(i, i + 1))
        assert (among["log_probabilities"][:count] == alone["log_probabilities"]).all()
        for part in ("h_out", "c_out"):  # Where gives up the sign of a zero, and so does the server
            assert (among[part] == alone[part]).all()


@every_weight
@every_shape
def test_writing_is_the_same_to_the_bit_however_it_is_cut_and_reads_the_same(
    subject: Callable[..., Subject], architecture: str, layers: int, weights: str
) -> None:
    made = subject(architecture, layers, weights)
    uniform = np.random.default_rng(2).random((STEPS, ROWS, 1)).astype(np.float32)
    begin = {"token": np.arange(1, ROWS + 1), **made.state(), **made.settings()}
    scored = made.writing(scored=True)
    whole = run(scored, **steps(STEPS), **begin, uniform=uniform)
    unscored = {name: value for name, value in whole.items() if name != "log_probabilities"}
    assert_same_bits(run(made.writing(), **steps(STEPS), **begin, uniform=uniform), unscored)
    assert_same_bits(run_pooled(made.writing(scored=True, unrolled=STEPS), **begin, uniform=uniform), whole)
    for at in (slice(0, 1), slice(2, 3), slice(1, 4)):
        alone = run(scored, **steps(STEPS), **row(begin, at), uniform=uniform[:, at])
        assert_same_bits(alone, row(whole, at))
    first = run(scored, **steps(4), **begin, uniform=uniform[:4])
    rest = begin | {"token": first["ids"][-1], "h": first["h_out"], "c": first["c_out"]}
    last = run(scored, **steps(STEPS - 4), **rest, uniform=uniform[4:])
    for name in whole:
        cut = last[name] if name.endswith("_out") else np.concatenate([first[name], last[name]])
        assert cut.tobytes() == whole[name].tobytes()
    tokens = np.concatenate([begin["token"][np.newaxis], whole["ids"][:-1]])
    read = run(made.reading(ragged=False), **steps(STEPS), tokens=tokens, targets=whole["ids"], **made.state())
    for part in ("h_out", "c_out"):
        assert read[part].tobytes() == whole[part].tobytes()
    assert read["log_probabilities"].tobytes() == whole["log_probabilities"].tobytes()


@every_weight
@pytest.mark.parametrize("filtered", [False, True])
def test_an_automaton_bars_symbols_and_nothing_else_changes(
    subject: Callable[..., Subject], weights: str, filtered: bool
) -> None:
    made = subject(weights=weights, vocabulary=Vocabulary.of_bytes())
    symbols = Symbols.of(Vocabulary.of_bytes())
    rows = 40
    begin = {"token": np.full(rows, 40), **made.state(rows), **made.settings(rows, filtered=filtered)}
    uniform = np.random.default_rng(2).random((STEPS, rows, 1)).astype(np.float32)
    loop = made.writing(symbols.automaton, filtered=filtered)
    spelling = np.arange(rows) % len(symbols.next_SV)
    found = run(loop, **steps(STEPS), **begin, uniform=uniform, spelling=spelling)
    written_out = made.writing(symbols.automaton, filtered=filtered, unrolled=STEPS)
    assert_same_bits(run_pooled(written_out, **begin, uniform=uniform, spelling=spelling), found)
    for at in (slice(0, 1), slice(3, 20)):
        alone = run(loop, **steps(STEPS), **row(begin | {"spelling": spelling}, at), uniform=uniform[:, at])
        assert_same_bits(alone, row(found, at))
    free = made.writing(filtered=filtered)
    states, token, visited = spelling, begin["token"], set[int]()
    for step in range(STEPS):  # the same, one step at a time, with the bars in the bias
        barred = np.where(symbols.next_SV[states] < 0, -np.inf, 0).astype(np.float32)
        now = begin | {"token": token, "bias": begin["bias"] + barred}
        after = run(free, **steps(1), **now, uniform=uniform[step : step + 1])
        token = after["ids"][0]
        assert token.tolist() == found["ids"][step].tolist()
        states = symbols.next_SV[states, token]
        visited |= set(states.tolist())
        begin |= {"h": after["h_out"], "c": after["c_out"]}
    assert states.tolist() == found["spelling_out"].tolist()
    assert visited > {0, 1, 2}


# --- Weights in 8 bits


def eighths(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a product in 8 bits sees of `x`."""
    return np.rint(x * 63) / 63


def step_by_hand(made: Subject, token: int, h_LH: NDArray[Any], c_LH: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """One step of an int8 model in float64: weights as they are stored, what they meet rounded, nothing else.

    Returns h, c, the logits, and how near what is rounded comes to the middle between two steps of the scale.
    """
    stored = {name: value.astype(np.float64) for name, value in dequantize(made.weights, made.manifest.layers).items()}
    nearness = [0.5]

    def seen(x: NDArray[np.float64]) -> NDArray[np.float64]:
        nearness.append(float(np.abs(np.abs(x * 63 % 1) - 0.5).min()))
        return eighths(x)

    h_LH, c_LH = h_LH.astype(np.float64), c_LH.astype(np.float64)
    below = stored["embedding.weight"][token]
    for k in range(made.manifest.layers):
        W, R, b, a = (stored[f"recurrent.{part}_l{k}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = h_LH[k].copy()
        inputs, own = W @ (seen(below) if k else below) + b, R @ seen(h) + a
        match made.manifest.architecture:
            case "lstm":
                i, f, g, o = np.split(inputs + own, 4)
                c_LH[k] = sigmoid(f) * c_LH[k] + sigmoid(i) * np.tanh(g)
                h_LH[k] = sigmoid(o) * np.tanh(c_LH[k])
            case "rnn":
                h_LH[k] = np.tanh(inputs + own)
            case architecture:
                (ri, zi, ni), (ro, zo, no) = np.split(inputs, 3), np.split(own, 3)
                r, z = sigmoid(ri + ro), sigmoid(zi + zo)
                if architecture == "gru-reset-before":
                    no = np.split(R, 3)[2] @ seen(r * h) + np.split(a, 3)[2]
                    r = np.ones_like(r)
                h_LH[k] = z * h + (1 - z) * np.tanh(ni + r * no)
        below = h_LH[k]
    return h_LH, c_LH, stored["output.weight"] @ seen(below) + stored["output.bias"], min(nearness)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def scores_of_known(found: Arrays, size: int) -> Arrays:
    """The log-probabilities [K, B, V - 1] of all symbols but `<unk>`, which are all alternatives."""
    scores = np.full((*found["likeliest"].shape[:2], size), np.nan)
    np.put_along_axis(scores, found["likeliest"], found["likeliest_log_probabilities"], axis=2)
    return scores[..., 1:]


@every_shape
def test_in_8_bits_a_step_is_the_one_computed_by_hand(
    subject: Callable[..., Subject], architecture: str, layers: int
) -> None:
    """But for the addends, which are rounded to units of the product of two integers.

    A gate moves by half of such a unit, h and c by four times that at most. Layers do not add up: each sees the
    others' h rounded, except where that falls on the other side of a middle, and such rows are left out.
    """
    made, rows = subject(architecture, layers, "int8"), 900
    half_units = [made.weights[name].max() * ACTIVATION_SCALE / 2 for name in [*map(layer_scale, range(layers))]]
    allowed, in_logits = 4 * max(half_units), made.weights[OUTPUT_SCALE].max() * ACTIVATION_SCALE / 2
    state, token = made.state(rows), np.arange(rows) % made.size
    feed = {**made.settings(rows), "uniform": np.full((1, rows, 1), 0.5, dtype=np.float32)}
    feed["alternatives"] = np.array([made.size - 1])
    found = run(made.writing(alternatives=True), **steps(1), token=token, **state, **feed)
    scores_KBV = scores_of_known(found, made.size)
    compared = 0
    for b in range(rows):
        h, c, logits, nearness = step_by_hand(made, int(token[b]), state["h"][:, b], state["c"][:, b])
        if nearness < 63 * allowed:
            continue
        compared += 1
        np.testing.assert_allclose(found["h_out"][:, b], h, rtol=0, atol=allowed)
        np.testing.assert_allclose(found["c_out"][:, b], c, rtol=0, atol=allowed)
        scores = logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(scores_KBV[0, b], scores[1:], rtol=0, atol=2 * in_logits + 1e-5)
    assert compared >= 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_8_bits_are_near_the_portable_graph_of_the_same_weights(
    subject: Callable[..., Subject], architecture: str
) -> None:
    """As near as what is rounded to 1/63 explains: half of that for each weight, in each of two products."""
    made = subject(architecture, 1, "int8")
    stored, rows, state = dequantize(made.weights, 1), made.size, made.state(made.size)
    graph = portable_graph(dataclasses.replace(made.manifest, weights="float32"), stored)
    token = np.arange(rows)
    portable = run(open_session(graph, CPU, 1), tokens=token[:, np.newaxis], **state)
    feed = {**made.settings(rows), "uniform": np.full((1, rows, 1), 0.5, dtype=np.float32)}
    feed["alternatives"] = np.array([made.size - 1])
    found = run(made.writing(alternatives=True), **steps(1), token=token, **state, **feed)
    found["log_probabilities"] = scores_of_known(found, made.size)
    # No activation is steeper than 1; a gate multiplies what is at most 1 (an LSTM's h: after tanh), and at most
    # four of them meet in a value. The reset gate of a GRU scales a product, or what a product meets.
    weights_N = np.abs(stored["recurrent.weight_hh_l0"]).sum(axis=1)
    of_gate = float(weights_N.max()) / 126 + made.weights[layer_scale(0)].max() / 126
    scale = float(weights_N.max() + np.abs(stored["recurrent.bias_hh_l0"]).max()) if architecture == "gru" else 1.0
    of_h = of_gate * {"lstm": 1.75, "rnn": 1.0, "gru": 1.5 + scale / 4}.get(architecture, 1.5 + weights_N.max())
    of_logits = float(np.abs(stored["output.weight"]).sum(axis=1).max()) * (of_h + 1 / 126)
    scores = torch.from_numpy(portable["logits"][:, 0]).double().log_softmax(dim=1).numpy()[:, 1:]
    for name, expected, allowed in (
        ("h_out", portable["h_out"], of_h),
        ("c_out", portable["c_out"], of_h),
        ("log_probabilities", scores[np.newaxis], 2 * of_logits),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=allowed)
    typical = np.sqrt(((found["log_probabilities"] - scores) ** 2).mean())
    assert 0 < typical < 0.05, "errors of rounding add up like noise, far below the bound"
    assert np.corrcoef(found["log_probabilities"].ravel(), scores.ravel())[0, 1] > 0.999


def test_quantization_keeps_each_row_within_half_a_step(subject: Callable[..., Subject]) -> None:
    for architecture, layers in product(ARCHITECTURES, (1, 3)):
        made = subject(architecture, layers)
        in_8_bits = made.in_8_bits().weights
        back = dequantize(in_8_bits, layers)
        assert back.keys() == made.weights.keys()
        for name, before in made.weights.items():
            if in_8_bits[name].dtype != np.int8:
                assert back[name].tobytes() == before.tobytes()
                continue
            assert np.abs(in_8_bits[name].astype(int)).max() <= 127
            scale = in_8_bits[OUTPUT_SCALE if name == "output.weight" else layer_scale(int(name[-1]))]
            assert (np.abs(back[name] - before) <= scale[:, np.newaxis] * 0.5001).all()


def test_a_row_of_zeros_and_an_addend_out_of_range_do_no_harm(subject: Callable[..., Subject]) -> None:
    plain = subject("gru", 1)
    weights = {name: value.copy() for name, value in plain.weights.items()}
    weights["recurrent.weight_hh_l0"][3] = 0
    weights["output.weight"][:] = 0
    weights["output.bias"][:] = np.linspace(-1e6, 1e6, plain.size)
    weights["recurrent.bias_ih_l0"][5] = 1e9
    made = Subject(plain.checkpoint, plain.manifest, weights).in_8_bits()
    found = run(made.reading(ragged=False), **steps(STEPS), **made.text(), **made.state())
    assert all(np.isfinite(value).all() for value in found.values())


def test_graphs_are_valid_onnx(subject: Callable[..., Subject]) -> None:
    for architecture, layers, unrolled in product(ARCHITECTURES, (1, 2), (0, 3)):
        made = subject(architecture, layers)
        graphs = [
            reading_graph(Step(made.manifest, made.weights), ragged=ragged, unrolled=unrolled, ranked=2, result=result)
            for ragged, result in product((False, True), Result)
        ]
        graphs += [
            writing_graph(Step(made.manifest, made.weights), WritingVariant(*variant, unrolled, ranked=2))
            for variant in product((False, True), repeat=3)
        ]
        graphs += [giving_graph(made.manifest), taking_graph(made.manifest)]
        for graph in graphs:
            onnx.checker.check_model(graph, full_check=True)
