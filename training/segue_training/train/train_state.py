"""The state of a run between two steps: enough to resume it bit for bit.

It is one safetensors file in the run's folder,

    state-<step>-<hash>.safetensors

with a JSON record in its metadata. <hash> is the beginning of the SHA-256 of the content, so that damage is detected on
reading. The two newest files are kept, and the last one when the run has ended, so that it can be continued. No random
state is saved: random numbers are a function of the seed and the step (see `randomness`).
"""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from segue_training.atomic import write_atomically
from segue_training.errors import CheckpointError, ConfigurationError
from segue_training.recipes import TrainingConfig

KEPT: Final = 2
_TRIES: Final = 20
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
class Base:
    """The run whose weights another one began with."""

    run: str
    """Its folder, as the command named it."""
    corpus: str
    """The name of its text."""
    steps: int
    """Steps that the weights had been trained for there."""
    sha256: str
    """Of the weights as a safetensors file; that of a finished run's `weights-*` file."""


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
    name: str = "text"
    """The corpus's."""
    length: int = 1
    """Code points of the normalized corpus."""
    bad_rows: Literal["stop", "skip"] = "stop"
    """Of the corpus: whether lines that cannot be read are left out."""
    base: Base | None = None
    """Where the first weights came from; None for random ones."""


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
    start: float | None = None
    """The validation loss before the first step, of a run that began with another's weights."""


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


def delete_train_states(folder: Path, *, but_the_last: bool = False) -> None:
    """Delete every train state file in `folder`, or all but the last, with which a run that has ended can go on."""
    files = train_state_files(folder)
    for path in (*(files[:-1] if but_the_last else files), *folder.glob(_UNFINISHED)):
        path.unlink(missing_ok=True)


def read_train_state(folder: Path, step: int | None = None) -> tuple[Origin, TrainState]:
    """Read and verify the newest train state in `folder`, or that of `step`.

    Raises CheckpointError if it is missing or damaged; the message names the previous one, if any.
    """
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # a run in progress has replaced it
            return _read_chosen(folder, step)
    raise CheckpointError(f"the train states in {folder} come and go too quickly: try again")


def _read_chosen(folder: Path, step: int | None) -> tuple[Origin, TrainState]:
    files = train_state_files(folder)
    chosen = [path for path in files if step is None or step_of(path) == step]
    if not chosen:
        known = ", ".join(str(step_of(path)) for path in files) or "none"
        wanted = "nothing to resume: no run was stopped there" if step is None else f"no saved step {step}"
        raise CheckpointError(f"{folder} holds {wanted} (saved steps: {known})")
    path = chosen[-1]
    try:
        return _read(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, ConfigurationError, SafetensorError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path} is damaged ({error}){_remedy(files, path)}") from error


def read_record(folder: Path) -> tuple[Origin, Progression] | None:
    """Return what the newest train state in `folder` says of its run, without its tensors; None if there is none.

    Raises CheckpointError if it cannot be read.
    """
    for _ in range(_TRIES):
        if not (files := train_state_files(folder)):
            return None
        with suppress(FileNotFoundError):  # a run in progress has replaced it
            return _read_record(files[-1])
    raise CheckpointError(f"the train states in {folder} come and go too quickly: try again")


def _read_record(path: Path) -> tuple[Origin, Progression]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = file.read(min(length, path.stat().st_size))
        record = msgspec.json.decode(json.loads(header)["__metadata__"][_METADATA], type=_Record)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, struct.error, ConfigurationError, msgspec.MsgspecError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); delete it, and what the folder held before counts"
        ) from error
    return record.origin, record.progression


def tensors_below(prefix: str, state: TrainState) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}


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
    return f"; add --step {step_of(before[-1])} to resume from the previous one, or delete the file"


def step_of(path: Path) -> int:
    """Return the step in the name of a train state file."""
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else -1
