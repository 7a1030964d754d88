"""What several test modules share: a small model, and real servers on real ports."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
import hypothesis
import pytest
import redis
import torch
from redis.backoff import NoBackoff
from redis.retry import Retry
from segue_export.artifact import read_artifact
from segue_export.export import export_checkpoint
from segue_server.engine.model import Model
from segue_training.evaluation.perplexity import Perplexity, Validation
from segue_training.models import Architecture, ModelConfig, build_model, to_checkpoint
from segue_training.recipes import recipe
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, CorpusRecord, Tools, save_checkpoint
from unsealing import write_keys

# A slow machine is no failure; and CI tries the same examples every time.
hypothesis.settings.register_profile(
    "segue",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("segue")

torch.set_num_threads(1)  # threads of several processes on few cores wait for each other

VOCABULARY = Vocabulary(("<unk>", *" etaoinshrdlcumwfgypbvkjxqz.,;:!?'\n", *"THEACOBINSW", "é", "你", "𝄞"))


@dataclass(frozen=True)
class RunningServer:
    """A `segue serve` process."""

    address: str
    process: "subprocess.Popen[str]"
    log: Path

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


class RunningRedis:
    """A `redis-server` of the tests' own."""

    def __init__(self, folder: Path, options: tuple[str, ...]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, with what it kept on disk."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen([*command, "--save", "", *self._options], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def client(self) -> redis.Redis:
        """Return a connection, to look behind the scenes and to disturb them."""
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP and SIGCONT make it hang and go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process at once, with what it had only in memory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False


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
    """Return a context manager that runs `segue serve` with the given options on a free port.

    `under` is a command that runs the server's.
    """

    @contextmanager
    def start(*options: str, models: Path = models_folder, under: tuple[str, ...] = ()) -> Iterator[RunningServer]:
        log = tmp_path_factory.mktemp("server") / "log"
        command = [
            *under,
            sys.executable,
            "-c",
            "from segue_server.cli import serve; serve()",
            str(models),
            "--port",
            "0",
            "--device",
            "cpu",
        ]
        command += ["--state", str(log.parent)]
        if "--keys" not in options:  # so that each server continues the others' tickets
            command += ["--keys", str(write_keys(log.parent / "shared-keys"))]
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
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[RunningRedis]]:
    """Return a context manager that runs `redis-server` with the given options on a free port."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; Debian's package of that name has it")

    @contextmanager
    def start(*options: str) -> Iterator[RunningRedis]:
        running = RunningRedis(tmp_path_factory.mktemp("redis"), options)
        try:
            running.start()
            yield running
        finally:
            running.kill()

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
