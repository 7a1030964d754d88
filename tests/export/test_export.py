"""Export compared with torch, and its failures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from segue_client.commands.main import segue
from segue_export import export as export_module
from segue_export.checks import parity as parity_module
from segue_export.checks.parity import check_parity
from segue_export.errors import ArtifactError, ParityError
from segue_export.export import describe, export_checkpoint
from segue_export.graphs.portable import portable_graph
from segue_export.manifest import ARCHITECTURES, METADATA_KEY
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, save_checkpoint


def weights_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("layers", "hidden"), [(1, 5), (2, 16), (3, 40)])
def test_the_graph_computes_what_torch_computes(make_checkpoint, layers: int, hidden: int, architecture: str) -> None:
    checkpoint = make_checkpoint(layers, hidden, layers, architecture)
    manifest = describe(checkpoint)
    parity = check_parity(portable_graph(manifest, weights_of(checkpoint)), manifest, checkpoint.build_model())
    assert parity.graph < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_graph_carries_the_state_from_call_to_call(make_checkpoint, layers: int, architecture: str) -> None:
    checkpoint = make_checkpoint(layers, 24, 1, architecture)
    session = onnxruntime.InferenceSession(portable_graph(describe(checkpoint), weights_of(checkpoint)))
    model = checkpoint.build_model()
    tokens = np.random.default_rng(0).integers(50, size=(3, 20))
    h = c = np.zeros((layers, 3, 24), dtype=np.float32)
    parts = []
    for part in np.split(tokens, [1, 8], axis=1):
        logits, h, c = session.run(None, {"tokens": part, "h": h, "c": c})
        parts.append(logits)
    with torch.no_grad():
        whole, *state = model(torch.from_numpy(tokens), *model.zero_state(3))
    for ours, theirs in zip([np.concatenate(parts, axis=1), h, c], [whole, *state], strict=False):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "lstm"])
def test_without_a_memory_cell_c_comes_back_as_it_went_in(make_checkpoint, architecture: str) -> None:
    checkpoint = make_checkpoint(2, 24, 1, architecture)
    session = onnxruntime.InferenceSession(portable_graph(describe(checkpoint), weights_of(checkpoint)))
    tokens, h = np.full((3, 5), 7), np.zeros((2, 3, 24), dtype=np.float32)
    c = np.random.default_rng(0).normal(size=h.shape).astype(np.float32)
    with_c, zero_c = (session.run(None, {"tokens": tokens, "h": h, "c": memory}) for memory in (c, h))
    assert np.array_equal(with_c[2], c)
    assert np.array_equal(with_c[0], zero_c[0])
    assert np.array_equal(with_c[1], zero_c[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_graph_is_portable_and_says_what_it_is(make_checkpoint, architecture: str) -> None:
    checkpoint = make_checkpoint(2, 24, 1, architecture)
    manifest = describe(checkpoint)
    model = onnx.load_from_string(portable_graph(manifest, weights_of(checkpoint)))
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    state = [2, "batch", 24]
    assert shapes == {
        "tokens": ["batch", "time"],
        "logits": ["batch", "time", 50],
        **dict.fromkeys(("h", "c", "h_out", "c_out"), state),
    }
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    described = json.loads(metadata[METADATA_KEY])
    assert described["characters"] == list(checkpoint.vocabulary.characters)
    assert described["architecture"] == architecture


def swapped_gates(weights: dict[str, np.ndarray]) -> None:
    weights["recurrent.weight_hh_l1"] = np.roll(weights["recurrent.weight_hh_l1"], 24, axis=0)


def one_bias_forgotten(weights: dict[str, np.ndarray]) -> None:
    weights["recurrent.bias_hh_l0"] = np.zeros_like(weights["recurrent.bias_hh_l0"])


def not_a_number(weights: dict[str, np.ndarray]) -> None:
    weights["output.bias"] = np.full_like(weights["output.bias"], np.nan)


@pytest.mark.parametrize("defect", [swapped_gates, one_bias_forgotten, not_a_number])
def test_nothing_is_written_where_graph_and_torch_differ(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect
) -> None:
    def defective(manifest, weights):
        weights = dict(weights)
        defect(weights)
        return portable_graph(manifest, weights)

    monkeypatch.setattr(export_module, "portable_graph", defective)
    with pytest.raises(ParityError, match="nothing was written"):
        export_checkpoint(checkpoint_folder, tmp_path / "models", "tiny")
    assert not (tmp_path / "models").exists()


def test_the_reset_gate_on_the_wrong_side_is_a_difference(make_checkpoint) -> None:
    checkpoint = make_checkpoint(1, 16, 1, "gru")
    other = replace(describe(checkpoint), architecture="gru-reset-before")
    with pytest.raises(ParityError, match="nothing was written"):
        check_parity(portable_graph(other, weights_of(checkpoint)), other, checkpoint.build_model())


def test_a_model_without_a_recurrent_state_is_refused(make_checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", make_checkpoint(1, 16, 1, "mlp"))
    with pytest.raises(ArtifactError, match=r"'mlp' has no recurrent state.* one of: lstm, gru,") as error:
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "models", "tiny")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["nowhere"], "nowhere", 1),
        (["checkpoint", "--name", "Bad Name"], "'Bad Name'", 2),
    ],
)
def test_the_command_fails_in_one_line(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str, status: int
) -> None:
    monkeypatch.chdir(checkpoint_folder.parent)
    done = CliRunner().invoke(segue, ["export", *arguments])
    assert done.exit_code == status
    assert words in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_the_command_reports_what_it_wrote(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint_folder.parent)
    done = CliRunner().invoke(segue, ["export", "checkpoint", "--name", "a", "--json"])
    assert done.exit_code == 0
    report = json.loads(done.output)
    assert report["folder"] == "models/a/1"
    assert report["parity"] < 1e-4
    assert Path("models/a/1/model.onnx").stat().st_size == report["bytes"]


def test_torch_weights_are_not_changed_by_the_judge(checkpoint: Checkpoint) -> None:
    manifest, model = describe(checkpoint), checkpoint.build_model()
    check_parity(portable_graph(manifest, weights_of(checkpoint)), manifest, model)
    assert next(model.parameters()).dtype == torch.float32


def test_a_large_vocabulary_is_compared_in_smaller_batches(
    make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, difference = list[int](), parity_module._difference

    def noted(found: parity_module.Outputs, truth: parity_module.Outputs) -> float:
        compared.append(truth[0].size)
        return difference(found, truth)

    monkeypatch.setattr(parity_module, "_difference", noted)
    many = make_checkpoint(1, 4, 0, vocabulary=Vocabulary(("<unk>", "\n", *(chr(0x4E00 + i) for i in range(19_998)))))
    manifest = describe(many)
    assert check_parity(portable_graph(manifest, weights_of(many)), manifest, many.build_model()).graph < 1e-4
    assert 1 * 300 * 20_000 <= max(compared) <= parity_module.MOST_LOGITS
