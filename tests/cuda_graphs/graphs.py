"""Every graph that the server runs on CUDA, of small models of each kind."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from segue_export.artifact import MODEL_FILE, Artifact
from segue_export.graphs.quantization import halve
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.unrolled import giving_graph, taking_graph
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_export.manifest import ARCHITECTURES, CorpusDescription, Manifest, Weights, WeightType
from segue_server.engine.symbols import Symbols
from segue_training.text.vocabulary import UNKNOWN, Vocabulary

RANKED: Final = 3
"""Alternatives of the graphs that return some."""
_LAYERS, _HIDDEN, _EMBEDDED = 2, 8, 4
_GATES: Final = {"lstm": 4, "gru": 3, "gru-reset-before": 3, "rnn": 1}
_FLOAT_TYPES: Final[tuple[WeightType, ...]] = ("float32", "float16")


@dataclass(frozen=True)
class Kind:
    """A kind of model, as far as its graphs differ."""

    architecture: str
    weights: WeightType
    vocabulary: Vocabulary
    together: bool = False
    """Whether its gates are computed in one product."""

    def __str__(self) -> str:
        return f"{self.architecture}{' together' * self.together} {self.weights} {len(self.vocabulary)}"

    def graphs(self, unrolled: int) -> Iterator[tuple[str, bytes]]:
        """Yield the graphs of `unrolled` steps by name."""
        step, symbols = self._step(), Symbols.of(self.vocabulary)
        for ragged, result in product((False, True), Result):
            name = f"{self}: read {unrolled}{' ragged' * ragged} {result.value}"
            yield name, reading_graph(step, ragged=ragged, unrolled=unrolled, ranked=RANKED, result=result)
        for filtered, scored, alternatives in product((False, True), repeat=3):
            variant = WritingVariant(filtered, scored, alternatives, unrolled, ranked=RANKED)
            name = f"{self}: write {unrolled}{' filtered' * filtered}{' scored' * scored}{' ranked' * alternatives}"
            yield name, writing_graph(step, variant, symbols.automaton)

    def exchanges(self) -> Iterator[tuple[str, bytes]]:
        """Yield the graphs that exchange states with the host."""
        manifest = self._step().manifest
        yield f"{self}: give", giving_graph(manifest)
        yield f"{self}: take", taking_graph(manifest)

    @property
    def artifact(self) -> Artifact:
        """The model as export writes it, without the portable graph."""
        weights = self._weights()
        stored = halve(weights, _LAYERS) if self.weights == "float16" else weights
        return Artifact(str(self), 1, self._manifest(), b"", stored)

    def _step(self) -> Step:
        artifact = self.artifact
        return Step(artifact.manifest, artifact.weights, in_float16=True, together=self.together)

    def _manifest(self) -> Manifest:
        corpus = CorpusDescription("made up", "0" * 64, 1)
        return Manifest(
            format_version=1,
            architecture=self.architecture,
            layers=_LAYERS,
            hidden=_HIDDEN,
            characters=self.vocabulary.characters,
            normalization="line-feeds",
            begin=self.vocabulary.characters[1],
            corpus=corpus,
            validation_loss=1.0,
            recipe="small",
            tools={},
            files={MODEL_FILE: "0" * 64},
            alphabet=self.vocabulary.alphabet,
            weights=self.weights,
        )

    def _weights(self) -> Weights:
        stacked, size = _GATES[self.architecture] * _HIDDEN, len(self.vocabulary)
        shapes = {"embedding.weight": (size, _EMBEDDED), "output.weight": (size, _HIDDEN), "output.bias": (size,)}
        for k in range(_LAYERS):
            shapes[f"recurrent.weight_ih_l{k}"] = (stacked, _HIDDEN if k else _EMBEDDED)
            shapes[f"recurrent.weight_hh_l{k}"] = (stacked, _HIDDEN)
            shapes |= {f"recurrent.bias_{part}_l{k}": (stacked,) for part in ("ih", "hh")}
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}


def _characters(size: int) -> Vocabulary:
    return Vocabulary((UNKNOWN, "\n", *map(chr, range(0x4E00, 0x4E00 + size - 2))))


KINDS: Final = [
    Kind(architecture, weights, vocabulary, together)
    for architecture, together in (*product(ARCHITECTURES, [False]), ("lstm", True))
    for weights in _FLOAT_TYPES
    for vocabulary in (_characters(69), Vocabulary.of_bytes(), _characters(20_000))
]
