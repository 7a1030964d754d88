import os
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from segue_training.recipes import TrainingConfig
from segue_training.train import arithmetic as module
from segue_training.train.arithmetic import arithmetic
from segue_training.train.trainer import Trainer, TrainingData


def switches() -> tuple[object, ...]:
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # restores it, whether it was set or not
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize(("tf32", "deterministic"), [*product(["no", "yes"], repeat=2)])
def test_every_switch_is_as_asked_for_and_then_as_before(tf32: str, deterministic: str) -> None:
    before, short, only = switches(), tf32 == "yes", deterministic == "yes"
    with pytest.raises(ZeroDivisionError), arithmetic(tf32, deterministic):  # type: ignore[arg-type]
        assert switches() == ("high" if short else "highest", short, short, only, only)
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == only
        raise ZeroDivisionError
    assert switches() == before


def test_a_workspace_that_the_user_chose_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with arithmetic("no", "yes"):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_run_computes_as_configured_and_leaves_the_switches_as_they_were(tiny: TrainingConfig) -> None:
    ids = np.random.default_rng(0).integers(1, 20, 3000).astype(np.uint8)
    data, seen, before = TrainingData(ids[:2700], ids[2700:], 20, 1), list[tuple[object, ...]](), switches()
    config = replace(tiny, tf32="yes", deterministic="yes", steps=3, evaluations=1)
    Trainer(data, config).train(lambda _: seen.append(switches()), lambda _: None)
    assert set(seen) == {("high", True, True, True, True)}
    assert switches() == before


@pytest.mark.parametrize("implementation", ["fused", "scratch"])
def test_on_a_cpu_only_the_same_bits_are_possible(tiny: TrainingConfig, implementation: str) -> None:
    ids = np.random.default_rng(0).integers(1, 20, 3000).astype(np.uint8)
    data = TrainingData(ids[:2700], ids[2700:], 20, 1)
    plain = replace(tiny, steps=8, output_dropout=0.0, implementation=implementation)
    losses: list[list[float]] = [[], []]
    for config, found in zip((plain, replace(plain, tf32="yes", deterministic="yes")), losses, strict=True):
        Trainer(data, config).train(lambda now, found=found: found.append(now.loss), lambda _: None)  # type: ignore[misc]
    assert losses[0] == losses[1]


def test_what_a_user_can_do_nothing_about_is_not_said_and_all_else_is() -> None:
    with warnings.catch_warnings(record=True) as heard, arithmetic("no", "no"):
        warnings.simplefilter("default", RuntimeWarning)
        warnings.warn(
            module._COMPACTED + ". This means they need to be compacted at every call", UserWarning, stacklevel=1
        )
        warnings.warn("something else", RuntimeWarning, stacklevel=1)
    assert [str(each.message) for each in heard] == ["something else"]
