"""A loaded artifact, ready to read and to write."""

# Shape suffixes: L layers, B rows, T symbols read, K symbols written, H hidden, V vocabulary.

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import numpy as np
from segue_export.artifact import Artifact
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_export.manifest import Manifest
from segue_training.text.vocabulary import Vocabulary

from segue_server.engine.onnx_session import CPU, CUDA, StepSession, cuda_is_built_in, open_session
from segue_server.engine.sampling import Floats32, Ids, SamplingRows
from segue_server.engine.symbols import Symbols
from segue_server.errors import StartupError, UnfitModel

STEP_ROWS: Final = 8
"""What a step costs in addition to its rows, in rows."""


class Device(StrEnum):
    """Where a model runs."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"
    """CUDA if it works, otherwise the CPU."""


@dataclass(frozen=True)
class WriteResult:
    """What B rows wrote in K steps."""

    ids_KB: Ids
    h_LBH: Floats32
    c_LBH: Floats32
    spelling_B: Ids
    """The state of the automaton of `symbols` after the last symbol."""
    log_probabilities_KBV: Floats32 | None
    """Of all symbols at each step, under the model itself; None unless asked for."""


class Model:
    """One version of a model. Its methods may be called from one thread at a time.

    What a row gets depends on that row alone: see `self_check`.
    """

    def __init__(
        self, artifact: Artifact, device: Device = Device.CPU, threads: int = 1, *, unrolled: bool | None = None
    ) -> None:
        """Load `artifact`; raises StartupError if it cannot run on the device.

        `threads`: how many of the host's cores one step may use; `unrolled`: whether graphs repeat the nodes of a step
        instead of looping (None: on CUDA only).
        """
        self.name = artifact.name
        self.version = artifact.version
        self.manifest = artifact.manifest
        self.sha256 = artifact.sha256
        self.symbols = _symbols(artifact.manifest)
        self.state_shape = (artifact.manifest.layers, artifact.manifest.hidden)
        self.provider = _provider(artifact, device)
        self._unrolled = self.provider == CUDA if unrolled is None else unrolled
        self._threads = threads
        self._step = Step(artifact.manifest, artifact.weights, in_float16=self.provider == CUDA)
        self._even, self._ragged = (self._reading_session(ragged=ragged) for ragged in (False, True))
        self._writing = {
            (filtered, scored): self._writing_session(filtered=filtered, scored=scored)
            for filtered in (False, True)
            for scored in (False, True)
        }
        self._check_finite()

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols by id."""
        return self.manifest.vocabulary

    def read(
        self, tokens_TB: Ids, targets_TB: Ids, length_B: Ids, h_LBH: Floats32, c_LBH: Floats32
    ) -> tuple[Floats32, Floats32, Floats32]:
        """Read the first `length_B` symbols of each row; return log-probabilities [T, B] of the targets, h and c."""
        steps = len(tokens_TB)
        feed: dict[str, Any] = {"h": h_LBH, "c": c_LBH}
        session = self._even
        if (length_B < steps).any():
            session, feed["length"] = self._ragged, length_B[:, np.newaxis]
        outputs = session.run(steps, feed, {"tokens": tokens_TB, "targets": targets_TB})
        return outputs["log_probabilities"], outputs["h_out"], outputs["c_out"]

    def read_in_detail(
        self, tokens_TB: Ids, length_B: Ids, h_LBH: Floats32, c_LBH: Floats32
    ) -> tuple[Floats32, Floats32, Floats32]:
        """Read as `read` does, to the same bits; return log-probabilities [T, B, V] of all symbols, h and c."""
        feed: dict[str, Any] = {"h": h_LBH, "c": c_LBH, "length": length_B[:, np.newaxis]}
        outputs = self._detailed.run(len(tokens_TB), feed, {"tokens": tokens_TB})
        return outputs[Result.OF_ALL.value], outputs["h_out"], outputs["c_out"]

    def write(  # noqa: PLR0913, PLR0917 - the inputs of a graph
        self,
        token_B: Ids,
        h_LBH: Floats32,
        c_LBH: Floats32,
        spelling_B: Ids,
        sampling: SamplingRows,
        uniform_KB: Floats32,
        *,
        filtered: bool,
        scored: bool,
    ) -> WriteResult:
        """Write K symbols in each row, after `token_B` and the state before it was read.

        `filtered`: whether the samplings filter, of all rows alike; `scored`: whether to return log-probabilities.
        """
        feed: dict[str, Any] = {
            "token": token_B,
            "h": h_LBH,
            "c": c_LBH,
            "inverse_temperature": sampling.inverse_temperature_B1,
            "bias": sampling.bias,
        }
        if filtered:
            feed |= {"top_k": sampling.top_k_B1, "top_p": sampling.top_p_B1, "min_p": sampling.min_p_B1}
        if not self.symbols.single:
            feed["spelling"] = spelling_B
        session = self._writing[filtered, scored]
        outputs = session.run(len(uniform_KB), feed, {"uniform": uniform_KB[:, :, np.newaxis]})
        return WriteResult(
            outputs["ids"],
            outputs["h_out"],
            outputs["c_out"],
            outputs.get("spelling_out", spelling_B),
            outputs.get("log_probabilities"),
        )

    @cached_property
    def _detailed(self) -> StepSession:
        """Loaded on first use: it is rarely used and takes as much memory as any other."""
        return self._reading_session(ragged=True, result=Result.OF_ALL)

    def _reading_session(self, *, ragged: bool, result: Result = Result.OF_TARGETS) -> StepSession:
        def build(unrolled: int) -> bytes:
            return reading_graph(self._step, ragged=ragged, unrolled=unrolled, result=result)

        return StepSession(build, self.provider, self._threads, unrolled=self._unrolled)

    def _writing_session(self, *, filtered: bool, scored: bool) -> StepSession:
        def build(unrolled: int) -> bytes:
            return writing_graph(self._step, WritingVariant(filtered, scored, unrolled), self.symbols.automaton)

        return StepSession(build, self.provider, self._threads, unrolled=self._unrolled)

    def _check_finite(self) -> None:
        """Refuse a model whose first step is not finite."""
        layers, hidden = self.state_shape
        zeros = np.zeros((layers, 1, hidden), dtype=np.float32)
        first = np.zeros((1, 1), dtype=np.int64)
        outputs = self.read(first, first, np.array([1]), zeros, zeros)
        if not all(np.isfinite(output).all() for output in outputs):
            raise UnfitModel(f"model {self.name} version {self.version}: its results are not finite numbers")


