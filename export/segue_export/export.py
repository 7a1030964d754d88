"""From a checkpoint to an artifact: build the graph, check its parity with torch, write it."""

import math
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import torch
from segue_training.data.encoding import EncodedCorpus
from segue_training.evaluation.evaluate import perplexity
from segue_training.evaluation.perplexity import Perplexity
from segue_training.models.convert import from_checkpoint
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.run_weights import RunWeights, load_run, validated

from segue_export.artifact import find_versions, read_manifest, write_artifact
from segue_export.checks.evaluation import held_out
from segue_export.checks.exported_model import ExportedModel
from segue_export.checks.float16 import float16_rise
from segue_export.checks.parity import Parity, check_parity
from segue_export.errors import DamagedArtifact, QuantizationError, UnsupportedArchitecture
from segue_export.graphs.portable import portable_graph
from segue_export.graphs.quantization import dequantize, halve, quantize
from segue_export.manifest import ARCHITECTURES, FORMAT_VERSION, CorpusDescription, Manifest, RunDescription, Weights
from segue_export.names import check_name, name_after
from segue_export.triton import write_triton_config

_TOOLS: Final = ("segue", "onnx", "torch")


@dataclass(frozen=True)
class Quantization:
    """How to store the weights, and what that may cost."""

    weights: Literal["int8", "float16"]
    text: EncodedCorpus
    """Measures the cost; of the checkpoint's own corpus only the validation part is used."""
    most: float
    """Maximum relative rise of the perplexity."""


@dataclass(frozen=True)
class Cost:
    """The perplexity before and after quantization."""

    before: Perplexity
    after: Perplexity

    @property
    def share(self) -> float:
        """The relative rise of the perplexity."""
        return math.expm1(self.after.nats - self.before.nats)


@dataclass(frozen=True)
class Export:
    """The result of an export."""

    folder: Path
    """Of the new artifact."""
    manifest: Manifest
    graph_bytes: int
    parity: Parity
    cost: Cost | None = None
    """Of quantization."""
    difference: str = ""
    """How it differs in kind from the version before; "" if it does not."""


def export_checkpoint(folder: Path, models: Path, name: str | None, quantization: Quantization | None = None) -> Export:
    """Write the weights of the run in `folder`, as `export_run` does."""
    return export_run(load_run(folder), models, name, quantization)


def export_run(  # noqa: PLR0913 - what is exported, where to, and the texts that measure it
    run: RunWeights,
    models: Path,
    name: str | None,
    quantization: Quantization | None = None,
    text: str | None = None,
    *,
    encoded: EncodedCorpus | None = None,
) -> Export:
    """Write the weights of a run as the next version of `name` (None: after its corpus) in `models`.

    A run that has not ended is validated first, on its own text; `text` is that text's new place if it has moved. On
    `encoded` it is measured what float16 would cost on a GPU; without, that stays unknown.
    Also writes `config.pbtxt` for NVIDIA Triton (see `triton`). With `quantization`, matrices are stored and multiplied
    in fewer bits. Raises CorpusError, or, as an ArtifactError, ParityError, QuantizationError (nothing is written
    then), InvalidName or UnsupportedArchitecture.
    """
    name = name_after(run.checkpoint.corpus.name) if name is None else name
    check_name(name)  # before the work
    _check_architecture(run.checkpoint)
    checkpoint = validated(run, text)
    manifest, model = describe(checkpoint), checkpoint.build_model()
    weights: Weights = {key: tensor.numpy() for key, tensor in checkpoint.weights.items()}
    cost = None
    if encoded and not quantization:
        ids, _ = held_out(encoded, manifest.corpus.sha256)
        manifest = replace(manifest, float16_rise=float16_rise(manifest, weights, ids))
    if quantization:
        exact, rounded = (manifest, weights), (quantize if quantization.weights == "int8" else halve)
        manifest, weights = replace(manifest, weights=quantization.weights), rounded(weights, manifest.layers)
        cost = _cost(exact, (manifest, weights), quantization)
        from_checkpoint(model, {k: torch.from_numpy(v) for k, v in dequantize(weights, manifest.layers).items()})
    graph = portable_graph(manifest, weights)
    parity = check_parity(graph, manifest, model)
    difference = _difference(models / name, manifest)
    target = write_artifact(models, name, manifest, graph)
    write_triton_config(target.parent, manifest)
    return Export(target, manifest, len(graph), parity, cost, difference)


def _difference(home: Path, new: Manifest) -> str:
    """Say in a line how `new` differs in kind from the newest version in `home`; "" if it does not."""
    versions = find_versions(home) if home.is_dir() else []
    if not versions:
        return ""
    try:
        old = read_manifest(versions[-1])
    except DamagedArtifact:
        return ""
    if (old.architecture, old.corpus.sha256) == (new.architecture, new.corpus.sha256):
        return ""
    return f"{home.name}/{versions[-1].name} is {_kind(old)}, and this is {_kind(new)}: --name NAME keeps them apart"


def _kind(manifest: Manifest) -> str:
    article = "a" if manifest.architecture == "gru" else "an"
    text = f"{manifest.corpus.name} ({manifest.corpus.sha256[:8]})"
    return f"{article} {manifest.architecture} trained on {text}"


def _cost(exact: tuple[Manifest, Weights], rounded: tuple[Manifest, Weights], quantization: Quantization) -> Cost:
    """Compare the perplexities that a server would compute. Raises QuantizationError if the rise is not allowed."""
    manifest, _ = exact
    text = quantization.text
    ids, _ = held_out(text, manifest.corpus.sha256)
    before, after = (
        perplexity(ExportedModel(*model), ids, manifest.vocabulary, manifest.documents) for model in (exact, rounded)
    )
    cost = Cost(before, after)
    if not cost.share <= quantization.most:  # `not` also refuses NaN
        raise QuantizationError(
            f"in {quantization.weights} the perplexity on {text.name} rises from {before.perplexity:.4f} to "
            f"{after.perplexity:.4f}, by {cost.share:.2%}, and {quantization.most:.2%} is allowed; nothing was "
            "written. Export it without --quantize, or allow more with --allow-worse"
        )
    return cost


def describe(checkpoint: Checkpoint) -> Manifest:
    """Return the manifest of `checkpoint`."""
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
        run=_describe_run(checkpoint),
    )


def _describe_corpus(checkpoint: Checkpoint) -> CorpusDescription:
    corpus = checkpoint.corpus
    return CorpusDescription(corpus.name, corpus.sha256, corpus.characters, checkpoint.training.preparation)


def _describe_run(checkpoint: Checkpoint) -> RunDescription | None:
    if checkpoint.taken == 0:  # a checkpoint that does not record it
        return None
    base = None if checkpoint.base is None else checkpoint.base.sha256
    return RunDescription(checkpoint.steps, checkpoint.taken, checkpoint.training.steps, base)


def _check_architecture(checkpoint: Checkpoint) -> None:
    architecture = checkpoint.model.architecture
    if architecture not in ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"a model of architecture {architecture!r} has no recurrent state, which artifacts require; "
            f"train and export one of: {', '.join(ARCHITECTURES)}"
        )
