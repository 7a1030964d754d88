"""States that stay on a device, against arrays: the same to the bit, and nothing of anybody else's."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from segue_export.artifact import Artifact, read_artifact
from segue_export.graphs.quantization import quantize
from segue_server.engine.engine import Engine
from segue_server.engine.model import Device, Model
from segue_server.engine.runners.device_graphs import LENGTHS
from segue_server.engine.runners.onnx_session import CPU, cuda_is_built_in, open_session
from segue_server.engine.runners.runner import Reading, ReadResult, WriteResult, Writing
from segue_server.engine.runners.settings import BUCKETS, DeviceSettings
from segue_server.engine.sampling import Sampling, SamplingRows
from segue_server.engine.sequence import Sequence, State
from segue_server.errors import StartupError

KINDS = ("characters", "int8", "bytes", "byte-lines", "gru", "gru-reset-before", "rnn")
STEPS = (1, 3, 4, 5, 17, 37)
ROWS = 6
Pair = tuple[Model, Model]


def in_8_bits(artifact: Artifact) -> Artifact:
    manifest = replace(artifact.manifest, weights="int8")
    return replace(artifact, manifest=manifest, weights=quantize(dict(artifact.weights), manifest.layers))


@pytest.fixture(scope="module", params=KINDS)
def pair(kinds_folder: Path, request: pytest.FixtureRequest) -> Pair:
    """The same model with arrays and on a device, where 6 rows take two runs: of 4, and of 2 filled up to 4."""
    name = request.param
    artifact = read_artifact(kinds_folder / ("characters" if name == "int8" else name) / "1")
    if name == "int8":
        artifact = in_8_bits(artifact)
    return Model(artifact), Model(artifact, settings=DeviceSettings((1, 4), simulated=True))


def state(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """States of six rows; without a memory cell, c is zero."""
    generator = np.random.default_rng(0)
    layers, hidden = model.state_shape
    h, c = generator.uniform(-1, 1, (2, layers, ROWS, hidden)).astype(np.float32)
    return h, c if model.manifest.architecture == "lstm" else np.zeros_like(c)


def same_states(ours: tuple[Model, ReadResult | WriteResult], theirs: tuple[Model, ReadResult | WriteResult]) -> bool:
    """Whether the states after two results have the same bits."""
    found = [model.gather(result.rows) for model, result in (ours, theirs)]
    return all(a.tobytes() == b.tobytes() for a, b in zip(*found, strict=True))


def read_by(result: ReadResult, row: int, count: int) -> list[bytes]:
    """All that a row got for its first `count` symbols."""
    parts = [result.log_probabilities_TB]
    if result.ranks_TB is not None and result.likeliest is not None:
        parts += [result.ranks_TB, result.likeliest.ids_KBA, result.likeliest.log_probabilities_KBA]
    return [part[:count, row].tobytes() for part in parts]


@pytest.mark.parametrize("steps", STEPS)
def test_reading_is_the_same_to_the_bit(pair: Pair, steps: int) -> None:
    symbols = np.random.default_rng(1).integers(1, len(pair[0].vocabulary), size=(steps + 1, ROWS))
    uneven = np.maximum(1, np.array([steps, steps // 2, 1, steps - 1, 16, 5]).clip(max=steps))
    for length, alternatives in product((np.full(ROWS, steps), uneven), (None, 3, 10**6)):
        reading = Reading(symbols[:-1], symbols[1:], length, alternatives)
        arrays, device = (model.read(model.scatter(*state(model)), reading) for model in pair)
        for row, count in enumerate(length.tolist()):
            assert read_by(arrays, row, count) == read_by(device, row, count)
        assert same_states((pair[0], arrays), (pair[1], device))
        assert device.finite_B.tolist() == [True] * ROWS


@pytest.mark.parametrize("steps", STEPS)
def test_writing_is_the_same_to_the_bit(pair: Pair, steps: int) -> None:
    token = np.arange(40, 40 + ROWS)
    uniform = np.random.default_rng(2).random((steps, ROWS)).astype(np.float32)
    for filtered, scored, alternatives in product((False, True), (False, True), (0, 4, 30)):
        kinds = [Sampling(0.8, bias=((3, 2.0),)), Sampling(), Sampling(0.0)]
        if filtered:
            kinds += [Sampling(1.3, 5), Sampling(1.0, top_p=0.8), Sampling(2.0, 9, 0.9, 0.1)]
        sampling = SamplingRows((kinds * 2)[:ROWS], pair[0].symbols.barred)

        spelling = np.zeros(ROWS, dtype=np.int64)
        writing = Writing(token, spelling, sampling, uniform, filtered, scored, alternatives)
        arrays, device = (model.write(model.scatter(*state(model)), writing) for model in pair)
        for name in ("ids_KB", "spelling_B", "finite_B"):
            assert getattr(arrays, name).tobytes() == getattr(device, name).tobytes(), name
        assert same_states((pair[0], arrays), (pair[1], device))
        assert arrays.ids_KB.shape == (steps, ROWS)
        scores, again = arrays.log_probabilities_KB, device.log_probabilities_KB
        assert (scores is None, again is None) == (not (scored or alternatives),) * 2
        assert scores is None or again is None or scores.tobytes() == again.tobytes()
        if arrays.likeliest is not None and device.likeliest is not None:
            assert arrays.likeliest.ids_KBA.tolist() == device.likeliest.ids_KBA.tolist()
        assert (arrays.likeliest is None, device.likeliest is None) == (not alternatives,) * 2


def test_an_engine_gives_the_same_with_either(pair: Pair) -> None:
    def outcome(model: Model, seed: int) -> tuple[object, ...]:
        ids = model.vocabulary.encode("\nThe é cats 你𝄞"[: 3 + seed])
        begun = State.after_first(int(ids[0]), model.state_shape, seed)
        sampling = Sampling(1.2, 30) if seed % 2 else Sampling()
        sequence = Sequence(begun, ids[1:], 10 + 7 * seed, sampling, score_prefill=True, score_decode=True)
        engine, advances = Engine(model), []
        engine.add(sequence)
        while len(engine):
            advances += engine.step(37, 1000)
        end = advances[-1].state
        return (
            [a.written.tolist() for a in advances],
            [a.log_probabilities.tolist() for a in advances],
            (end.h.tobytes(), end.c.tobytes(), end.last, end.position),
        )

    for seed in range(4):
        assert outcome(pair[0], seed) == outcome(pair[1], seed)


def test_any_number_of_steps_is_a_sum_of_runs_that_can_be_recorded() -> None:
    assert LENGTHS[-1] == 1
    assert list(LENGTHS) == sorted(LENGTHS, reverse=True)
    assert LENGTHS[0] <= 32, "CUDA cannot record a Concat of more"
    assert list(BUCKETS) == sorted(BUCKETS)


def test_a_graph_that_is_none_is_refused_at_start() -> None:
    with pytest.raises(StartupError, match=f"cannot load the model on {CPU}"):
        open_session(b"no graph", CPU, 1)
    with pytest.raises(StartupError):
        open_session(b"", CPU, 1)


def test_a_model_that_gives_no_numbers_is_refused_at_start(kinds_folder: Path) -> None:
    artifact = read_artifact(kinds_folder / "characters" / "1")
    broken = {name: np.full_like(value, np.nan) for name, value in artifact.weights.items()}
    with pytest.raises(StartupError, match="model characters version 1: its results are not finite numbers"):
        Model(replace(artifact, weights=broken))


def test_8_bits_run_on_the_cpu_alone(kinds_folder: Path) -> None:
    artifact = in_8_bits(read_artifact(kinds_folder / "characters" / "1"))
    with pytest.raises(StartupError, match="an int8 model runs on the CPU alone"):
        Model(artifact, Device.CUDA)
    assert Model(artifact, Device.AUTO).provider == CPU


@pytest.mark.skipif(cuda_is_built_in(), reason="onnxruntime-gpu is installed")
def test_without_cuda_the_device_is_refused_or_the_cpu(kinds_folder: Path) -> None:
    artifact = read_artifact(kinds_folder / "characters" / "1")
    with pytest.raises(StartupError, match=r"--device cuda: the installed onnxruntime has no CUDA.*Use --device cpu"):
        Model(artifact, Device.CUDA)
    assert Model(artifact, Device.AUTO).provider == CPU


def test_the_reason_why_a_gpu_is_not_used_is_kept_or_raised(kinds_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("segue_server.engine.model.cuda_is_built_in", lambda: True)
    monkeypatch.setattr("segue_server.engine.model.cuda_major", lambda: 13)
    monkeypatch.setattr("segue_server.engine.model.why_no_gpu", "no GPU for CUDA {}".format)
    artifact = read_artifact(kinds_folder / "characters" / "1")
    assert Model(artifact, Device.AUTO).why_not_cuda == "no GPU for CUDA 13"
    assert not Model(artifact, Device.CPU).why_not_cuda
    with pytest.raises(StartupError, match=r"--device cuda: no GPU for CUDA 13\. Use --device cpu"):
        Model(artifact, Device.CUDA)


def test_an_error_of_cuda_becomes_one_line(kinds_folder: Path, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise StartupError("ONNX Runtime cannot load:\n  CUDA failure 2: out of memory\n\n")

    monkeypatch.setattr("segue_server.engine.model.cuda_is_built_in", lambda: True)
    monkeypatch.setattr("segue_server.engine.model.cuda_major", lambda: 13)
    monkeypatch.setattr("segue_server.engine.model.why_no_gpu", lambda _: "")
    monkeypatch.setattr("segue_server.engine.model.open_session", fails)
    with pytest.raises(StartupError, match=r"cannot load: CUDA failure 2: out of memory\. Use --device cpu"):
        Model(read_artifact(kinds_folder / "characters" / "1"), Device.CUDA)
