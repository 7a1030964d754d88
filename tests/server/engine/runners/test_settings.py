"""How a model runs on a device: in which precision, and with how many rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from segue_export.artifact import Artifact, read_artifact
from segue_export.graphs.quantization import halve
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.runners.device_runner import DeviceRunner
from segue_server.engine.runners.runner import Reading
from segue_server.engine.runners.settings import (
    FIXED_BUCKETS,
    MOST_FLOAT16_RISE,
    Batching,
    DeviceSettings,
    Precision,
)
from segue_server.engine.sequence import Sequence, State
from segue_server.runtime.self_check import check


@pytest.fixture(scope="module")
def artifact(kinds_folder: Path) -> Artifact:
    return read_artifact(kinds_folder / "characters" / "1")


def on_device(artifact: Artifact, precision: Precision, buckets: tuple[int, ...] = (4,)) -> Model:
    return Model(artifact, settings=DeviceSettings(buckets, precision, simulated=True))


def measured(artifact: Artifact, rise: float | None) -> Artifact:
    return replace(artifact, manifest=replace(artifact.manifest, float16_rise=rise))


def halved(artifact: Artifact) -> Artifact:
    manifest = replace(artifact.manifest, weights="float16")
    return replace(artifact, manifest=manifest, weights=halve(dict(artifact.weights), manifest.layers))


def scores(model: Model) -> np.ndarray:
    ids = np.random.default_rng(0).integers(1, len(model.vocabulary), (20, 3))
    layers, hidden = model.state_shape
    zeros = np.zeros((layers, 3, hidden), dtype=np.float32)
    reading = Reading(ids[:-1], ids[1:], np.full(3, 19))
    return model.read(model.scatter(zeros, zeros), reading).log_probabilities_TB


@pytest.mark.parametrize(
    ("rise", "expected"),
    [
        (None, Precision.FLOAT32),
        (-0.001, Precision.FLOAT16),
        (MOST_FLOAT16_RISE, Precision.FLOAT16),
        (MOST_FLOAT16_RISE * 1.01, Precision.FLOAT32),
    ],
)
def test_float16_is_the_default_where_it_was_measured_to_cost_little(
    artifact: Artifact, rise: float | None, expected: Precision
) -> None:
    assert on_device(measured(artifact, rise), Precision.AUTO).precision is expected


def test_weights_that_are_stored_in_float16_are_multiplied_so(artifact: Artifact) -> None:
    assert on_device(halved(artifact), Precision.AUTO).precision is Precision.FLOAT16


def test_the_cpu_has_no_choice(artifact: Artifact) -> None:
    assert Model(artifact).precision is None


def test_precision_is_what_is_computed_with(artifact: Artifact) -> None:
    """The same numbers as an artifact in float16, and others than in float32, which are those of the CPU."""
    exact = scores(Model(artifact))
    assert scores(on_device(artifact, Precision.FLOAT32)).tobytes() == exact.tobytes()
    rounded = scores(on_device(artifact, Precision.FLOAT16))
    assert 0 < np.abs(rounded - exact).max() < 0.02
    assert scores(on_device(halved(artifact), Precision.AUTO)).tobytes() == rounded.tobytes()
    assert scores(on_device(halved(artifact), Precision.FLOAT32)).tobytes() == scores(Model(halved(artifact))).tobytes()


def test_at_one_size_no_sequence_feels_others_where_it_does_at_several(artifact: Artifact) -> None:
    """Products of float16 on the CPU are such a case: one row is multiplied in another way than several."""
    fixed, free = (check(on_device(artifact, Precision.FLOAT16, buckets)) for buckets in ((8,), (1, 8)))
    assert (fixed.reproducible, free.reproducible) == (True, False)
    assert fixed.host_class != check(on_device(artifact, Precision.FLOAT32, (8,))).host_class


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_every_run_has_one_size_where_batching_is_fixed(artifact: Artifact, rows: int) -> None:
    model = on_device(artifact, Precision.FLOAT32, (4,))
    engine = Engine(model)
    for seed in range(rows):
        ids = np.arange(1, 20 + seed)
        engine.add(Sequence(State.after_first(1, model.state_shape, seed), ids, 30, score_prefill=True))
    while len(engine):
        engine.step(16, 2**20)
    runner = model._runner
    assert isinstance(runner, DeviceRunner)
    sessions = [runner._giving, runner._taking, *runner._graphs._sessions.values()]
    assert {key[0] for session in sessions for key in session._bindings} == {4}


def test_batching_is_fixed_unless_it_is_set_free() -> None:
    assert DeviceSettings().buckets == Batching.FIXED.buckets == FIXED_BUCKETS
    assert len(FIXED_BUCKETS) == 1
    assert len(Batching.FREE.buckets) > 1
