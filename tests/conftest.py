"""What several test modules share: a small model, and real servers on real ports."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
import hypothesis
import pytest
import torch
from charlm_export.artifact import read_artifact
from charlm_export.export import export_checkpoint
from charlm_server.model import Model
from charlm_training.checkpoint import Checkpoint, CorpusRecord, Tools, save_checkpoint
from charlm_training.models import Architecture, ModelConfig, build_model, to_checkpoint
from charlm_training.perplexity import Perplexity, Validation
from charlm_training.recipes import recipe
from charlm_training.vocabulary import Vocabulary

# A slow machine is no failure; and CI tries the same examples every time.
hypothesis.settings.register_profile("charlm", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("charlm")

torch.set_num_threads(1)  # threads of several processes on few cores wait for each other

VOCABULARY = Vocabulary(("<unk>", *" etaoinshrdlcumwfgypbvkjxqz.,;:!?'\n", *"THEACOBINSW", "é", "你", "𝄞"))


@dataclass(frozen=True)
class RunningServer:
    """A `charlm serve` process."""

    address: str
    process: "subprocess.Popen[str]"
    log: Path

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


StartServer = Callable[..., AbstractContextManager[RunningServer]]


def random_checkpoint(
    layers: int,
    hidden: int,
    seed: int,
    architecture: Architecture = "lstm",
    *,
    vocabulary: Vocabulary = VOCABULARY,
    documents: Literal["none", "lines"] = "none",
) -> Checkpoint:
    """A model that was never trained, with weights large enough for lively text.

    Those of an RNN's recurrence are smaller: nothing else keeps it from amplifying rounding at every step.
    """
    config = ModelConfig(len(vocabulary), embedding=16, hidden=hidden, layers=layers, architecture=architecture)
    torch.manual_seed(seed)
    model = build_model(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.1 if architecture == "rnn" and "weight_hh" in name else 0.4)
    unknown = Perplexity(nats=4.0, characters=1, unknown=0)
    return Checkpoint(
        model=config,
        vocabulary=vocabulary,
        normalization="line-feeds",
        begin="\n",
        corpus=CorpusRecord("made-up", "0" * 64, 1000),
        recipe="small",
        training=recipe("small"),
        steps=0,
        validation=Validation(unknown, unknown),
        tools=Tools("0", "0", "0", 1),
        documents=documents,
        weights=to_checkpoint(model),
    )


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    """Return the function that makes a model of a given shape."""
    return random_checkpoint


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Two layers of 24."""
    return random_checkpoint(layers=2, hidden=24, seed=1)


@pytest.fixture(scope="session")
def models_folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with one model, `tiny` version 1."""
    folder = tmp_path_factory.mktemp("artifacts")
    save_checkpoint(folder / "checkpoint", checkpoint)
    export_checkpoint(folder / "checkpoint", folder / "models", "tiny")
    return folder / "models"


@pytest.fixture(scope="session")
def model(models_folder: Path) -> Model:
    """The model `tiny`, loaded."""
    return Model(read_artifact(models_folder / "tiny" / "1"))


@pytest.fixture(scope="session")
def start_server(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StartServer:
    """Return a context manager that runs `charlm serve` with the given options on a free port."""

    @contextmanager
    def start(*options: str, models: Path = models_folder) -> Iterator[RunningServer]:
        log = tmp_path_factory.mktemp("server") / "log"
        command = [sys.executable, "-m", "charlm_client", "serve", str(models), "--port", "0", "--device", "cpu"]
        with log.open("w") as errors:
            process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            ready = re.fullmatch(r"ready: (\S+)\n", process.stdout.readline())
            assert ready, log.read_text()
            yield RunningServer(ready[1], process, log)
        finally:
            process.kill()
            process.communicate()
        assert "Traceback" not in log.read_text(), log.read_text()

    return start


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Iterator[RunningServer]:
    """A server of `tiny` for every test that only sends requests."""
    with start_server() as running:
        yield running


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    """A connection to the shared server."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def server_address(server: RunningServer) -> str:
    """HOST:PORT of the shared server."""
    return server.address
