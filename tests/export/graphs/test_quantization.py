"""`segue export --quantize int8`: what is written, what it costs, and when it is refused."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from segue_client.commands.main import segue
from segue_export.artifact import find_artifacts, read_artifact
from segue_export.checks.evaluation import load_subject
from segue_export.errors import QuantizationError
from segue_export.export import Quantization, describe, export_checkpoint
from segue_export.graphs.quantization import halve, quantize
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.manifest import ARCHITECTURES
from segue_server.engine.model import Model
from segue_server.runtime.self_check import check
from segue_training.data.corpus import find_corpus
from segue_training.data.encoding import EncodedCorpus, encode_with
from segue_training.evaluation.evaluate import perplexity
from segue_training.train.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.txt"
    path.write_text("The cats, which already ate a bunch of food, were the cats. " * 30)
    return path


def saved(checkpoint: Checkpoint, folder: Path) -> Path:
    save_checkpoint(folder, checkpoint)
    return folder


def encoded(text: Path, folder: Path) -> EncodedCorpus:
    subject = load_subject(folder)
    return encode_with(find_corpus(str(text)), subject.vocabulary, subject.reading)


@pytest.mark.parametrize("weights_type", ["int8", "float16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_is_what_was_measured_and_what_is_served(
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
    text_file: Path,
    architecture: str,
    weights_type: Literal["int8", "float16"],
) -> None:
    checkpoint = make_checkpoint(2, 24, 1, architecture)
    folder = saved(checkpoint, tmp_path / "run")
    text = encoded(text_file, folder)
    done = export_checkpoint(folder, tmp_path / "models", "tiny", Quantization(weights_type, text, most=1.0))
    artifact = read_artifact(done.folder)
    assert artifact.manifest.weights == weights_type
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    expected = (quantize if weights_type == "int8" else halve)(weights, 2)
    assert artifact.weights.keys() == expected.keys()
    assert all(np.array_equal(artifact.weights[name], value) for name, value in expected.items())
    assert done.cost is not None
    subjects = [load_subject(folder), load_subject(done.folder)]
    before, after = (perplexity(subject.reader, text.ids, subject.vocabulary) for subject in subjects)
    assert done.cost.before.nats == pytest.approx(before.nats, abs=1e-5)
    assert done.cost.after.nats == after.nats
    assert done.cost.share == pytest.approx(math.exp(after.nats - before.nats) - 1, abs=1e-5)
    assert abs(done.cost.share) < 0.02
    assert check(Model(artifact)).reproducible


def test_more_than_is_allowed_is_refused_and_nothing_is_written(
    checkpoint: Checkpoint, tmp_path: Path, text_file: Path
) -> None:
    folder = saved(checkpoint, tmp_path / "run")
    with pytest.raises(QuantizationError, match=r"--allow-worse") as refusal:
        export_checkpoint(
            folder, tmp_path / "models", "tiny", Quantization("int8", encoded(text_file, folder), most=-0.5)
        )
    assert "held-out" in str(refusal.value)
    assert not (tmp_path / "models").exists()


def test_the_command_prints_both_perplexities(checkpoint: Checkpoint, tmp_path: Path, text_file: Path) -> None:
    folder = saved(checkpoint, tmp_path / "run")
    command = ["export", str(folder), "--models", str(tmp_path / "models"), "--quantize", "int8", "--allow-worse", "2"]
    result = CliRunner().invoke(segue, [*command, "--text", str(text_file)])
    assert result.exit_code == 0, result.output
    assert "in float32" in result.output
    assert "in int8" in result.output
    result = CliRunner().invoke(segue, [*command, "--text", str(text_file), "--json"])
    report = json.loads(result.output)
    assert report["perplexity_int8"] / report["perplexity"] == pytest.approx(1, abs=0.02)
    assert len(find_artifacts(tmp_path / "models")) == 2


def test_the_command_asks_for_a_text_where_the_corpus_is_not_known_by_name(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = saved(checkpoint, tmp_path / "run")
    result = CliRunner().invoke(segue, ["export", str(folder), "--quantize", "int8"])
    assert result.exit_code == 2
    assert "--text" in result.output


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_float16_the_graph_for_cuda_rounds_products_and_nothing_else(
    make_checkpoint: Callable[..., Checkpoint], architecture: str
) -> None:
    checkpoint = make_checkpoint(2, 24, 1, architecture)
    manifest = replace(describe(checkpoint), weights="float16")
    weights = halve({name: tensor.numpy() for name, tensor in checkpoint.weights.items()}, 2)
    generator = np.random.default_rng(0)
    state = np.zeros((2, 3, 24), dtype=np.float32)
    feed = {"tokens": generator.integers(len(manifest.vocabulary), size=(20, 3)), "h": state, "c": state}
    logits = [
        onnxruntime.InferenceSession(
            reading_graph(Step(manifest, weights, in_float16=in_float16), ragged=False, result=Result.LOGITS),
            providers=["CPUExecutionProvider"],
        ).run(["logits"], {**feed, "steps": np.array(20)})[0]
        for in_float16 in (False, True)
    ]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.01 * np.abs(logits[0]).max()
