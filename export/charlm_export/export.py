"""From a checkpoint to an artifact: build the graph, prove it against torch, write it."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from charlm_training.checkpoint import Checkpoint, load_checkpoint

from charlm_export.artifact import ARCHITECTURES, FORMAT_VERSION, CorpusDescription, Manifest, write_artifact
from charlm_export.errors import UnsupportedArchitecture
from charlm_export.graph import portable_graph
from charlm_export.parity import Parity, check_parity

_TOOLS: Final = ("charlm", "onnx", "torch")


@dataclass(frozen=True)
class Export:
    """What an export did."""

    folder: Path
    """Of the new artifact."""
    manifest: Manifest
    graph_bytes: int
    parity: Parity


def export_checkpoint(folder: Path, models: Path, name: str | None) -> Export:
    """Write the checkpoint in `folder` as the next version of `name` (None: its corpus's name) below `models`.

    Raises CheckpointError, ParityError (nothing was written), InvalidName, or ArtifactError for an architecture that
    no artifact can hold.
    """
    checkpoint = load_checkpoint(folder)
    _check_architecture(checkpoint)
    manifest = describe(checkpoint)
    graph = portable_graph(manifest, {key: tensor.numpy() for key, tensor in checkpoint.weights.items()})
    parity = check_parity(graph, manifest, checkpoint.build_model())
    target = write_artifact(models, name or manifest.corpus.name, manifest, graph)
    return Export(target, manifest, len(graph), parity)


def describe(checkpoint: Checkpoint) -> Manifest:
    """Return the manifest of an artifact made from `checkpoint`."""
    return Manifest(
        format_version=FORMAT_VERSION,
        architecture=checkpoint.model.architecture,
        layers=checkpoint.model.layers,
        hidden=checkpoint.model.hidden,
        characters=checkpoint.vocabulary.characters,
        normalization=checkpoint.normalization,
        begin=checkpoint.begin,
        corpus=_describe_corpus(checkpoint),
        validation_loss=checkpoint.validation.fresh.nats,
        recipe=checkpoint.recipe,
        tools={"python": platform.python_version()} | {tool: version(tool) for tool in _TOOLS},
        files={},
        alphabet=checkpoint.vocabulary.alphabet,
        documents=checkpoint.documents,
    )


def _describe_corpus(checkpoint: Checkpoint) -> CorpusDescription:
    corpus = checkpoint.corpus
    return CorpusDescription(corpus.name, corpus.sha256, corpus.characters, checkpoint.training.preparation)


def _check_architecture(checkpoint: Checkpoint) -> None:
    architecture = checkpoint.model.architecture
    if architecture not in ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"a model of architecture {architecture!r} carries no recurrent state, which an artifact is made to hold; "
            f"train and export one of: {', '.join(ARCHITECTURES)}"
        )
