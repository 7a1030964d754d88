"""What float16 costs, measured at export."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from segue_export.artifact import read_artifact
from segue_export.checks.float16 import MOST_SYMBOLS, float16_rise
from segue_export.cli import export
from segue_export.export import describe
from segue_export.manifest import Manifest, Weights
from segue_training.train.checkpoint import Checkpoint, save_checkpoint

ROWS = 64


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Checkpoint]) -> tuple[Checkpoint, Manifest, Weights]:
    checkpoint = make_checkpoint(layers=2, hidden=24, seed=1)
    weights = {name: 3 * weight.numpy() for name, weight in checkpoint.weights.items()}
    return checkpoint, describe(checkpoint), weights


def text(manifest: Manifest, symbols: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, len(manifest.vocabulary), symbols)


def nats_by_torch(checkpoint: Checkpoint, weights: Weights, ids: np.ndarray) -> float:
    """In float64, by torch's own layers, of the same rows."""
    module = checkpoint.build_model().double()
    module.load_state_dict({name: torch.from_numpy(value.astype(np.float64)) for name, value in weights.items()})
    columns = (len(ids) - 1) // ROWS
    rows = torch.from_numpy(ids[: ROWS * columns].reshape(ROWS, columns))
    targets = torch.from_numpy(ids[1 : ROWS * columns + 1].reshape(ROWS, columns))
    with torch.no_grad():
        logits = module(rows, *(part.double() for part in module.zero_state(ROWS)))[0]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_it_is_what_rounding_the_matrices_makes_of_the_perplexity_and_a_little_more(
    model: tuple[Checkpoint, Manifest, Weights],
) -> None:
    checkpoint, manifest, weights = model
    ids = text(manifest, 4000)
    rounded = {
        name: value.astype(np.float16).astype(np.float32) if value.ndim == 2 and "embedding" not in name else value
        for name, value in weights.items()
    }
    rounded["recurrent.weight_ih_l0"] = weights["recurrent.weight_ih_l0"]  # is part of a table, which is not rounded
    by_matrices = math.expm1(nats_by_torch(checkpoint, rounded, ids) - nats_by_torch(checkpoint, weights, ids))
    found = float16_rise(manifest, weights, ids)
    assert found is not None
    assert found != 0
    assert found == pytest.approx(by_matrices, abs=5e-4)  # h and products are rounded, too


def test_weights_that_float16_cannot_hold_have_no_figure(model: tuple[Checkpoint, Manifest, Weights]) -> None:
    _, manifest, weights = model
    ids = text(manifest, 2000)
    large = {**weights, "output.weight": weights["output.weight"] * np.float32(1e6)}
    assert float16_rise(manifest, large, ids) is None


def test_a_short_text_says_nothing_and_a_long_one_is_cut(model: tuple[Checkpoint, Manifest, Weights]) -> None:
    _, manifest, weights = model
    assert float16_rise(manifest, weights, text(manifest, 2 * ROWS)) is None
    long = text(manifest, MOST_SYMBOLS + 500)
    assert float16_rise(manifest, weights, long) == float16_rise(manifest, weights, long[:MOST_SYMBOLS])


def test_what_is_known_of_float16_makes_no_other_model(model: tuple[Checkpoint, Manifest, Weights]) -> None:
    """Tickets of one export are continued by another."""
    _, manifest, _ = model
    assert replace(manifest, float16_rise=0.1).family == manifest.family
    assert Manifest.from_json(replace(manifest, float16_rise=0.1).to_json()).float16_rise == 0.1


def test_export_measures_it_on_the_text_that_it_is_given(
    model: tuple[Checkpoint, Manifest, Weights], tmp_path: Path
) -> None:
    checkpoint, manifest, _ = model
    save_checkpoint(tmp_path / "run", checkpoint)
    (tmp_path / "text.txt").write_text("The cats sat.\n" * 400)
    arguments = [str(tmp_path / "run"), "--models", str(tmp_path / "models"), "--name", "m"]
    unknown = CliRunner().invoke(export, arguments)
    assert "not measured, so that float32 is served there; --text SOURCE measures it" in unknown.output
    assert read_artifact(tmp_path / "models" / "m" / "1").manifest.float16_rise is None
    known = CliRunner().invoke(export, [*arguments, "--text", str(tmp_path / "text.txt"), "--json"])
    found = read_artifact(tmp_path / "models" / "m" / "2").manifest.float16_rise
    assert found is not None
    assert json.loads(known.stdout)["float16_rise"] == found
    assert "in float16 on a GPU: perplexity +" in CliRunner().invoke(
        export, [*arguments, "--text", str(tmp_path / "text.txt")]
    ).output.replace("-0.", "+0.")
    missing = CliRunner().invoke(export, [*arguments, "--text", str(tmp_path / "none.txt")])
    assert missing.exit_code != 0
    assert manifest.float16_rise is None
