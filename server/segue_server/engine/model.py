"""A loaded artifact, ready to read and to write."""

# Shape suffixes: L layers, B rows, T symbols read, K symbols written, H hidden, V vocabulary, A alternatives.

from dataclasses import dataclass, replace
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

from segue_server.engine.onnx_session import CPU, CUDA, Arrays, StepSession, cuda_is_built_in, give, open_session
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
class Likeliest:
    """The likeliest symbols but `<unk>` at each of K or T steps, likeliest first; of equals, the lowest id first."""

    ids_KBA: Ids
    log_probabilities_KBA: Floats32


@dataclass(frozen=True)
class ReadResult:
    """What reading T symbols in each of B rows gave."""

    log_probabilities_TB: Floats32
    """Of the targets."""
    h_LBH: Floats32
    c_LBH: Floats32
    ranks_TB: Ids | None = None
    """How many symbols are likelier than each target, plus 1; None unless asked for."""
    likeliest: Likeliest | None = None


@dataclass(frozen=True)
class WriteResult:
    """What B rows wrote in K steps."""

    ids_KB: Ids
    h_LBH: Floats32
    c_LBH: Floats32
    spelling_B: Ids
    """The state of the automaton of `symbols` after the last symbol."""
    log_probabilities_KB: Floats32 | None
    """Of the symbols, under the model itself; None unless asked for."""
    likeliest: Likeliest | None = None


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
        on_cpu = self.provider == CPU
        self._step = Step(artifact.manifest, artifact.weights, in_float16=not on_cpu, gives_large=on_cpu)
        self._given = give(self._step.given)
        self._even, self._ragged = (self._reading_session(ragged=ragged) for ragged in (False, True))
        self._writing = {
            WritingVariant(filtered, scored): self._writing_session(WritingVariant(filtered, scored))
            for filtered in (False, True)
            for scored in (False, True)
        }
        self._check_finite()

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols by id."""
        return self.manifest.vocabulary

    def read(  # noqa: PLR0913 - the inputs of a graph
        self,
        tokens_TB: Ids,
        targets_TB: Ids,
        length_B: Ids,
        h_LBH: Floats32,
        c_LBH: Floats32,
        *,
        alternatives: int | None = None,
    ) -> ReadResult:
        """Read the first `length_B` symbols of each row and score the targets.

        `alternatives`: return ranks too, and this many of the likeliest symbols, or all if there are fewer. The
        log-probabilities have the same bits with and without.
        """
        steps = len(tokens_TB)
        feed: dict[str, Any] = {"h": h_LBH, "c": c_LBH}
        session = self._even
        if alternatives is not None:
            session, feed["alternatives"] = self._detailed, self._ranked(alternatives)
        elif (length_B < steps).any():
            session = self._ragged
        if session is not self._even:
            feed["length"] = length_B[:, np.newaxis]
        outputs = session.run(steps, feed, {"tokens": tokens_TB, "targets": targets_TB})
        scores, state = outputs["log_probabilities"], (outputs["h_out"], outputs["c_out"])
        if alternatives is None:
            return ReadResult(scores, *state)
        return ReadResult(scores, *state, outputs["ranks"], _likeliest(outputs))

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
        alternatives: int = 0,
    ) -> WriteResult:
        """Write K symbols in each row, after `token_B` and the state before it was read.

        `filtered`: whether the samplings filter, of all rows alike; `scored`: whether to return log-probabilities;
        `alternatives`: return them, and this many of the likeliest symbols at each step, or all if there are fewer.
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
        if alternatives:
            feed["alternatives"] = self._ranked(alternatives)
        session = self._writing_for(WritingVariant(filtered, scored or alternatives > 0, alternatives > 0))
        outputs = session.run(len(uniform_KB), feed, {"uniform": uniform_KB[:, :, np.newaxis]})
        return WriteResult(
            outputs["ids"],
            outputs["h_out"],
            outputs["c_out"],
            outputs.get("spelling_out", spelling_B),
            outputs.get("log_probabilities"),
            _likeliest(outputs) if alternatives else None,
        )

    def _ranked(self, alternatives: int) -> Ids:
        return np.array([min(alternatives, len(self.vocabulary) - 1)])

    def _writing_for(self, variant: WritingVariant) -> StepSession:
        """Load what is rarely used when it is first used."""
        if variant not in self._writing:
            self._writing[variant] = self._writing_session(variant)
        return self._writing[variant]

    @cached_property
    def _detailed(self) -> StepSession:
        """Loaded on first use: it is rarely used and takes as much memory as any other."""
        return self._reading_session(ragged=True, result=Result.IN_DETAIL)

    def _reading_session(self, *, ragged: bool, result: Result = Result.OF_TARGETS) -> StepSession:
        def build(unrolled: int) -> bytes:
            return reading_graph(self._step, ragged=ragged, unrolled=unrolled, result=result)

        return StepSession(build, self.provider, self._threads, unrolled=self._unrolled, given=self._given)

    def _writing_session(self, variant: WritingVariant) -> StepSession:
        def build(unrolled: int) -> bytes:
            return writing_graph(self._step, replace(variant, unrolled=unrolled), self.symbols.automaton)

        return StepSession(build, self.provider, self._threads, unrolled=self._unrolled, given=self._given)

    def _check_finite(self) -> None:
        """Refuse a model whose first step is not finite."""
        layers, hidden = self.state_shape
        zeros = np.zeros((layers, 1, hidden), dtype=np.float32)
        first = np.zeros((1, 1), dtype=np.int64)
        result = self.read(first, first, np.array([1]), zeros, zeros)
        if not all(np.isfinite(part).all() for part in (result.log_probabilities_TB, result.h_LBH, result.c_LBH)):
            raise UnfitModel(f"model {self.name} version {self.version}: its results are not finite numbers")


def _likeliest(outputs: Arrays) -> Likeliest:
    return Likeliest(outputs["likeliest"], outputs["likeliest_log_probabilities"])


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