def _symbols(manifest: Manifest) -> Symbols:
    ends = manifest.documents == "lines"
    return Symbols.of(manifest.vocabulary, int(manifest.vocabulary.encode(manifest.begin)[0]) if ends else None)


def _provider(artifact: Artifact, device: Device) -> str:
    """Return the execution provider to use; raises StartupError if CUDA is asked for and does not work."""
    if device is Device.CPU:
        return CPU
    reason = _why_no_cuda(artifact)
    if not reason:
        return CUDA
    if device is Device.AUTO:
        return CPU
    raise StartupError(
        f"--device cuda: {reason}. Use --device cpu, or install the extra server-gpu on a host with a GPU"
    )


def _why_no_cuda(artifact: Artifact) -> str:
    """Return why CUDA does not work here, or nothing if it does."""
    if artifact.manifest.weights == "int8":
        return "an int8 model runs on the CPU alone"
    if not cuda_is_built_in():
        return "the installed onnxruntime has no CUDA support (it is the CPU package)"
    try:
        step = Step(artifact.manifest, artifact.weights)
        session = open_session(reading_graph(step, ragged=False, unrolled=1), CUDA, 1)
    except StartupError as error:
        return str(error)
    if session.get_providers()[0] != CUDA:  # it warns and takes the CPU where CUDA does not start
        return "onnxruntime could not start CUDA here: no GPU, or no driver, CUDA or cuDNN library that fits"
    return ""
