"""Checkpoints: a trained model as training writes it and everything later reads it.

A checkpoint is a folder of two files, neither of which can hold code:

    checkpoint.json               what the model is, where it comes from, how good it is
    weights-<hash>.safetensors    the weights; <hash> is the beginning of the file's SHA-256

The JSON names its weights file and is written last, by an atomic rename. Until then the previous checkpoint is valid.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from segue_training.atomic import write_atomically
from segue_training.errors import CheckpointError, ConfigurationError
from segue_training.evaluation.perplexity import Validation
from segue_training.models import LanguageModel, ModelConfig, build_model, from_checkpoint, to_checkpoint
from segue_training.recipes import TrainingConfig
from segue_training.text.normalization import NORMALIZATIONS
from segue_training.text.vocabulary import Documents, Vocabulary
from segue_training.train.train_state import Base, Evaluation

FORMAT: Final = 1
DOCUMENT: Final = "checkpoint.json"
MAX_DOCUMENT_BYTES: Final = 2**26
"""Many times the largest vocabulary with a long history."""
_MAX_HEADER_BYTES: Final = 2**20
"""Of the safetensors file: some hundred bytes for each tensor."""


@dataclass(frozen=True)
class CorpusRecord:
    """The text that a model was trained and validated on."""

    name: str
    sha256: str
    """Of the normalized text as UTF-8."""
    characters: int


@dataclass(frozen=True)
class Tools:
    """What the weights depend on besides the configuration and the text."""

    segue: str
    python: str
    torch: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """What checkpoint.json says about a model."""

    format: int = FORMAT
    model: ModelConfig
    vocabulary: Vocabulary
    normalization: str
    begin: str
    """The character that stands in for an empty prompt."""
    corpus: CorpusRecord
    recipe: str
    training: TrainingConfig
    steps: int
    """Steps that the weights have been trained for."""
    validation: Validation
    tools: Tools
    documents: Documents = "none"
    """"lines": each text is one line, read from the zero state and enclosed by line feeds."""
    history: tuple[Evaluation, ...] = ()
    taken: int = 0
    """Steps that the run had taken, of `training.steps`: at least `steps`. 0: not recorded."""
    base: Base | None = None
    """Where the run's first weights came from; None for random ones."""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}, and this segue reads format {FORMAT}")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization {self.normalization!r} is unknown")
        if self.begin not in self.vocabulary.characters[1:]:
            raise ValueError(f"begin is {self.begin!r}, which is not in the vocabulary")
        if len(self.vocabulary) != self.model.vocabulary_size:
            raise ValueError(
                f"the vocabulary has {len(self.vocabulary)} entries, the model {self.model.vocabulary_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Record):
    """A trained model: its record, and its weights named as in the fused model (see `models.convert`)."""

    weights: dict[str, Tensor] = field(compare=False, repr=False)

    def build_model(self) -> LanguageModel:
        """Return the model with these weights, ready to evaluate."""
        model = build_model(self.model)
        from_checkpoint(model, self.weights)
        return model.eval()


@dataclass(frozen=True)
class _WeightsFile:
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Document(Record):
    """checkpoint.json."""

    weights: _WeightsFile


def is_checkpoint(folder: Path) -> bool:
    """Return whether `folder` holds a checkpoint, intact or not."""
    return (folder / DOCUMENT).exists()


def serialized(weights: Mapping[str, Tensor]) -> bytes:
    """Return `weights` as a safetensors file."""
    return save({name: tensor.contiguous() for name, tensor in weights.items()})


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `folder`, replacing any other. Raises CheckpointError."""
    content = serialized(checkpoint.weights)
    sha256 = hashlib.sha256(content).hexdigest()
    weights = _WeightsFile(f"weights-{sha256[:12]}.safetensors", sha256)
    document = msgspec.json.format(msgspec.json.encode(_Document(**_record_fields(checkpoint), weights=weights)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / weights.file, content)
        write_atomically(folder / DOCUMENT, document + b"\n")
        for stale in set(folder.glob("weights-*.safetensors")) - {folder / weights.file}:
            stale.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {folder}: {error.strerror}") from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify the checkpoint in `folder`. Raises CheckpointError."""
    try:
        document = msgspec.json.decode(_read(folder / DOCUMENT, MAX_DOCUMENT_BYTES), type=_Document)
        shapes = _shapes(document.model)
        weights = _read_weights(folder, document.weights, shapes)
        _check_weights(weights, shapes)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {missing}; see segue train") from None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error.strerror}") from error
    except (ValueError, RecursionError, ConfigurationError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"the checkpoint {folder} cannot be used: {error}; train it again") from error
    return Checkpoint(**_record_fields(document), weights=weights)


def _record_fields(record: Record) -> dict[str, Any]:
    return {entry.name: getattr(record, entry.name) for entry in fields(Record)}


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shapes of the weights of such a model, by name."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in to_checkpoint(build_model(config)).items()}


def _read(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        if status.st_size > limit:
            raise ValueError(
                f"{path.name} has {status.st_size:,} bytes, more than the {limit:,} of any such checkpoint"
            )
        return file.read(status.st_size)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would be waited for


def _read_weights(folder: Path, expected: _WeightsFile, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    if Path(expected.file).name != expected.file:
        raise ValueError(f"weights.file is {expected.file!r}, which is not in the folder")
    numbers = sum(shape.numel() for shape in shapes.values())
    content = _read(folder / expected.file, torch.float32.itemsize * numbers + _MAX_HEADER_BYTES)
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected.sha256:
        raise ValueError(f"{expected.file} has SHA-256 {actual}, not {expected.sha256}")
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{expected.file} is not a safetensors file ({error})") from error


def _check_weights(weights: dict[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raise ValueError unless `weights` are finite float32 tensors of the shapes `expected`."""
    if wrong := sorted(expected.keys() ^ weights.keys()):
        raise ValueError(f"the tensor {wrong[0]} is {'missing' if wrong[0] in expected else 'unknown'}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name]:
            raise ValueError(f"{name} is {list(tensor.shape)}, not {list(expected[name])}")
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, not torch.float32")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
