"""The server that is measured: a model of random weights, and `segue serve` as a separate process."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from segue_export.artifact import write_artifact
from segue_export.graphs.portable import portable_graph
from segue_export.manifest import FORMAT_VERSION, CorpusDescription, Manifest
from segue_training.models import ModelConfig, Recurrent
from segue_training.text.vocabulary import Vocabulary

TEXT_CHARACTERS: Final = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Those of tinyshakespeare."""

DEFAULT_SEQUENCES: Final = 8192
"""What `segue serve` admits where it is told nothing."""

_STOP_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Server:
    """A process that serves."""

    address: str
    process_id: int


def make_module(layers: int, hidden: int, alphabet: str = TEXT_CHARACTERS) -> Recurrent:
    """Return an LSTM of random weights, always the same ones: what a step costs does not depend on them."""
    vocabulary = Vocabulary(("<unk>", *alphabet))
    torch.manual_seed(0)
    return Recurrent(ModelConfig(vocabulary_size=len(vocabulary), embedding=64, hidden=hidden, layers=layers))


def make_manifest(architecture: str, layers: int, hidden: int, alphabet: str = TEXT_CHARACTERS) -> Manifest:
    """Return the manifest of a model that was trained on nothing."""
    corpus, characters = CorpusDescription("none", "0" * 64, 1), ("<unk>", *alphabet)
    return Manifest(
        FORMAT_VERSION, architecture, layers, hidden, characters, "line-feeds", "\n", corpus, 4.0, "none", {}, {}
    )


def make_model(models: Path, layers: int, hidden: int, alphabet: str = TEXT_CHARACTERS) -> Path:
    """Write `make_module`'s LSTM as a model below the folder `models`; return its own folder."""
    manifest = make_manifest("lstm", layers, hidden, alphabet)
    weights = {name: tensor.numpy() for name, tensor in make_module(layers, hidden, alphabet).state_dict().items()}
    return write_artifact(models, "benchmark", manifest, portable_graph(manifest, weights))


def room_for(sequences: int) -> list[str]:
    """Return the options of `segue serve` that admit `sequences` sequences."""
    return ["--max-sequences", str(max(sequences, DEFAULT_SEQUENCES))]


@contextmanager
def segue_server(models: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """Run `segue serve` on a folder of models and a free port."""
    command = [sys.executable, "-m", "segue_client", "serve", str(models), "--port", "0", "--device", "cpu"]
    with serving([*command, *options]) as server:
        yield server


@contextmanager
def serving(command: Sequence[str]) -> Iterator[Server]:
    """Run a command that prints `ready: HOST:PORT` when it serves; end it with the block."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603
        try:
            assert process.stdout is not None
            ready = re.fullmatch(r"ready: (\S+)\n", process.stdout.readline())
            if not ready:
                log.seek(0)
                raise SystemExit(f"{' '.join(command)} did not start:\n{log.read()[-2000:]}")
            yield Server(ready[1], process.pid)
        finally:
            stop(process)


def stop(process: "subprocess.Popen[str]") -> None:
    """End a process by SIGTERM, or by force where it does not end in time."""
    process.terminate()
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
