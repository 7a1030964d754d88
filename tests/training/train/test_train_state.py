import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segue_training.errors import CheckpointError
from segue_training.recipes import TrainingConfig
from segue_training.train.train_state import (
    Evaluation,
    Origin,
    Progression,
    TrainState,
    delete_train_states,
    read_train_state,
    save_train_state,
    step_of,
    train_state_files,
)


@pytest.fixture
def origin(tiny: TrainingConfig) -> Origin:
    return Origin("cats.txt", None, "tiny", tiny, ("<unk>", "a", "\n", "é", "𝄞"), "f" * 64)


def train_state(step: int) -> TrainState:
    history = (Evaluation(1, 2, 0.1, 3.14159265358979, 2.5, 1e-3),)
    progression = Progression(step, 3, 4, 5, 6.5, (1 / 3, 2), 1, 0, history)
    weights = torch.Generator().manual_seed(step)
    tensors = {"model/a": torch.randn(3, 4, generator=weights), "optimizer/0/step": torch.tensor(7.0)}
    return TrainState(progression, tensors)


def test_a_moment_comes_back_to_the_bit(tmp_path: Path, origin: Origin) -> None:
    saved = train_state(12)
    save_train_state(tmp_path, origin, saved)
    found, loaded = read_train_state(tmp_path)
    assert (found, loaded.progression) == (origin, saved.progression)
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], saved.tensors[name]) for name in saved.tensors)


def test_the_two_newest_are_kept_and_each_can_be_chosen(tmp_path: Path, origin: Origin) -> None:
    for step in (5, 100, 20, 99_999_999, 123_456_789):
        save_train_state(tmp_path, origin, train_state(step))
    assert len(train_state_files(tmp_path)) == 2
    assert read_train_state(tmp_path)[1].progression.step == 123_456_789
    assert read_train_state(tmp_path, 99_999_999)[1].progression.step == 99_999_999
    with pytest.raises(CheckpointError, match=r"holds no saved step 5 \(saved steps: 99999999, 123456789\)"):
        read_train_state(tmp_path, 5)


def damaged(content: bytes, where: float) -> bytes:
    at = int(len(content) * where)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[:-1],
        lambda _: b"",
        lambda c: c + b"\\0",
        lambda c: damaged(c, 0.0),
        lambda c: damaged(c, 0.5),
        lambda c: damaged(c, 0.999),
    ],
)
def test_a_damaged_state_is_named_and_the_previous_one_offered(tmp_path: Path, origin: Origin, damage) -> None:
    save_train_state(tmp_path, origin, train_state(10))
    path = save_train_state(tmp_path, origin, train_state(20))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=rf"{path.name} is damaged \(.*\); add --step 10 to resume from the previous"
    ):
        read_train_state(tmp_path)
    assert read_train_state(tmp_path, 10)[1].progression.step == 10


def test_if_the_only_state_is_damaged_a_new_training_is_offered(tmp_path: Path, origin: Origin) -> None:
    save_train_state(tmp_path, origin, train_state(10)).write_bytes(b"?")
    with pytest.raises(CheckpointError, match="there is no earlier one: train again with --force"):
        read_train_state(tmp_path)


def test_a_folder_without_moments_says_so(tmp_path: Path, origin: Origin) -> None:
    save_train_state(tmp_path, origin, train_state(1))
    delete_train_states(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing to resume: no run was stopped there \(saved steps: none\)"):
        read_train_state(tmp_path)


def test_a_file_of_another_step_is_not_mistaken_for_it(tmp_path: Path, origin: Origin) -> None:
    """The name holds the step and the content's hash, which detects swapped content."""
    first, second = (save_train_state(tmp_path, origin, train_state(step)) for step in (1, 2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match="is damaged"):
        read_train_state(tmp_path)


def test_a_setting_of_this_version_that_is_out_of_range_is_damage(tmp_path: Path, origin: Origin) -> None:
    object.__setattr__(origin.training, "layers", 99)
    save_train_state(tmp_path, replace(origin), train_state(1))
    with pytest.raises(CheckpointError, match="layers is 99"):
        read_train_state(tmp_path)


def test_a_state_without_the_settings_for_a_gpu_is_read_with_their_defaults(tmp_path: Path, origin: Origin) -> None:
    """They are younger than the format."""
    written = save_train_state(tmp_path, origin, train_state(1))
    content = written.read_bytes()
    length = int.from_bytes(content[:8], "little")
    document = json.loads(content[8 : 8 + length])
    record = json.loads(document["__metadata__"]["segue.train_state"])
    for setting in ("tf32", "deterministic", "capture"):
        del record["origin"]["training"][setting]
    document["__metadata__"]["segue.train_state"] = json.dumps(record)
    header = json.dumps(document).encode()
    header += b" " * (-len(header) % 8)
    older = len(header).to_bytes(8, "little") + header + content[8 + length :]
    written.unlink()
    (tmp_path / f"state-00000001-{hashlib.sha256(older).hexdigest()[:12]}.safetensors").write_bytes(older)
    assert read_train_state(tmp_path)[0] == origin


def test_what_a_killed_write_left_is_swept_up(tmp_path: Path, origin: Origin) -> None:
    for clean in (lambda: save_train_state(tmp_path, origin, train_state(3)), lambda: delete_train_states(tmp_path)):
        left = tmp_path / ".state-00000002-0123456789ab.safetensors.77"
        left.touch()
        clean()
        assert not left.exists()


def test_moments_of_later_steps_go_when_the_run_went_back(tmp_path: Path, origin: Origin) -> None:
    for step in (50, 100):
        save_train_state(tmp_path, origin, train_state(step))
    save_train_state(tmp_path, replace(origin, recipe="other"), train_state(100))
    assert read_train_state(tmp_path, 100)[0].recipe == "other"
    save_train_state(tmp_path, origin, train_state(60))
    assert [step_of(path) for path in train_state_files(tmp_path)] == [50, 60]
