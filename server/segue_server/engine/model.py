"""A loaded artifact, ready to read and to write."""

# Shape suffixes: L layers, B rows, H hidden.

from dataclasses import replace
from enum import StrEnum

import numpy as np
from segue_export.artifact import Artifact
from segue_export.graphs.quantization import halve
from segue_export.graphs.reading import reading_graph
from segue_export.graphs.step import Step
from segue_export.manifest import Manifest
from segue_training.text.vocabulary import Vocabulary

from segue_server.engine.runners.accelerator import Accelerator, Gpu, SimulatedAccelerator
from segue_server.engine.runners.arrays import ArrayRunner
from segue_server.engine.runners.cuda_driver import why_no_gpu
from segue_server.engine.runners.device_runner import DeviceRunner
from segue_server.engine.runners.onnx_session import CPU, CUDA, cuda_is_built_in, cuda_major, open_session
from segue_server.engine.runners.runner import Capacity, Reading, ReadResult, Rows, Runner, WriteResult, Writing
from segue_server.engine.runners.settings import MOST_FLOAT16_RISE, DeviceSettings, Precision
from segue_server.engine.sampling import Floats32
from segue_server.engine.symbols import Symbols
from segue_server.errors import StartupError, UnfitModel


class Device(StrEnum):
    """Where a model runs."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"
    """CUDA if it works, otherwise the CPU."""


class Model:
    """One version of a model. Its methods may be called from one thread at a time.

    What a row gets depends on that row alone: see `self_check`.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: Device = Device.CPU,
        threads: int = 1,
        settings: DeviceSettings = DeviceSettings(),  # noqa: B008 - frozen
    ) -> None:
        """Load `artifact`; raises StartupError if it cannot run on the device.

        `threads`: how many of the host's cores one step may use, on the CPU; `settings`: how it runs on a device.
        """
        self.name = artifact.name
        self.version = artifact.version
        self.manifest = artifact.manifest
        self.sha256 = artifact.sha256
        self.symbols = _symbols(artifact.manifest)
        self.state_shape = (artifact.manifest.layers, artifact.manifest.hidden)
        self.provider, self.why_not_cuda = _provider(artifact, device)
        self.precision = _precision(artifact.manifest, settings.precision) if self._on_device(settings) else None
        """In what a device multiplies; None on the CPU."""
        self._runner = self._load(artifact, threads, settings)
        self._check_finite()

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols by id."""
        return self.manifest.vocabulary

    @property
    def capacity(self) -> Capacity:
        """How many rows and symbols a run should have."""
        return self._runner.capacity

    def scatter(self, h_LBH: Floats32, c_LBH: Floats32) -> Rows:
        """Take states into the model's keeping."""
        return self._runner.scatter(h_LBH, c_LBH)

    def gather(self, rows: Rows) -> tuple[Floats32, Floats32]:
        """Return states as arrays [L, B, H]; h and c."""
        return self._runner.gather(rows)

    def read(self, rows: Rows, reading: Reading) -> ReadResult:
        """Read on from the states `rows`, and score."""
        return self._runner.read(rows, reading)

    def write(self, rows: Rows, writing: Writing) -> WriteResult:
        """Write on from the states `rows`."""
        return self._runner.write(rows, writing)

    def _on_device(self, settings: DeviceSettings) -> bool:
        return self.provider == CUDA or settings.simulated

    def _load(self, artifact: Artifact, threads: int, settings: DeviceSettings) -> Runner:
        if not self._on_device(settings):
            return ArrayRunner(Step(artifact.manifest, artifact.weights, gives_large=True), self.symbols, threads)
        manifest, weights = artifact.manifest, artifact.weights
        in_float16 = self.precision is Precision.FLOAT16
        if in_float16 and manifest.weights == "float32":
            manifest, weights = replace(manifest, weights="float16"), halve(weights, manifest.layers)

        def make_step(together: bool) -> Step:
            return Step(manifest, weights, in_float16=in_float16, together=together)

        tf32 = self.precision is Precision.TF32
        accelerator: Accelerator = SimulatedAccelerator() if settings.simulated else Gpu(tf32=tf32)
        return DeviceRunner(manifest, make_step, self.symbols, accelerator, settings.buckets)

    def _check_finite(self) -> None:
        """Refuse a model whose first step is not finite."""
        layers, hidden = self.state_shape
        zeros = np.zeros((layers, 1, hidden), dtype=np.float32)
        first = np.zeros((1, 1), dtype=np.int64)
        result = self.read(self.scatter(zeros, zeros), Reading(first, first, np.array([1])))
        if not (result.finite_B.all() and np.isfinite(result.log_probabilities_TB).all()):
            raise UnfitModel(f"model {self.name} version {self.version}: its results are not finite numbers")


def _symbols(manifest: Manifest) -> Symbols:
    ends = manifest.documents == "lines"
    return Symbols.of(manifest.vocabulary, int(manifest.vocabulary.encode(manifest.begin)[0]) if ends else None)


def _precision(manifest: Manifest, wanted: Precision) -> Precision:
    """Return in what a device multiplies."""
    if wanted is not Precision.AUTO:
        return wanted
    measured = manifest.float16_rise is not None and manifest.float16_rise <= MOST_FLOAT16_RISE
    return Precision.FLOAT16 if manifest.weights == "float16" or measured else Precision.FLOAT32


def _provider(artifact: Artifact, device: Device) -> tuple[str, str]:
    """Return the execution provider to use, and why it is not CUDA where the installed ONNX Runtime supports it.

    Raises StartupError if CUDA is asked for and does not work.
    """
    if device is Device.CPU or (device is Device.AUTO and not cuda_is_built_in()):
        return CPU, ""
    reason = _why_no_cuda(artifact)
    if not reason:
        return CUDA, ""
    if device is Device.AUTO:
        return CPU, reason
    raise StartupError(f"--device cuda: {reason}. Use --device cpu to serve without a GPU")


def _why_no_cuda(artifact: Artifact) -> str:
    """Return why CUDA does not work here, or nothing if it does."""
    if artifact.manifest.weights == "int8":
        return "an int8 model runs on the CPU alone"
    if not cuda_is_built_in():
        return "the installed onnxruntime has no CUDA support; install the extra server-gpu in its place"
    if reason := why_no_gpu(cuda_major()):
        return reason
    try:
        step = Step(artifact.manifest, artifact.weights)
        session = open_session(reading_graph(step, ragged=False, unrolled=1), CUDA, 1)
    except StartupError as error:
        return " ".join(str(error).split())  # CUDA's errors have several lines
    if session.get_providers()[0] != CUDA:  # it warns and takes the CPU where CUDA does not start
        return "onnxruntime could not start CUDA on this GPU, and has said why on standard error"
    return ""
