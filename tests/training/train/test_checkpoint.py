import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from segue_training.errors import CheckpointError
from segue_training.evaluation.perplexity import Perplexity, Validation
from segue_training.models import LanguageModel
from segue_training.recipes import small
from segue_training.text.vocabulary import UNKNOWN, Vocabulary
from segue_training.train import checkpoint as checkpoint_module
from segue_training.train.checkpoint import (
    Checkpoint,
    CorpusRecord,
    Tools,
    load_checkpoint,
    save_checkpoint,
)


@pytest.fixture
def checkpoint(model: LanguageModel) -> Checkpoint:
    return Checkpoint(
        model=model.config,
        vocabulary=Vocabulary((UNKNOWN, *'ab \n"\\é\u2028🐈.')),
        normalization="line-feeds",
        begin="\n",
        corpus=CorpusRecord("cats", "0" * 64, 1234),
        recipe="small",
        training=small(),
        steps=300,
        validation=Validation(Perplexity(1 / 3, 56, 1), Perplexity(0.1, 57, 1)),
        tools=Tools("0.1.0", "3.11.0", "2.13.0", 2),
        weights=model.state_dict(),
    )


def weights_file(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def rewrite(folder: Path, *path: str, value: Any) -> None:
    """Set one value of the JSON."""
    document = json.loads((folder / "checkpoint.json").read_text())
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (folder / "checkpoint.json").write_text(json.dumps(document))


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.weights["output.bias"][0] = -0.0
    checkpoint.weights["output.bias"][1] = 1e-42  # subnormal
    save_checkpoint(tmp_path / "new" / "run", checkpoint)
    loaded = load_checkpoint(tmp_path / "new" / "run")
    assert loaded == checkpoint
    assert loaded.weights.keys() == checkpoint.weights.keys()
    for name, weight in checkpoint.weights.items():
        assert torch.equal(loaded.weights[name].view(torch.int32), weight.view(torch.int32)), name


def test_the_model_of_a_checkpoint_computes_what_it_did(
    tmp_path: Path, checkpoint: Checkpoint, model: LanguageModel
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    rebuilt = load_checkpoint(tmp_path).build_model()
    ids, state = torch.arange(11)[None], model.zero_state()
    with torch.no_grad():
        assert torch.equal(rebuilt(ids, *state)[0], model(ids, *state)[0])


def test_the_folder_holds_two_files_however_often_it_is_written(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path, checkpoint)
    first = weights_file(tmp_path)
    checkpoint.weights["output.bias"][0] += 1
    save_checkpoint(tmp_path, checkpoint)
    assert weights_file(tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("writes", [0, 1])
def test_a_crash_leaves_the_old_checkpoint(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    real, done = checkpoint_module.write_atomically, []

    def crash_after_some(path: Path, content: bytes) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        real(path, content)

    monkeypatch.setattr(checkpoint_module, "write_atomically", crash_after_some)
    newer = {name: weight + 1 for name, weight in checkpoint.weights.items()}
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, replace(checkpoint, steps=999, weights=newer))
    loaded = load_checkpoint(tmp_path)
    assert loaded.steps == 300
    assert torch.equal(loaded.weights["output.bias"], checkpoint.weights["output.bias"])


def test_a_full_disk_leaves_no_temporary_file(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(tmp_path, checkpoint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_bit_is_refused(tmp_path: Path, checkpoint: Checkpoint, place: float) -> None:
    save_checkpoint(tmp_path, checkpoint)
    content = bytearray(weights_file(tmp_path).read_bytes())
    content[int(place * len(content))] ^= 1
    weights_file(tmp_path).write_bytes(content)
    with pytest.raises(CheckpointError, match="has SHA-256"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [0, 7, 100])
@pytest.mark.parametrize("name", ["checkpoint.json", "weights"])
def test_a_cut_file_is_refused(tmp_path: Path, checkpoint: Checkpoint, name: str, length: int) -> None:
    save_checkpoint(tmp_path, checkpoint)
    path = weights_file(tmp_path) if name == "weights" else tmp_path / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"cannot be used: .*; train it again"):
        load_checkpoint(tmp_path)


def enlarge(path: Path) -> None:
    os.truncate(path, 2**40)  # sparse: it takes no room on the disk, but would in memory


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["checkpoint.json", "weights"])
@pytest.mark.parametrize(
    ("damage", "reason"), [(enlarge, "has 1,099,511,627,776 bytes"), (make_pipe, "is not a regular file")]
)
def test_what_cannot_be_such_a_file_is_not_read(
    tmp_path: Path, checkpoint: Checkpoint, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    damage(weights_file(tmp_path) if name == "weights" else tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{reason}.*; train it again"):
        load_checkpoint(tmp_path)


def test_a_document_nested_too_deeply_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path, checkpoint)
    (tmp_path / "checkpoint.json").write_text('{"x":' + "[" * 1_000_000 + "]" * 1_000_000 + "}")
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("output.bias", torch.zeros(12), r"output.bias is \[12\], not \[11\]"),
        ("output.bias", torch.full((11,), torch.nan), "output.bias is not finite"),
        ("output.bias", torch.full((11,), torch.inf), "output.bias is not finite"),
        ("output.bias", torch.zeros(11, dtype=torch.float64), "float64"),
        ("recurrent.weight_hr_l0", torch.zeros(1), "recurrent.weight_hr_l0 is unknown"),
    ],
)
def test_weights_that_do_not_fit_the_model_are_refused(
    tmp_path: Path, checkpoint: Checkpoint, name: str, weight: torch.Tensor, message: str
) -> None:
    save_checkpoint(tmp_path, replace(checkpoint, weights=checkpoint.weights | {name: weight}))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    del checkpoint.weights["output.bias"]
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(CheckpointError, match=r"output\.bias is missing"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 2, "reads format 1"),
        (("model", "hidden"), "7", r"Expected `int`, got `str` - at `\$\.model\.hidden`"),
        (("model", "hidden"), 0, "hidden is 0; it must be from 1"),
        (("model", "architecture"), "elman", r"Invalid enum value 'elman' - at `\$\.model\.architecture`"),
        (("model",), [], r"Expected `object`, got `array` - at `\$\.model`"),
        (("vocabulary", "characters"), [UNKNOWN, "\n"], "the vocabulary has 2 entries"),
        (("begin",), "z", "begin is 'z'"),
        (("normalization",), "rot13", "'rot13'"),
        (("weights", "file"), "../w.safetensors", "not in the folder"),
        (("weights",), {}, r"missing required field `file` - at `\$\.weights`"),
        (("steps",), True, r"Expected `int`, got `bool` - at `\$\.steps`"),
    ],
)
def test_a_record_that_says_something_else_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, path: tuple[str, ...], value: object, message: str
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    rewrite(tmp_path, *path, value=value)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_a_verified_file_that_is_no_safetensors_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "save", lambda weights: save(weights)[:-1])
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(tmp_path)


def test_a_record_without_the_settings_for_a_gpu_is_read_with_their_defaults(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    """They are younger than the format."""
    save_checkpoint(tmp_path, checkpoint)
    training = json.loads((tmp_path / "checkpoint.json").read_text())["training"]
    for setting in ("tf32", "deterministic", "capture"):
        del training[setting]
    rewrite(tmp_path, "training", value=training)
    assert load_checkpoint(tmp_path) == checkpoint


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no checkpoint\.json"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, checkpoint)
    weights_file(tmp_path).unlink()
    with pytest.raises(CheckpointError, match="it has no weights-"):
        load_checkpoint(tmp_path)
