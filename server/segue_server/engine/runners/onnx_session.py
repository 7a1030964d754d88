"""Sessions of ONNX Runtime."""

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segue_server.errors import StartupError

# By default the library reports usage to its maker, which a text service must not do. It is read on import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"

_ERRORS_ONLY: Final = 3

onnxruntime.set_default_logger_severity(_ERRORS_ONLY)  # what belongs to no session, such as its operators

Arrays = dict[str, NDArray[Any]]


def cuda_is_built_in() -> bool:
    """Return whether the installed ONNX Runtime supports CUDA; if so, load CUDA's libraries."""
    if CUDA not in onnxruntime.get_available_providers():
        return False
    onnxruntime.preload_dlls()
    return True


def cuda_major() -> int:
    """Return the major version of CUDA that the installed ONNX Runtime is built for; it must support CUDA."""
    return int(onnxruntime.cuda_version.partition(".")[0])


Given = dict[str, onnxruntime.OrtValue]
"""Constants by name. They must live as long as the sessions that share them."""


def give(constants: Mapping[str, NDArray[Any]]) -> Given:
    """Return `constants` for any number of sessions on the CPU, which then hold no copies of their own."""
    values = {name: np.ascontiguousarray(value) for name, value in constants.items()}
    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()}


def open_session(
    graph: bytes,
    provider: str,
    threads: int,
    given: Given | None = None,
    settings: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """Load a graph; raises StartupError. `given`: constants that are not in it; `settings`: of the provider."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Idle threads sleep instead of taking cores from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if given:
        options.add_external_initializers(list(given), list(given.values()))  # or it would look for a file
        for name, value in given.items():
            options.add_initializer(name, value)  # or each session would copy it
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=[(provider, dict(settings or {}))], enable_fallback=0
        )
    except Exception as error:
        raise StartupError(f"ONNX Runtime cannot load the model on {provider}: {error}") from error
