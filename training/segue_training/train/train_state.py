"""The state of a run between two steps: enough to resume it bit for bit.

It is one safetensors file in the run's folder,

    state-<step>-<hash>.safetensors

with a JSON record in its metadata. <hash> is the beginning of the SHA-256 of the content, so that damage is detected on
reading. The two newest files are kept. No random state is saved: random numbers are a function of the seed and the
step (see `randomness`).
"""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from segue_training.atomic import write_atomically
from segue_training.errors import CheckpointError, ConfigurationError
from segue_training.recipes import TrainingConfig

KEPT: Final = 2
_FILE: Final = re.compile(r"state-(\d{8,})-([0-9a-f]{12})\.safetensors")
_UNFINISHED: Final = ".state-*"
"""Temporary files of killed writes; see `atomic`."""
_METADATA: Final = "segue.train_state"


@dataclass(frozen=True)
class Evaluation:
    """What was measured after a step."""

    step: int
    symbols: int
    """Read since the start of the run."""
    seconds: float
    """Of training since the start of the run."""
    training: float
    """Mean nats per symbol over the steps since the previous evaluation."""
    validation: float
    """Nats per symbol of validation text."""
    learning_rate: float


@dataclass(frozen=True)
class Origin:
    """What a run was started with."""

    source: str
    """The corpus, as the command named it."""
    field: str | None
    """Of JSON lines."""
    recipe: str
    training: TrainingConfig
    characters: tuple[str, ...]
    """The vocabulary."""
    sha256: str
    """Of the normalized corpus."""


@dataclass(frozen=True)
class Progression:
    """The counters of a run."""

    step: int = 0
    epoch: int = 0
    index: int = 0
    """The next minibatch of the epoch."""
    symbols: int = 0
    seconds: float = 0.0
    losses: tuple[float, int] = (0.0, 0)
    """Sum and number of the steps' losses since the last evaluation."""
    best_step: int = 0
    """The step of the kept weights; 0 before the first evaluation."""
    stale: int = 0
    """Evaluations since the best one."""
    history: tuple[Evaluation, ...] = ()


@dataclass(frozen=True)
class TrainState:
    """Counters and tensors: weights, best weights, optimizer, recurrent states of the rows."""

    progression: Progression
    tensors: Mapping[str, Tensor] = field(compare=False, repr=False)


@dataclass(frozen=True)
class _Record:
    origin: Origin
    progression: Progression


def save_train_state(folder: Path, origin: Origin, state: TrainState) -> Path:
    """Write `state` to `folder` and delete all but the newest files. Raises CheckpointError.

    Files of later steps are deleted too: the run was resumed from before them.
    """
    record = msgspec.json.encode(_Record(origin, state.progression)).decode()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    content = save(tensors, metadata={_METADATA: record})
    path = folder / f"state-{state.progression.step:08d}-{_digest(content)}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        for stale in _stale(folder, path):
            stale.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from error
    return path


def _stale(folder: Path, newest: Path) -> list[Path]:
    """Return the files that are obsolete once `newest` is written."""
    others = [path for path in train_state_files(folder) if path != newest]
    before = [path for path in others if step_of(path) < step_of(newest)]
    kept = before[1 - KEPT :]
    return [*(path for path in others if path not in kept), *folder.glob(_UNFINISHED)]


def train_state_files(folder: Path) -> list[Path]:
    """Return the train state files in `folder`, intact or not, by step."""
    return sorted((path for path in folder.glob("state-*") if _FILE.fullmatch(path.name)), key=step_of)


def delete_train_states(folder: Path) -> None:
    """Delete every train state file in `folder`, once the run has ended."""
    for path in (*train_state_files(folder), *folder.glob(_UNFINISHED)):
        path.unlink()


def read_train_state(folder: Path, step: int | None = None) -> tuple[Origin, TrainState]:
    """Read and verify the newest train state in `folder`, or that of `step`.

    Raises CheckpointError if it is missing or damaged; the message names the previous one, if any.
    """
    files = train_state_files(folder)
    chosen = [path for path in files if step is None or step_of(path) == step]
    if not chosen:
        known = ", ".join(str(step_of(path)) for path in files) or "none"
        wanted = "nothing to resume: no run was stopped there" if step is None else f"no saved step {step}"
        raise CheckpointError(f"{folder} holds {wanted} (saved steps: {known})")
    path = chosen[-1]
    try:
        return _read(path)
    except (OSError, ValueError, ConfigurationError, SafetensorError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path} is damaged ({error}){_remedy(files, path)}") from error


def _read(path: Path) -> tuple[Origin, TrainState]:
    content = path.read_bytes()
    match = _FILE.fullmatch(path.name)
    if match is None or match[2] != _digest(content):
        raise ValueError(f"its SHA-256 begins with {_digest(content)}")
    record = msgspec.json.decode(_metadata(content)[_METADATA], type=_Record)
    return record.origin, TrainState(record.progression, load(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata in a safetensors header: 8 bytes of length, then JSON."""
    (length,) = struct.unpack_from("<Q", content)
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


def _remedy(files: list[Path], damaged: Path) -> str:
    before = [path for path in files if step_of(path) < step_of(damaged)]
    if not before:
        return "; there is no earlier one: train again with --force"
    return f"; add --step {step_of(before[-1])} to resume from the previous one"


def step_of(path: Path) -> int:
    """Return the step in the name of a train state file."""
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else -1
