"""A folder in which a model is damaged, half copied, or misnamed: what is served, and what is said."""

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from segue.v1 import common_pb2, model_pb2, model_pb2_grpc
from segue_export.errors import DamagedArtifact
from segue_server.engine.model import Device
from segue_server.errors import StartupError
from segue_server.runtime import loading
from segue_server.runtime.loading import Loader
from segue_server.runtime.registry import Skipped


def truncate(version: Path) -> None:
    graph = version / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:500])


def lose_manifest(version: Path) -> None:
    """As while it is copied: the larger file first."""
    (version / "manifest.json").unlink()


def empty(version: Path) -> None:
    shutil.rmtree(version)
    version.mkdir()


def lead_outside(version: Path) -> None:
    outside = version.parents[2] / "outside"
    version.rename(outside)
    version.symlink_to(outside)


def break_link(version: Path) -> None:
    shutil.rmtree(version)
    version.symlink_to("nowhere")


def flip_a_weight(version: Path) -> None:
    graph = bytearray((version / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (version / "model.onnx").write_bytes(graph)


DAMAGES: tuple[Callable[[Path], None], ...] = (
    truncate,
    lose_manifest,
    empty,
    lead_outside,
    break_link,
    flip_a_weight,
)


@pytest.fixture
def two_models(models_folder: Path, tmp_path: Path) -> Path:
    """The models `good` 1 and `hurt` 1 and 2."""
    models = tmp_path / "models"
    for version in ("good/1", "hurt/1", "hurt/2"):
        shutil.copytree(models_folder / "tiny" / "1", models / version)
    return models


def said(log: Path) -> str:
    return "\n".join(line for line in log.read_text().splitlines() if " ERROR " in line)


def test_the_other_models_and_the_last_sound_version_are_served_and_everybody_can_see_it(
    start_server, two_models: Path
) -> None:
    truncate(two_models / "hurt" / "2")
    with (
        start_server("--metrics-port", "0", models=two_models) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = model_pb2_grpc.ModelServiceStub(channel)
        listed = stub.ListModels(model_pb2.ListModelsRequest()).models
        assert [(model.name, model.version) for model in listed] == [("good", 1), ("hurt", 1)]
        assert f"{two_models}/hurt/2/model.onnx is not an ONNX model" in said(server.log)
        assert "model hurt: OLD VERSION 1 IS SERVED, damaged is version 2; mend or remove" in said(server.log)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetModel(model_pb2.GetModelRequest(model=common_pb2.ModelReference(name="hurt", version=2)))
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
        assert "version 2 of model 'hurt' is damaged and not loaded" in refusal.value.details()
        url = re.search(r"metrics: (\S+)", server.log.read_text())
        assert url
        with urllib.request.urlopen(url[1], timeout=10) as page:
            assert 'segue_skipped_version{model="hurt",version="2"} 1.0' in page.read().decode()


def test_the_only_sound_model_does_not_answer_for_a_damaged_one(start_server, two_models: Path) -> None:
    for version in ("1", "2"):
        truncate(two_models / "hurt" / version)
    with start_server(models=two_models) as server, grpc.insecure_channel(server.address) as channel:
        assert "model hurt IS NOT SERVED: damaged is version 2 and version 1" in said(server.log)
        stub = model_pb2_grpc.ModelServiceStub(channel)
        for name, status, words in (
            ("", grpc.StatusCode.INVALID_ARGUMENT, "the server has several: name one of good"),
            ("hurt", grpc.StatusCode.NOT_FOUND, "model 'hurt' is damaged and not loaded"),
        ):
            with pytest.raises(grpc.RpcError) as refusal:
                stub.GetModel(model_pb2.GetModelRequest(model=common_pb2.ModelReference(name=name)))
            assert refusal.value.code() is status
            assert words in refusal.value.details()


def test_strict_does_not_start_with_a_damaged_version(two_models: Path, tmp_path: Path) -> None:
    truncate(two_models / "hurt" / "2")
    command = [sys.executable, "-m", "segue_client", "serve", str(two_models), "--port", "0", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--state", str(tmp_path), "--strict"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(rf"^Error: {two_models}/hurt/2/model.onnx is not an ONNX model", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def served(models: Path) -> list[tuple[str, int]]:
    return [(each.model.name, each.model.version) for each in Loader(Device.CPU, 1).load(models).models]


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading without the seconds of measurements."""
    found = loading.SelfCheck(reproducible=True, host_class=bytes(16))
    monkeypatch.setattr(loading, "check", lambda _: found)
    monkeypatch.setattr(loading, "calibrate", lambda _: 1.0)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_the_version_before_it_is_served(
    two_models: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(two_models / "hurt" / "2")
    loaded = Loader(Device.CPU, 1).load(two_models)
    assert [(each.model.name, each.model.version) for each in loaded.models] == [("good", 1), ("hurt", 1)]
    assert loaded.skipped == [Skipped("hurt", 2)]
    assert f"{two_models}/hurt/2" in caplog.records[0].getMessage()
    with pytest.raises(StartupError, match=f"{two_models}/hurt/2"):
        Loader(Device.CPU, 1, strict=True).load(two_models)


@pytest.mark.usefixtures("unmeasured")
def test_with_no_sound_model_the_newest_version_of_the_first_is_named(two_models: Path) -> None:
    for version in ("good/1", "hurt/1", "hurt/2"):
        truncate(two_models / version)
    with pytest.raises(StartupError, match=f"{two_models}/good/1/model.onnx") as refusal:
        Loader(Device.CPU, 1).load(two_models)
    assert refusal.value.exit_code == 1


@pytest.mark.usefixtures("unmeasured")
def test_a_model_whose_folder_cannot_be_read_is_skipped(
    two_models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = loading.find_versions

    def refuse(home: Path) -> list[Path]:
        if home.name == "hurt":
            raise DamagedArtifact(f"{home} cannot be read (Permission denied); let this user read it")
        return found(home)

    monkeypatch.setattr(loading, "find_versions", refuse)
    loaded = Loader(Device.CPU, 1).load(two_models)
    assert [each.model.name for each in loaded.models] == ["good"]
    assert loaded.skipped == [Skipped("hurt", 0)]
    assert "model hurt IS NOT SERVED: damaged is all of it" in caplog.text


@pytest.mark.usefixtures("unmeasured")
def test_what_systems_leave_in_a_folder_is_no_model(two_models: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("lost+found", ".ipynb_checkpoints", "..2026_11_27", "@eaDir", "good/.cache", "good/lost+found"):
        (two_models / name).mkdir()
    for name in (".DS_Store", "README.md", "good/.DS_Store", "hurt/3.tmp"):
        (two_models / name).write_text("")
    assert served(two_models) == [("good", 1), ("hurt", 2)]
    assert not [record for record in caplog.records if record.levelname != "INFO"]


@pytest.mark.usefixtures("unmeasured")
def test_kubernetes_links_of_a_mounted_volume_are_followed(two_models: Path) -> None:
    hidden = two_models / "..2026_11_27_10_00_00.1"
    hidden.mkdir()
    for name in ("good", "hurt"):
        (two_models / name).rename(hidden / name)
        (two_models / name).symlink_to(f"..data/{name}")
    (two_models / "..data").symlink_to(hidden.name)
    assert served(two_models) == [("good", 1), ("hurt", 2)]
    version = hidden / "good" / "1"  # a volume for one version: its files are links
    (version / "..v1").mkdir()
    (version / "..data").symlink_to("..v1")
    for name in ("model.onnx", "manifest.json"):
        (version / name).rename(version / "..v1" / name)
        (version / name).symlink_to(f"..data/{name}")
    assert served(two_models) == [("good", 1), ("hurt", 2)]


@pytest.mark.usefixtures("unmeasured")
def test_a_folder_whose_name_cannot_be_a_models_is_named_with_a_remedy(
    two_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (two_models / "hurt").rename(two_models / "Hürt it")
    assert served(two_models) == [("good", 1)]
    remedy = re.search(r"rename it: (mv .*)$", caplog.text, re.MULTILINE)
    assert remedy
    subprocess.run(remedy[1], shell=True, check=True)
    assert served(two_models) == [("good", 1), ("hurt-it", 2)]
