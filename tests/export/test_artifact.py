"""The artifact on disk: written whole, read back, and refused if damaged."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_export.artifact import find_artifacts, read_artifact, write_artifact
from segue_export.errors import ArtifactError, DamagedArtifact, InvalidName, ModelsNotFound
from segue_export.export import describe, export_checkpoint
from segue_export.graphs.portable import portable_graph
from segue_export.manifest import CorpusDescription, Manifest, RunDescription
from segue_export.names import check_name, is_legal_name, legal_name, name_after
from segue_training.train.checkpoint import Checkpoint, save_checkpoint


def test_an_artifact_reads_back_as_it_was_written(
    checkpoint_folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    done = export_checkpoint(checkpoint_folder, tmp_path / "models", None)
    artifact = read_artifact(done.folder)
    assert (artifact.name, artifact.version) == ("made-up", 1)
    assert artifact.manifest.vocabulary == checkpoint.vocabulary
    assert artifact.manifest == replace(describe(checkpoint), files=artifact.manifest.files)


def test_tickets_of_models_whose_run_was_not_recorded_stay_valid() -> None:
    """A ticket is bound to the family; this hash was computed before manifests had the field."""
    manifest = Manifest(
        format_version=1,
        architecture="lstm",
        layers=1,
        hidden=2,
        characters=("<unk>", "a", "\n"),
        normalization="line-feeds",
        begin="\n",
        corpus=CorpusDescription("cats", "0" * 64, 9),
        validation_loss=1.5,
        recipe="small",
        tools={"torch": "2"},
        files={"model.onnx": "ab"},
    )
    assert manifest.family == "663c6388e3f2dd102d68d259edf18ce00160363cf4b2bb76aeab5ca5180081b0"
    described = replace(manifest, run=RunDescription(steps=1, taken=2, planned=3))
    assert described.family != manifest.family
    assert Manifest.from_json(described.to_json()) == described


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
    manifest, weights = describe(checkpoint), {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    graph = portable_graph(manifest, weights)
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


@pytest.mark.parametrize("link", ["made-up", "made-up/1"])
def test_a_link_out_of_the_folder_of_models_is_refused(checkpoint_folder: Path, tmp_path: Path, link: str) -> None:
    models = tmp_path / "models"
    export_checkpoint(checkpoint_folder, models, None)
    (models / link).rename(tmp_path / "elsewhere")
    (models / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedArtifact, match="link to a folder outside"):
        find_artifacts(models)


def test_links_within_the_folder_of_models_and_to_it_are_followed(checkpoint_folder: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(checkpoint_folder, tmp_path / "models", None).folder
    (folder.parent / "2").symlink_to("1")
    (folder.parent.parent / "other").symlink_to("made-up")
    (tmp_path / "link").symlink_to("models")
    found = find_artifacts(tmp_path / "link")
    assert [(each.parent.name, each.name) for each in found] == [
        ("made-up", "1"),
        ("made-up", "2"),
        ("other", "1"),
        ("other", "2"),
    ]
    assert {read_artifact(each).sha256 for each in found} == {read_artifact(folder).sha256}


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("Names", "names"),
        ("My Diary (2024)", "my-diary-2024"),
        ("Märchen", "marchen"),
        ("GROẞE", "grosse"),
        ("日本 notes", "notes"),
        ("._hidden", "hidden"),
        ("x" * 63 + "-y", "x" * 63),
        ("app.log", "app.log"),
    ],
)
def test_a_model_is_named_after_its_corpus_whatever_that_is_called(corpus: str, name: str) -> None:
    assert name_after(corpus) == name
    check_name(name)


@given(st.text())
def test_a_name_made_of_any_text_is_legal_or_refused(text: str) -> None:
    name = legal_name(text)
    assert not name or is_legal_name(name)
    assert legal_name(name) == name
    if is_legal_name(text) and text.strip("-._") == text and "--" not in text:
        assert name == text


def test_an_illegal_name_is_answered_with_a_legal_one(checkpoint_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidName, match=r"--name 'Über uns' cannot be .*, such as --name uber-uns$"):
        export_checkpoint(checkpoint_folder, tmp_path / "models", "Über uns")
    with pytest.raises(InvalidName, match=r"of the corpus's, '日本'; choose one, such as --name model$"):
        name_after("日本")
    with pytest.raises(InvalidName, match="--name '' cannot be"):
        export_checkpoint(checkpoint_folder, tmp_path / "models", "")
    assert not (tmp_path / "models").exists()
    check_name("uber-uns")
    check_name("model")


def test_a_folder_of_a_checkpoint_of_a_capital_name_is_exported(checkpoint: Checkpoint, tmp_path: Path) -> None:
    named = replace(checkpoint, corpus=replace(checkpoint.corpus, name="Meine Märchen"))
    save_checkpoint(tmp_path / "checkpoint", named)
    done = export_checkpoint(tmp_path / "checkpoint", tmp_path / "models", None)
    assert done.folder == tmp_path / "models" / "meine-marchen" / "1"
    assert done.manifest.corpus.name == "Meine Märchen"
