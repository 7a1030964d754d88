"""Export against torch, and what happens when it goes wrong."""

import json
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
from segue_export.artifact import find_artifacts, read_artifact, write_artifact
from segue_export.checks.parity import check_parity
from segue_export.errors import ArtifactError, DamagedArtifact, InvalidName, ModelsNotFound, ParityError
from segue_export.export import describe, export_checkpoint
from segue_export.graphs.portable import portable_graph
from segue_export.manifest import ARCHITECTURES, METADATA_KEY
from segue_training.train.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture
def checkpoint_folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    return tmp_path / "checkpoint"


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
    with pytest.raises(ArtifactError, match=r"'mlp' carries no recurrent state.* one of: lstm, gru,") as error:
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "models", "tiny")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models").exists()


def test_an_artifact_reads_back_as_it_was_written(
    checkpoint_folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    done = export_checkpoint(checkpoint_folder, tmp_path / "models", None)
    artifact = read_artifact(done.folder)
    assert (artifact.name, artifact.version) == ("made-up", 1)
    assert artifact.manifest.vocabulary == checkpoint.vocabulary
    assert artifact.manifest == replace(describe(checkpoint), files=artifact.manifest.files)


def test_each_export_is_a_version_of_its_own(checkpoint_folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    folders = [export_checkpoint(checkpoint_folder, models, "a").folder for _ in range(2)]
    export_checkpoint(checkpoint_folder, models, "b")
    assert folders == [models / "a" / "1", models / "a" / "2"]
    assert find_artifacts(models) == [*folders, models / "b" / "1"]


def test_a_failed_write_leaves_nothing_behind(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    export_checkpoint(checkpoint_folder, models, "a")

    def full_disk(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segue_export.artifact.write_atomically", full_disk)
    with pytest.raises(ArtifactError, match="No space left on device"):
        export_checkpoint(checkpoint_folder, models, "a")
    assert {path.name for path in (models / "a").iterdir()} == {"1", "config.pbtxt"}


def test_what_could_not_be_read_is_not_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    manifest, graph = describe(checkpoint), portable_graph(describe(checkpoint), weights_of(checkpoint))
    many = tuple(map(chr, range(0x10000, 0x20000)))
    for other in (replace(manifest, characters=("<unk>", *many, "\n")), replace(manifest, hidden=25)):
        with pytest.raises(ArtifactError, match="no artifact can hold this model: "):
            write_artifact(tmp_path / "models", "a", other, graph)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["..", "a/b", "A", "-a", "x" * 65])
def test_a_name_that_could_not_be_a_folder_is_refused(checkpoint_folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidName, match="use 1 to 64 of"):
        export_checkpoint(checkpoint_folder, tmp_path / "models", name)
    assert not (tmp_path / "models").exists()


def test_damage_is_named(checkpoint_folder: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(checkpoint_folder, tmp_path / "models", "a").folder
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace('"lstm"', '"mlp"'))
    with pytest.raises(DamagedArtifact, match="architecture 'mlp'; known: lstm, gru, gru-reset-before, rnn"):
        read_artifact(folder)
    (folder / "manifest.json").write_text(manifest.replace('"layers": 2', '"layers": "two"'))
    with pytest.raises(DamagedArtifact, match=r"\$\.layers"):
        read_artifact(folder)
    (folder / "manifest.json").write_text(manifest)
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(DamagedArtifact, match="SHA-256 differs"):
        read_artifact(folder)


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelsNotFound, match="segue export"):
        find_artifacts(tmp_path)
    with pytest.raises(ModelsNotFound, match="is not a folder"):
        find_artifacts(tmp_path / "nowhere")


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
