"""The start-up check of a device against the CPU: rounding passes, and what is mixed up does not."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segue_export.artifact import Artifact, read_artifact
from segue_server.engine.model import Device, Model
from segue_server.engine.runners.bound_session import _Binding
from segue_server.engine.runners.settings import DeviceSettings, Precision
from segue_server.errors import StartupError
from segue_server.runtime.device_check import MOST_DIFFERENT, check_device
from segue_server.runtime.loading import Loader

KINDS = ("characters", "bytes", "lines", "byte-lines", "gru", "gru-reset-before", "rnn")


def artifact(folder: Path, name: str) -> Artifact:
    return read_artifact(folder / name / "1")


def on_device(of: Artifact, precision: Precision = Precision.FLOAT32) -> Model:
    return Model(of, settings=DeviceSettings((8,), precision, simulated=True))


@pytest.mark.parametrize("name", KINDS)
def test_a_device_of_the_same_arithmetic_differs_by_nothing(kinds_folder: Path, name: str) -> None:
    of = artifact(kinds_folder, name)
    assert check_device(on_device(of), Model(of)) == 0


def test_rounding_is_no_fault(kinds_folder: Path) -> None:
    of = artifact(kinds_folder, "characters")
    assert 0 < check_device(on_device(of, Precision.FLOAT16), Model(of)) < 0.1 * MOST_DIFFERENT[Precision.FLOAT16]


def rolled(name: str) -> Callable[[dict[str, Any]], None]:
    def spoil(feed: dict[str, Any]) -> None:
        if name in feed:
            feed[name] = np.roll(feed[name], 1, axis=-1)

    return spoil


def other_symbols(feed: dict[str, Any]) -> None:
    if "targets" in feed:
        feed["tokens"] = feed["tokens"][:, ::-1]


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT16])
@pytest.mark.parametrize("spoil", [rolled("before"), rolled("token"), other_symbols])
def test_what_is_mixed_up_is_refused_with_the_figure_and_the_remedy(
    kinds_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[dict[str, Any]], None],
    precision: Precision,
) -> None:
    of = artifact(kinds_folder, "characters")
    model, sound = on_device(of, precision), _Binding.run

    def run(binding: Any, feed: dict[str, Any], rows: int) -> Any:
        feed = dict(feed)
        spoil(feed)
        return sound(binding, feed, rows)

    monkeypatch.setattr(_Binding, "run", run)
    with pytest.raises(StartupError, match=rf"in {precision} gives .* the CPU's by \d.* nats, .* --device cpu"):
        check_device(model, Model(of))


def test_numbers_that_are_none_are_refused(kinds_folder: Path) -> None:
    of = artifact(kinds_folder, "characters")
    weights = dict(of.weights)
    weights["output.bias"] = weights["output.bias"] + np.arange(len(weights["output.bias"]), dtype=np.float32) % 7
    with pytest.raises(StartupError, match=r"by \d"):
        check_device(on_device(of), Model(replace(of, weights=weights)))


def test_a_loader_checks_a_device_and_no_cpu(
    kinds_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked = list[str]()
    monkeypatch.setattr("segue_server.runtime.loading.check_device", lambda model, _: checked.append(model.name) or 0.0)
    shutil.copytree(kinds_folder / "gru", tmp_path / "gru")
    Loader(Device.CPU, 1).load(tmp_path)
    assert checked == []
    Loader(Device.CPU, 1, DeviceSettings((8,), simulated=True)).load(tmp_path)
    assert checked == ["gru"]
