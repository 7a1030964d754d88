"""Models of other kinds than `tiny`, which is an LSTM of characters: loaded and served. As random and lively."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from segue_export.artifact import read_artifact, write_artifact
from segue_export.export import export_checkpoint
from segue_export.graphs.portable import portable_graph
from segue_export.graphs.quantization import quantize
from segue_server.engine.model import Model
from segue_server.engine.runners.settings import DeviceSettings
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture(scope="session")
def kinds(make_checkpoint: Callable[..., Checkpoint]) -> dict[str, Checkpoint]:
    """A checkpoint of every kind, by the name that it is served under."""
    of_bytes = Vocabulary.of_bytes()
    return {
        "characters": make_checkpoint(layers=1, hidden=24, seed=2),
        "bytes": make_checkpoint(layers=1, hidden=24, seed=3, vocabulary=of_bytes),
        "lines": make_checkpoint(layers=1, hidden=24, seed=4, documents="lines"),
        "byte-lines": make_checkpoint(layers=1, hidden=24, seed=5, vocabulary=of_bytes, documents="lines"),
        **{name: make_checkpoint(2, 24, seed, name) for seed, name in enumerate(("gru", "gru-reset-before", "rnn"))},
    }


@pytest.fixture(scope="session")
def kinds_folder(kinds: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their artifacts."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, checkpoint in kinds.items():
        save_checkpoint(folder / name, checkpoint)
        export_checkpoint(folder / name, folder / "models", name)
    return folder / "models"


@pytest.fixture(scope="session")
def kinds_loaded(kinds_folder: Path) -> dict[str, Model]:
    """The artifacts, loaded."""
    return {folder.name: Model(read_artifact(folder / "1")) for folder in kinds_folder.iterdir()}


@pytest.fixture(scope="session")
def kinds_address(start_server, kinds_folder: Path) -> Iterator[str]:
    """A server of them all."""
    with start_server(models=kinds_folder) as running:
        yield running.address


@pytest.fixture
def kinds_channel(kinds_address: str) -> Iterator[grpc.Channel]:
    """A connection to it."""
    with grpc.insecure_channel(kinds_address) as channel:
        yield channel


@pytest.fixture(scope="session")
def rounded_folder(kinds_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another build of the model `characters`: its weights in 8 bits."""
    artifact = read_artifact(kinds_folder / "characters" / "1")
    manifest = replace(artifact.manifest, weights="int8")
    weights = quantize(dict(artifact.weights), manifest.layers)
    folder = tmp_path_factory.mktemp("rounded")
    write_artifact(folder, "characters", manifest, portable_graph(manifest, weights))
    return folder


@pytest.fixture(scope="session")
def models(kinds_loaded: dict[str, Model], kinds_folder: Path, rounded_folder: Path) -> dict[str, Model]:
    """A model of each kind, one of characters in 8 bits, and some that keep the rules of a device."""
    on_devices = {
        f"{name} on a device": Model(
            read_artifact(kinds_folder / name / "1"), settings=DeviceSettings((1, 4, 8), simulated=True)
        )
        for name in ("characters", "byte-lines", "gru")
    }
    in_8_bits = Model(read_artifact(rounded_folder / "characters" / "1"))
    return kinds_loaded | {"int8": in_8_bits} | on_devices
