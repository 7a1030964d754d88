"""A run caught between two steps: enough to go on as if it had never stopped, bit for bit.

A moment is one safetensors file in the run's folder,

    moment-<step>-<hash>.safetensors

whose metadata holds the record as JSON, and whose name holds the beginning of the SHA-256 of its content: damage is
found when it is read. The two newest are kept. Nothing random is in it: random numbers are a function of the seed
and the step (see `randomness`).
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
_FILE: Final = re.compile(r"moment-(\d{8,})-([0-9a-f]{12})\.safetensors")
_UNFINISHED: Final = ".moment-*"
"""What writes that were killed have left; see `atomic`."""
_METADATA: Final = "segue.moment"


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a run after a step."""

    step: int
    symbols: int
    """How many the run has read so far."""
    seconds: float
    """How long it has trained so far."""
    training: float
    """Mean nats per symbol over the steps since the evaluation before."""
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
    """How far a run has come."""

    step: int = 0
    epoch: int = 0
    index: int = 0
    """The next minibatch of the epoch."""
    symbols: int = 0
    seconds: float = 0.0
    losses: tuple[float, int] = (0.0, 0)
    """Sum and number of the steps' losses since the last evaluation."""
    best_step: int = 0
    """The step of the weights that are kept; 0 for none yet."""
    stale: int = 0
    """Evaluations since the best one."""
    history: tuple[Evaluation, ...] = ()


@dataclass(frozen=True)
class TrainState:
    """A progression and its tensors: weights, best weights, optimizer, states of the rows."""

    progression: Progression
    tensors: Mapping[str, Tensor] = field(compare=False, repr=False)


@dataclass(frozen=True)
class _Record:
    origin: Origin
    progression: Progression


def save_moment(folder: Path, origin: Origin, moment: TrainState) -> Path:
    """Write `moment` to `folder` and drop all but the newest. Raises CheckpointError.

    Moments of later steps are dropped as well: the run went back behind them, and what is resumed is the last one.
    """
    record = msgspec.json.encode(_Record(origin, moment.progression)).decode()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in moment.tensors.items()}
    content = save(tensors, metadata={_METADATA: record})
    digest = hashlib.sha256(content).hexdigest()[:12]
    path = folder / f"moment-{moment.progression.step:08d}-{digest}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        for stale in _stale(folder, path):
            stale.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from error
    return path


def _stale(folder: Path, newest: Path) -> list[Path]:
    """Return what is of no use any more once `newest` is written."""
    others = [path for path in moment_files(folder) if path != newest]
    before = [path for path in others if moment_step(path) < moment_step(newest)]
    kept = before[1 - KEPT :]
    return [*(path for path in others if path not in kept), *folder.glob(_UNFINISHED)]


def moment_files(folder: Path) -> list[Path]:
    """Return the moments in `folder`, sound or not, by step."""
    return sorted((path for path in folder.glob("moment-*") if _FILE.fullmatch(path.name)), key=moment_step)


def drop_moments(folder: Path) -> None:
    """Remove every moment from `folder`: the run has ended."""
    for path in (*moment_files(folder), *folder.glob(_UNFINISHED)):
        path.unlink()


def load_moment(folder: Path, step: int | None = None) -> tuple[Origin, TrainState]:
    """Read and verify the newest moment in `folder`, or that of `step`.

    Raises CheckpointError where it is missing or damaged; the message names the one before it, if there is one.
    """
    files = moment_files(folder)
    chosen = [path for path in files if step is None or moment_step(path) == step]
    if not chosen:
        known = ", ".join(str(moment_step(path)) for path in files) or "none"
        wanted = "nothing to resume: no run was stopped there" if step is None else f"no moment of step {step}"
        raise CheckpointError(f"{folder} holds {wanted} (moments: {known})")
    path = chosen[-1]
    try:
        return _read(path)
    except (OSError, ValueError, ConfigurationError, SafetensorError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path} is damaged ({error}){_remedy(files, path)}") from error


def _read(path: Path) -> tuple[Origin, TrainState]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    match = _FILE.fullmatch(path.name)
    if match is None or match[2] != digest:
        raise ValueError(f"its SHA-256 begins with {digest}")
    record = msgspec.json.decode(_metadata(content)[_METADATA], type=_Record)
    return record.origin, TrainState(record.progression, load(content))


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata in a safetensors header: 8 bytes of length, then JSON."""
    (length,) = struct.unpack_from("<Q", content)
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


def _remedy(files: list[Path], damaged: Path) -> str:
    before = [path for path in files if moment_step(path) < moment_step(damaged)]
    if not before:
        return "; there is none before it: train again with --force"
    return f"; add --step {moment_step(before[-1])} to resume from the one before it"


def moment_step(path: Path) -> int:
    """Return the step of a moment by its file name."""
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else -1
