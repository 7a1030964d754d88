"""Models of random weights: what a step costs and how it rounds hardly depends on what was learned."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import torch
from harness.served import make_manifest
from segue_export.artifact import MODEL_FILE, Artifact
from segue_export.graphs.quantization import halve
from segue_export.manifest import Manifest, Weights
from segue_server.engine.model import Device, Model
from segue_server.engine.runners.settings import DeviceSettings
from segue_server.engine.sequence import Sequence, State
from segue_training.models import Architecture, ModelConfig, build_model

from gpu.scale import Scale

LIVELY: Final = 3.0
"""By which the output's weights are larger than at first, so that some symbols are likelier than others."""


@dataclass(frozen=True)
class Subject:
    """A model, with float32 or float16 matrices."""

    architecture: Architecture
    layers: int
    hidden: int
    weights: str = "float32"

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.architecture} {self.layers} x {self.hidden} {self.weights}"

    @cached_property
    def artifact(self) -> Artifact:
        """The model as export writes it, without the portable graph."""
        manifest = replace(make_manifest(self.architecture, self.layers, self.hidden), files={MODEL_FILE: "00" * 32})
        return Artifact("subject", 1, *_rounded(manifest, self._tensors(manifest), self.weights))

    def on_cpu(self) -> Model:
        """Return the model on the CPU, with arrays: what the others are compared with."""
        return Model(self.artifact, Device.CPU)

    def on_device(self, scale: Scale, buckets: tuple[int, ...] | None = None) -> Model:
        """Return the model on the GPU, or on the CPU by a device's rules."""
        device = Device.CUDA if scale.on_gpu else Device.CPU
        settings = DeviceSettings(buckets or scale.buckets, simulated=not scale.on_gpu)
        return Model(self.artifact, device, settings=settings)

    def _tensors(self, manifest: Manifest) -> Weights:
        torch.manual_seed(0)
        config = ModelConfig(len(manifest.vocabulary), 64, self.hidden, self.layers, self.architecture)
        tensors = {name: tensor.detach().numpy() for name, tensor in build_model(config).state_dict().items()}
        return tensors | {"output.weight": LIVELY * tensors["output.weight"]}


def sequence(model: Model, number: int, *, reads: int = 32, writes: int = 64) -> Sequence:
    """Return sequence `number`, the same for every model of the vocabulary: it reads and then writes, both scored."""
    generator = np.random.default_rng(number)
    ids = generator.integers(1, len(model.vocabulary), reads + 1)
    state = State.after_first(int(ids[0]), model.state_shape, seed=number)
    return Sequence(state, ids[1:], writes, score_prefill=True, score_decode=True)


def _rounded(manifest: Manifest, tensors: Weights, weights: str) -> tuple[Manifest, bytes, Weights]:
    if weights == "float16":
        return replace(manifest, weights="float16"), b"", halve(tensors, manifest.layers)
    return manifest, b"", tensors
