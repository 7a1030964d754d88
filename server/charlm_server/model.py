"""A loaded artifact on ONNX Runtime."""

# Shape suffixes: L layers, B batch, T time, H hidden, V vocabulary.

import os
from enum import StrEnum
from typing import Final

import numpy as np
from charlm_export.artifact import MODEL_FILE, Artifact, Manifest
from charlm_training.vocabulary import Vocabulary
from numpy.typing import NDArray

from charlm_server.errors import StartupError
from charlm_server.symbols import Symbols

# The library reports usage to its maker by default, which a text service must not; read when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"

Floats32 = NDArray[np.float32]


class Device(StrEnum):
    """Where a model runs."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"
    """CUDA where it works, otherwise the CPU."""


class Model:
    """One version of a model, ready to run. Its methods may be called from one thread at a time."""

    def __init__(self, artifact: Artifact, device: Device = Device.CPU, threads: int = 1) -> None:
        """Load `artifact`; raises StartupError where the device or the graph does not do.

        `threads` is how many of the host's cores one step may use.
        """
        self.name = artifact.name
        self.version = artifact.version
        self.manifest = artifact.manifest
        self.sha256 = artifact.sha256
        self.symbols = _symbols(artifact.manifest)
        self.state_shape = (artifact.manifest.layers, artifact.manifest.hidden)
        self._session = _session(artifact, device, threads)
        self.provider: str = self._session.get_providers()[0]
        self._check_contract()

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols by id."""
        return self.manifest.vocabulary

    def run(
        self, tokens_BT: NDArray[np.int64], h_LBH: Floats32, c_LBH: Floats32
    ) -> tuple[Floats32, Floats32, Floats32]:
        """Read T symbols in each of B rows; return logits [B, T, V] and the state after the last, h and c."""
        logits_BTV, h_LBH, c_LBH = self._session.run(
            ["logits", "h_out", "c_out"], {"tokens": tokens_BT, "h": h_LBH, "c": c_LBH}
        )
        return logits_BTV, h_LBH, c_LBH

    def _check_contract(self) -> None:
        """Refuse a graph with other inputs or outputs than the artifact's contract, or without finite results."""
        layers, hidden = self.state_shape
        expected = {
            "tokens": ("tensor(int64)", 2),
            **dict.fromkeys(("h", "c", "h_out", "c_out", "logits"), ("tensor(float)", 3)),
        }
        found = {
            value.name: (value.type, len(value.shape))
            for value in (*self._session.get_inputs(), *self._session.get_outputs())
        }
        if found != expected:
            raise StartupError(f"{self._title}: the graph's inputs and outputs are {found}, not {expected}")
        try:
            zeros = np.zeros((layers, 1, hidden), dtype=np.float32)
            logits, *_ = self.run(np.zeros((1, 1), dtype=np.int64), zeros, zeros)
        except Exception as error:
            raise StartupError(f"{self._title}: the graph does not run as its manifest says: {error}") from error
        if logits.shape != (1, 1, len(self.vocabulary)) or not np.isfinite(logits).all():
            raise StartupError(f"{self._title}: the graph's logits are not {len(self.vocabulary)} finite numbers")

    @property
    def _title(self) -> str:
        return f"model {self.name} version {self.version}"


def _symbols(manifest: Manifest) -> Symbols:
    ends = manifest.documents == "lines"
    return Symbols.of(manifest.vocabulary, int(manifest.vocabulary.encode(manifest.begin)[0]) if ends else None)


def _session(artifact: Artifact, device: Device, threads: int) -> onnxruntime.InferenceSession:
    if device is Device.CPU:
        return _open(artifact, _CPU, threads)
    session, reason = _open_on_cuda(artifact, threads)
    if session is not None:
        return session
    if device is Device.AUTO:
        return _open(artifact, _CPU, threads)
    raise StartupError(f"--device cuda: {reason}. Use --device cpu, or install charlm[server-gpu] on a host with a GPU")


def _open_on_cuda(artifact: Artifact, threads: int) -> tuple[onnxruntime.InferenceSession | None, str]:
    """Return a session that really runs on CUDA, or None and the reason why there is none."""
    if _CUDA not in onnxruntime.get_available_providers():
        return None, "the installed onnxruntime has no CUDA support (it is the CPU package)"
    onnxruntime.preload_dlls()
    try:
        session = _open(artifact, _CUDA, threads)
    except StartupError as error:
        return None, str(error)
    if session.get_providers()[0] != _CUDA:  # it warns and takes the CPU where CUDA does not start
        return None, "onnxruntime could not start CUDA here: no GPU, or no driver, CUDA or cuDNN library that fits"
    return session, ""


def _open(artifact: Artifact, provider: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads sleep instead of taking cores from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings = {"use_tf32": "0"} if provider == _CUDA else {}  # full float32, as on the CPU
    try:
        return onnxruntime.InferenceSession(
            artifact.graph, options, providers=[(provider, settings)], enable_fallback=0
        )
    except Exception as error:
        graph = f"{artifact.name}/{artifact.version}/{MODEL_FILE}"
        raise StartupError(f"ONNX Runtime cannot load {graph} with {provider}: {error}") from error
