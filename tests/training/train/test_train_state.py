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
    drop_moments,
    load_moment,
    moment_files,
    moment_step,
    save_moment,
)


@pytest.fixture
def origin(tiny: TrainingConfig) -> Origin:
    return Origin("cats.txt", None, "tiny", tiny, ("<unk>", "a", "\n", "é", "𝄞"), "f" * 64)


def moment(step: int) -> TrainState:
    history = (Evaluation(1, 2, 0.1, 3.14159265358979, 2.5, 1e-3),)
    progression = Progression(step, 3, 4, 5, 6.5, (1 / 3, 2), 1, 0, history)
    weights = torch.Generator().manual_seed(step)
    tensors = {"model/a": torch.randn(3, 4, generator=weights), "optimizer/0/step": torch.tensor(7.0)}
    return TrainState(progression, tensors)


def test_a_moment_comes_back_to_the_bit(tmp_path: Path, origin: Origin) -> None:
    saved = moment(12)
    save_moment(tmp_path, origin, saved)
    found, loaded = load_moment(tmp_path)
    assert (found, loaded.progression) == (origin, saved.progression)
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], saved.tensors[name]) for name in saved.tensors)


def test_the_two_newest_are_kept_and_each_can_be_chosen(tmp_path: Path, origin: Origin) -> None:
    for step in (5, 100, 20, 99_999_999, 123_456_789):
        save_moment(tmp_path, origin, moment(step))
    assert len(moment_files(tmp_path)) == 2
    assert load_moment(tmp_path)[1].progression.step == 123_456_789
    assert load_moment(tmp_path, 99_999_999)[1].progression.step == 99_999_999
    with pytest.raises(CheckpointError, match=r"holds no moment of step 5 \(moments: 99999999, 123456789\)"):
        load_moment(tmp_path, 5)


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
def test_a_damaged_moment_is_named_and_the_one_before_it_offered(tmp_path: Path, origin: Origin, damage) -> None:
    save_moment(tmp_path, origin, moment(10))
    path = save_moment(tmp_path, origin, moment(20))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged \(.*\); add --step 10 to resume from the one"):
        load_moment(tmp_path)
    assert load_moment(tmp_path, 10)[1].progression.step == 10


def test_where_the_only_moment_is_damaged_training_anew_is_offered(tmp_path: Path, origin: Origin) -> None:
    save_moment(tmp_path, origin, moment(10)).write_bytes(b"?")
    with pytest.raises(CheckpointError, match="there is none before it: train again with --force"):
        load_moment(tmp_path)


def test_a_folder_without_moments_says_so(tmp_path: Path, origin: Origin) -> None:
    save_moment(tmp_path, origin, moment(1))
    drop_moments(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds nothing to resume: no run was stopped there \(moments: none\)"):
        load_moment(tmp_path)


def test_a_file_of_another_step_is_not_mistaken_for_it(tmp_path: Path, origin: Origin) -> None:
    """The name says the step, the content says what it is: a swapped content is found by the hash."""
    first, second = (save_moment(tmp_path, origin, moment(step)) for step in (1, 2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match="is damaged"):
        load_moment(tmp_path)


def test_a_setting_of_this_version_that_is_out_of_range_is_damage(tmp_path: Path, origin: Origin) -> None:
    object.__setattr__(origin.training, "layers", 99)
    save_moment(tmp_path, replace(origin), moment(1))
    with pytest.raises(CheckpointError, match="layers is 99"):
        load_moment(tmp_path)


def test_what_a_killed_write_left_is_swept_up(tmp_path: Path, origin: Origin) -> None:
    for clean in (lambda: save_moment(tmp_path, origin, moment(3)), lambda: drop_moments(tmp_path)):
        left = tmp_path / ".moment-00000002-0123456789ab.safetensors.77"
        left.touch()
        clean()
        assert not left.exists()


def test_moments_of_later_steps_go_when_the_run_went_back(tmp_path: Path, origin: Origin) -> None:
    for step in (50, 100):
        save_moment(tmp_path, origin, moment(step))
    save_moment(tmp_path, replace(origin, recipe="other"), moment(100))
    assert load_moment(tmp_path, 100)[0].recipe == "other"
    save_moment(tmp_path, origin, moment(60))
    assert [moment_step(path) for path in moment_files(tmp_path)] == [50, 60]
